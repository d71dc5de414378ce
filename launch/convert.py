"""An official PyTorch checkpoint as a workdir: python -m launch.convert --system continuous
    --config configs/continuous.py:convnext_tiny --torch convnext_tiny.pth --workdir W [--config.a.b=v]

The workdir is as if trained, at step 0: evaluate and infer read it, and training goes on from it. What the checkpoint
lacks is given beside it and goes into the workdir's config.json: PIPNet's mean face (--meanface), NPHM's mean anchors
(--anchors), and for NPHM's expression model the workdir of its identity model (--identity).
"""

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxface import checkpoint, inference, parallel, pretrained, torch_weights, training
from jaxface.errors import UserError

from . import app

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/x.py:variant; one key: --config.a.b=v", lock_config=True
)
SYSTEM = flags.DEFINE_string("system", None, "the system of the configuration")
TORCH = flags.DEFINE_string("torch", None, "checkpoint: .pth, .pt, .pth.tar or .safetensors")
MEANFACE = flags.DEFINE_string("meanface", None, "pipnet: meanface.txt, 2L numbers, the order x y x y …")
ANCHORS = flags.DEFINE_string("anchors", None, "nphm: .npy file of the mean anchors (A,3)")
IDENTITY = flags.DEFINE_string("identity", None, "nphm, expression model: workdir of the identity model")
WORKDIR = flags.DEFINE_string("workdir", None, "folder to make")


def main(argv: list[str]) -> None:
    """Builds the configured system, fills it from the checkpoint and saves it as step 0 of a new workdir."""
    del argv
    config = app.config(CONFIG)
    for name, flag in {"torch": TORCH, "workdir": WORKDIR}.items():
        if not flag.value:
            raise UserError(f"needs --{name}")
    if SYSTEM.value not in (None, config.system):
        raise UserError(f"--system is {SYSTEM.value}, but --config is of the system {config.system}")
    if checkpoint.steps(WORKDIR.value):
        raise UserError(f"{WORKDIR.value} has checkpoints already; choose another --workdir")
    _fill(config)
    tensors = torch_weights.read(TORCH.value)
    config = pretrained.copy_dependencies(WORKDIR.value, config)
    system = inference.build(config, "the configuration")
    params, model_state = system.from_torch(tensors, *system.init(jax.random.key(config.seed)))
    state = training.initial_state(system, params, model_state, config.ema)
    checkpoint.write_config(WORKDIR.value, config)
    with checkpoint.Checkpoints(WORKDIR.value, config.keep) as checkpoints:
        checkpoints.save(parallel.replicate(state, config.backend))
    print(f"{TORCH.value} is converted: {WORKDIR.value}")


def _fill(config: ml_collections.ConfigDict) -> None:
    """Puts what is given beside the checkpoint under its key. UserError: not for this system, a file that is none."""
    given = {
        "meanface": (MEANFACE.value, config.get("model", {}), read_meanface),
        "anchors": (ANCHORS.value, config.get("model", {}), read_anchors),
        "identity": (IDENTITY.value, config, str),
    }
    for key, (value, place, read) in given.items():
        if value is not None:
            if key not in place:
                raise UserError(f"--{key} is not for the system {config.system}")
            place[key] = read(value)


def read_meanface(path: str) -> tuple[float, ...]:
    """The 2L numbers x y x y … of a mean face in crop units. UserError: no such file, not an even count of numbers."""
    try:
        with open(path, encoding="utf-8") as file:
            numbers = tuple(float(word) for word in file.read().split())
    except OSError as error:
        raise UserError(f"--meanface: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--meanface: {path} is not a text of numbers x y x y … ({error})") from error
    if not numbers or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise UserError(f"--meanface: {path} has {len(numbers)} numbers; it holds x and y of every landmark")
    return numbers


def read_anchors(path: str) -> tuple[float, ...]:
    """The 3A numbers of mean anchors (A,3). UserError: no such file, another shape, NaN."""
    try:
        anchors = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"--anchors: {path} cannot be read: {error.strerror or 'not an .npy file'}") from error
    except Exception as error:  # a damaged or foreign file fails in many ways
        raise UserError(f"--anchors: {path} is not an .npy file of numbers ({error})") from error
    anchors = np.squeeze(anchors)
    if anchors.ndim != 2 or anchors.shape[1] != 3 or anchors.dtype.kind != "f" or not np.isfinite(anchors).all():
        raise UserError(f"--anchors: {path} holds {anchors.dtype} {anchors.shape}; it must be finite floats (A,3)")
    return tuple(anchors.reshape(-1).tolist())


if __name__ == "__main__":
    app.run(main)
