"""Converts an official PyTorch checkpoint into a workdir: python -m launch.convert --system continuous
    --config configs/continuous.py:convnext_tiny --torch convnext_tiny.pth --workdir W [--config.a.b=v]

The workdir is one of a finished training at step 0: evaluate and infer read it, and training can start from it. What
the checkpoint lacks is given by further flags and stored in the workdir: PIPNet's mean face (--meanface), NPHM's mean
anchors (--anchors), and for NPHM's expression model the workdir of its identity model (--identity).
"""

import jax
import ml_collections
from absl import flags

from jaxface import checkpoint, config_file, parallel, pretrained, system, torch_weights, training
from jaxface.errors import UserError

from . import app

CONFIG = app.define_config()
SYSTEM = flags.DEFINE_string("system", None, "the system of --config, as a check")
TORCH = flags.DEFINE_string("torch", None, "checkpoint: .pth, .pt, .pth.tar or .safetensors")
WORKDIR = flags.DEFINE_string("workdir", None, "folder to make")
INPUTS = {
    flag: flags.DEFINE_string(flag, None, f"{name}: {conversion_input.help}")
    for name in system.names()
    for flag, conversion_input in system.conversion_inputs(name).items()
}


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
    _set_inputs(config)
    tensors = torch_weights.read(TORCH.value)
    config = pretrained.copy_dependencies(WORKDIR.value, config)
    config = system.resolve(config, "the configuration")
    built = system.build(config, "the configuration")
    converted = built.from_torch(tensors, *built.init(jax.random.key(config.seed)))
    config.update(converted.config)
    state = training.initial_state(built, converted.params, converted.model_state, config.ema)
    config_file.write(WORKDIR.value, config)
    with checkpoint.Checkpoints(WORKDIR.value, config.keep) as checkpoints:
        checkpoints.save(parallel.replicate(state, config.backend))
    for note in converted.notes:
        print(note)
    print(f"converted {TORCH.value} to the workdir {WORKDIR.value}")


def _set_inputs(config: ml_collections.ConfigDict) -> None:
    """Sets the config keys of the flags in `INPUTS`. Raises UserError for a flag that the system does not take."""
    known = system.conversion_inputs(config.system)
    given = {flag: holder.value for flag, holder in INPUTS.items() if holder.value is not None}
    for flag, value in given.items():
        if flag not in known or not _has_key(config, known[flag].key):
            raise UserError(f"--{flag} is not for the system {config.system} with this --config")
        try:
            config.update_from_flattened_dict({known[flag].key: known[flag].read(value)})
        except UserError as error:
            raise UserError(f"--{flag}: {error}") from error


def _has_key(config: ml_collections.ConfigDict, key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in (config[section] if section else config)


if __name__ == "__main__":
    app.run(main)
