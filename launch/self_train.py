"""PIPNet's self-training with curriculum:

python -m launch.self_train --config configs/pipnet.py:gssl_resnet18 --workdir W

Trains the rounds in W/round_0, W/round_1, …, each on the labels that the last one's model found in
config.data.unlabelled, prints the errors of each on the test sets and writes them to W/rounds.json. Running the same
command again goes on. With --round0 a model that was trained before takes the place of the first round.
"""

import jax
from absl import flags
from ml_collections import config_flags

from jaxface import evaluation, training
from jaxface.errors import UserError
from jaxface.systems.pipnet import self_training
from launch import app, hosts

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/pipnet.py:variant; one key: --config.a.b=v", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the rounds and of rounds.json")
ROUNDS = flags.DEFINE_list(
    "rounds", list(self_training.ROUNDS), "what pseudo-labels teach in each round, the first std"
)
ROUND0 = flags.DEFINE_string("round0", None, "workdir of a model trained on the labelled data, to begin with round 1")


def main(argv: list[str]) -> None:
    """Runs all rounds that are not done yet."""
    del argv
    config = app.config(CONFIG)
    if not WORKDIR.value:
        raise UserError("needs --workdir W")
    if config.system != "pipnet":
        raise UserError(f"self-training is for pipnet, not for {config.system}")
    hosts.join()
    results = self_training.run(
        config, WORKDIR.value, training.fit, evaluation.compile_score, ROUNDS.value, ROUND0.value
    )
    if jax.process_index() == 0:
        print(self_training.table(results))
        print(f"written to {WORKDIR.value}/{self_training.RESULTS_FILE}")


if __name__ == "__main__":
    app.run(main)
