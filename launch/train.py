"""Trains a system: python -m launch.train --config configs/NAME.py:variant --workdir W [--config.a.b=v]

Running the same command again resumes from the newest checkpoint; SIGTERM saves first. On several hosts each process
runs the same command with --coordinator (see launch/cluster).
"""

import ml_collections
from absl import flags

from jaxface import config_file, parallel, pretrained, run_length, storage, system, training

from . import app

CONFIG = app.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: configuration, checkpoints, metrics")
PROFILE = flags.DEFINE_bool("profile", False, "trace a few steps into W/profile, for TensorBoard and Perfetto")
BACKEND = flags.DEFINE_enum("backend", None, parallel.BACKENDS, "how the step is mapped to devices (default: config)")
app.define_cluster()


def main(argv: list[str]) -> int:
    """Builds the system that the configuration names and trains it in the workdir; returns the exit status."""
    del argv
    config, workdir = app.config(CONFIG), app.required(WORKDIR)
    if BACKEND.value:
        config.backend = BACKEND.value
    app.join_cluster()
    config = pretrained.copy_dependencies(workdir, config)
    config = continued(config, workdir)
    config = system.resolve(config, "the configuration")
    state = training.fit(system.build(config, "the configuration"), config, workdir, PROFILE.value)
    if int(state.step) < config.steps:
        return app.TERMINATED
    print(f"trained {int(state.step)} steps; checkpoints, config.json and metrics.jsonl are in {workdir}")
    return 0


def continued(config: ml_collections.ConfigDict, workdir: str) -> ml_collections.ConfigDict:
    """A copy of the configuration with what a run of this workdir keeps: its layouts, and steps derived from epochs.

    Layouts were found when the run began, or by launch.layout.
    """
    config = config.copy_and_resolve_references()
    if not (storage.path(workdir) / config_file.NAME).is_file():
        return config
    stored = config_file.load(workdir)
    if "layouts" in config:
        with config.unlocked():
            config.layouts = {**stored.get("layouts", {}), **config.layouts}
    return run_length.continued(config, stored)


if __name__ == "__main__":
    app.run(main)
