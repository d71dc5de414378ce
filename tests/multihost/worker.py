"""One process of a run of the toy system: python worker.py '{"runs": [changes, …], "workdir": …, "hosts": …}'.

Each entry of `runs` is a call of `fit` in the same workdir; its parameters are saved as `host<host>_<number>.npz`.
"""

import json
import logging
import sys

import numpy as np
import toy

from jaxface import parallel, training


def main(order: dict) -> None:
    parallel.initialize(order["coordinator"], order["hosts"], order["host"])
    for number, changes in enumerate(order["runs"]):
        config = toy.config(changes)
        state = parallel.to_host(training.fit(toy.build(config), config, order["workdir"]))
        arrays = {
            "step": state.step,
            "kernel": state.params["weights"]["kernel"],
            "bias": state.params["offset"]["bias"],
        }
        np.savez(f"{order['workdir']}/host{order['host']}_{number}.npz", **arrays, mean=state.model_state["mean"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    main(json.loads(sys.argv[1]))
