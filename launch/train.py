"""Trains a system: python -m launch.train --config configs/x.py:variant --workdir W [--config.a.b=v]

Running the same command again goes on from the newest checkpoint. SIGTERM saves first. On several hosts every one of
them runs this with --coordinator (see launch/cluster).
"""

from absl import flags
from ml_collections import config_flags

from jaxface import inference, parallel, pretrained, training
from jaxface.errors import UserError
from launch import app, hosts

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/x.py:variant; one key: --config.a.b=v", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: configuration, checkpoints, metrics")
PROFILE = flags.DEFINE_bool("profile", False, "trace a few steps into the folder profile of the run")
BACKEND = flags.DEFINE_enum("backend", None, parallel.BACKENDS, "how the step is put on the devices (default: config)")


def main(argv: list[str]) -> None:
    """Builds the system that the configuration names and trains it in the workdir."""
    del argv
    config = app.config(CONFIG)
    if not WORKDIR.value:
        raise UserError("needs --workdir W")
    if BACKEND.value:
        config.backend = BACKEND.value
    hosts.join()
    config = pretrained.copy_dependencies(WORKDIR.value, config)
    training.fit(inference.build(config, "the configuration"), config, WORKDIR.value, PROFILE.value)
    print(f"checkpoints, config.json and metrics.jsonl lie in {WORKDIR.value}")


if __name__ == "__main__":
    app.run(main)
