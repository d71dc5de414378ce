"""One process of a run: python worker.py '{"runs": [changes, …], "workdir": …, "hosts": …}'.

Each entry of `runs` is a call of `fit` in the same workdir; the parameters are saved as `host<host>_<number>.npz`.
`config` names the system: "toy", or a file of configs/, whose smoke variant trains on random batches. The process ends
with the exit status of a launcher.
"""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator

import batches
import jax
import ml_collections
import numpy as np
import toy
from absl import flags

from jaxface import parallel, system, training
from jaxface.system import System
from launch import app


def main(order: dict) -> int:
    parallel.initialize(order["coordinator"], order["hosts"], order["host"], order["lost_after_s"])
    status = 0
    for number, changes in enumerate(order["runs"]):
        config, built = toy_run(changes) if order["config"] == "toy" else random_run(order["config"], changes)
        state = parallel.to_host(training.fit(built, config, order["workdir"]))
        leaves = jax.tree_util.tree_leaves_with_path(
            {"params": state.params, "model_state": state.model_state, "step": state.step}
        )
        arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        np.savez(f"{order['workdir']}/host{order['host']}_{number}.npz", **arrays)
        status = app.TERMINATED if int(state.step) < config.steps else 0
    return status


def toy_run(changes: dict) -> tuple[ml_collections.ConfigDict, System]:
    config = toy.config(changes)
    return config, toy.build(config)


def random_run(name: str, changes: dict) -> tuple[ml_collections.ConfigDict, System]:
    """The smoke variant of configs/`name`.py on random batches, without evaluation."""
    changes = dict(changes)
    signal, at = changes.pop("data.signal", 0), changes.pop("data.signal_at", -1)
    config = batches.config(name)
    config.data.evaluate, config.best = (), ""
    config.update_from_flattened_dict(changes)
    built = system.build(config, "the test")

    def train_data(step: int) -> Iterator[dict[str, np.ndarray]]:
        share = parallel.local_batch_size(config.batch_size)
        first = jax.process_index() * share
        while True:
            if step == at:
                toy.signal_itself(signal)
                time.sleep(1)
            batch = batches.batch(config, config.batch_size, step)
            yield {key: values[first : first + share] for key, values in batch.items()}
            step += 1

    return config, dataclasses.replace(built, train_data=train_data)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    flags.FLAGS(sys.argv[:1])
    given = json.loads(sys.argv[1])
    sys.exit(app.call(lambda argv: main(given), sys.argv[:1]))
