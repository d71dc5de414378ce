"""Self-trains PIPNet with a curriculum: python -m launch.self_train --config pipnet:gssl_resnet18 --workdir W

Trains the rounds in W/round_0, W/round_1, …, each on the pseudo-labels that the previous round's model predicts for
config.data.unlabelled. Prints the errors of each round on the test sets and writes them to W/rounds.json. Running the
same command again resumes. With --round0 an already trained model replaces the first round.
"""

import logging
import sys

import jax
import ml_collections
from absl import flags

from jaxface import checkpoint, evaluation, training
from jaxface.errors import UserError
from jaxface.system import System, TrainState
from jaxface.systems.pipnet import self_training

from . import app

CONFIG = app.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the rounds and of rounds.json")
ROUNDS = flags.DEFINE_list(
    "rounds", list(self_training.ROUNDS), "task of each round: std, cls1, cls2 or cls3; the first is std"
)
ROUND0 = flags.DEFINE_string("round0", None, "workdir of a model trained on the labelled data, which replaces round 0")
app.define_cluster()


def fit(system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path) -> TrainState:
    """`training.fit`; ends the process if the round was stopped by SIGTERM."""
    state = training.fit(system, config, workdir)
    if int(state.step) < config.steps:
        sys.exit(app.TERMINATED)
    return state


def main(argv: list[str]) -> None:
    """Runs all rounds that are not finished yet."""
    del argv
    config, workdir = app.config(CONFIG), app.required(WORKDIR)
    if config.system != "pipnet":
        raise UserError(f"--config: the system {config.system} has no self-training; give a config of pipnet")
    app.join_cluster()
    # Logs the errors of each round when it ends.
    logging.getLogger(self_training.__name__).setLevel(logging.INFO)
    results = self_training.run(config, workdir, fit, evaluation.compile_score, ROUNDS.value, ROUND0.value)
    if jax.process_index() == 0:
        print(self_training.table(results))
        print(f"errors of all rounds written to {workdir}/{self_training.RESULTS_FILE}")


if __name__ == "__main__":
    app.run(main)
