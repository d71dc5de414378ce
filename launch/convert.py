"""An official PyTorch checkpoint as a workdir: python -m launch.convert --system continuous
    --config configs/continuous.py:convnext_tiny --torch convnext_tiny.pth --workdir W [--config.a.b=v]

The workdir is as if trained, at step 0: evaluate and infer read it, and training goes on from it.
"""

import jax
from absl import flags
from ml_collections import config_flags

from jaxface import checkpoint, inference, parallel, torch_weights, training
from jaxface.errors import UserError
from launch import app

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/x.py:variant; one key: --config.a.b=v", lock_config=True
)
SYSTEM = flags.DEFINE_string("system", None, "the system of the configuration")
TORCH = flags.DEFINE_string("torch", None, "checkpoint: .pth, .pt, .pth.tar or .safetensors")
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
    tensors = torch_weights.read(TORCH.value)
    system = inference.build(config, "the configuration")
    params, extra = system.from_torch(tensors, *system.init(jax.random.key(config.seed)))
    state = training.initial_state(system, params, extra, config.ema)
    checkpoint.write_config(WORKDIR.value, config)
    with checkpoint.Checkpoints(WORKDIR.value, config.keep) as checkpoints:
        checkpoints.save(parallel.replicate(state, config.backend))
    print(f"{TORCH.value} is converted: {WORKDIR.value}")


if __name__ == "__main__":
    app.run(main)
