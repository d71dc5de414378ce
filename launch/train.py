"""Trains a system: python -m launch.train --config configs/NAME.py:variant --workdir W [--config.a.b=v]

Running the same command again resumes from the newest checkpoint; SIGTERM saves first. On several hosts each process
runs the same command with --coordinator (see launch/cluster).
"""

from absl import flags

from jaxface import parallel, pretrained, system, training

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
    config = system.resolve(config, "the configuration")
    state = training.fit(system.build(config, "the configuration"), config, workdir, PROFILE.value)
    if int(state.step) < config.steps:
        return app.TERMINATED
    print(f"trained {int(state.step)} steps; checkpoints, config.json and metrics.jsonl are in {workdir}")
    return 0


if __name__ == "__main__":
    app.run(main)
