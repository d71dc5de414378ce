"""Scores the model of a workdir: python -m launch.evaluate --workdir W [--dataset NAME]

Prints the metrics and writes them to W/eval.json. Everything about the model comes from W/config.json.
"""

import json

import jax
from absl import flags

from jaxface import config_file, evaluation, parallel, system

from . import app

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint")
DATASET = flags.DEFINE_string("dataset", None, "one of the system's evaluators (default: all)")
BACKEND = flags.DEFINE_enum("backend", None, parallel.BACKENDS, "how the step is mapped to devices (default: config)")
app.define_cluster()


def main(argv: list[str]) -> None:
    """Builds the system of the workdir and scores its model."""
    del argv
    workdir = app.required(WORKDIR)
    config = config_file.load(workdir)
    if BACKEND.value:
        config.backend = BACKEND.value
    if flags.FLAGS.coordinator:
        app.join_cluster()
    names = [DATASET.value] if DATASET.value else None
    results = evaluation.evaluate(system.build(config, "the configuration"), config, workdir, names)
    if jax.process_index() == 0:
        print(json.dumps(results, indent=2))
        print(f"metrics written to {workdir}/{evaluation.RESULTS_FILE}")


if __name__ == "__main__":
    app.run(main)
