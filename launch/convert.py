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
WORKDIR = flags.DEFINE_string("workdir", None, "folder to create")
INPUTS = {
    flag: flags.DEFINE_string(flag, None, f"{name}: {conversion_input.help}")
    for name in system.names()
    for flag, conversion_input in system.conversion_inputs(name).items()
}


def main(argv: list[str]) -> None:
    """Builds the configured system, fills it from the checkpoint and saves it as step 0 of a new workdir."""
    del argv
    config, torch_file, workdir = app.config(CONFIG), app.required(TORCH), app.required(WORKDIR)
    if SYSTEM.value not in (None, config.system):
        raise UserError(f"--system: {SYSTEM.value} is not the system of --config; use {config.system}")
    if checkpoint.steps(workdir):
        raise UserError(f"{workdir} has checkpoints already; choose another --workdir")
    _set_inputs(config)
    tensors = torch_weights.read(torch_file)
    config = pretrained.copy_dependencies(workdir, config)
    config = system.resolve(config, "the configuration")
    built = system.build(config, "the configuration")
    converted = built.from_torch(tensors, *built.init(jax.random.key(config.seed)))
    config.update(converted.config)
    state = training.initial_state(built, converted.params, converted.model_state, config.ema)
    config_file.write(workdir, config)
    with checkpoint.Checkpoints(workdir, config.keep) as checkpoints:
        checkpoints.save(parallel.replicate(state, config.backend))
    for note in converted.notes:
        print(note)
    print(f"converted {torch_file} to the workdir {workdir}")


def _set_inputs(config: ml_collections.ConfigDict) -> None:
    """Sets the config keys of the flags in `INPUTS`. Raises UserError for a flag that the system does not take."""
    accepted = system.conversion_inputs(config.system)
    values = {flag: holder.value for flag, holder in INPUTS.items() if holder.value is not None}
    for flag, value in values.items():
        if flag not in accepted or not _has_key(config, accepted[flag].key):
            raise UserError(f"--{flag} is not for the system {config.system} with this --config; leave it out")
        try:
            config.update_from_flattened_dict({accepted[flag].key: accepted[flag].read(value)})
        except UserError as error:
            raise UserError(f"--{flag}: {error}") from error


def _has_key(config: ml_collections.ConfigDict, key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in (config[section] if section else config)


if __name__ == "__main__":
    app.run(main)
