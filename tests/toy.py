"""A tiny System for tests of the shared code: linear regression whose data is a function of (seed, step).

`config.data` can make it fail: a batch that is not finite, a slow stream, a signal that the process sends to itself.
"""

import os
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import lax

from jaxface import optim, parallel
from jaxface.system import Converted, Evaluator, System

FEATURES = 8
TRUTH = np.linspace(-1, 1, FEATURES, dtype=np.float32)
OPTIM = {"name": "adamw", "lr": 0.05, "schedule": "cosine", "warmup": 2, "weight_decay": 0.01, "clip": 1.0}


def config(changes: dict | None = None) -> ml_collections.ConfigDict:
    """The configuration of a run of 12 steps that saves at every third; `changes` by dotted name."""
    values = dict(
        system="toy", seed=0, steps=12, batch_size=8, log_every=4, save_every=3, keep=3, eval_every=6, ema=0.9,
        backend="pmap", resume="", init="", prefetch=2, input_processes=1, best="",
        optim={**OPTIM, "betas": (0.9, 0.99), "multipliers": {"offset": 0.5}},
        data={"width": FEATURES, "poison": -1, "delay_s": 0.0, "signal": 0, "signal_at": -1},
    )  # fmt: skip
    config = ml_collections.ConfigDict(values)
    config.update_from_flattened_dict(changes or {})
    return config


def signal_itself(number: int) -> None:
    """Sends a signal to this process, after a line on stderr that says when."""
    print(f"signal {number} at {time.time():.3f}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)


def examples(seed: int, first: int, count: int) -> dict[str, np.ndarray]:
    """`count` examples of the endless set, from number `first`."""
    rng = np.random.default_rng((seed, first))
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    return {"x": x, "y": x @ TRUTH + 0.5}


def build(config: ml_collections.ConfigDict) -> System:
    """The regression y = x w + b with a running mean of x as `model_state` and noise from the step's key."""

    def init(key):
        kernel = jax.random.normal(key, (config.data.width, 1))
        params = {"weights": {"kernel": kernel}, "offset": {"bias": jnp.zeros(1)}}
        return params, {"mean": jnp.zeros(config.data.width)}

    def predict(params, model_state, x):
        return ((x - model_state["mean"]) @ params["weights"]["kernel"] + params["offset"]["bias"])[:, 0]

    def loss(params, model_state, batch, key, step, constants):
        noise = 0.01 * jax.random.normal(key, ())
        mean = lax.pmean(batch["x"].mean(0), parallel.AXIS)
        error = predict(params, model_state, batch["x"]) - constants["scale"] * batch["y"]
        model_state = {"mean": 0.9 * model_state["mean"] + 0.1 * mean}
        return jnp.mean(error**2) + noise * params["offset"]["bias"].sum(), (
            model_state,
            {"mae": jnp.abs(error).mean()},
        )

    def train_data(step: int) -> Iterator[dict[str, np.ndarray]]:
        share = parallel.local_batch_size(config.batch_size)
        while True:
            batch = examples(config.seed, step, config.batch_size)
            if step == config.data.poison:
                batch["x"][-1] = np.nan
            if step == config.data.signal_at:
                signal_itself(config.data.signal)
            time.sleep(config.data.delay_s)
            first = jax.process_index() * share
            yield {name: array[first : first + share] for name, array in batch.items()}
            step += 1

    def eval_data() -> Iterator[dict[str, np.ndarray]]:
        """Ten examples in all, in batches of four per host, padded at the end."""
        batch = examples(99, 0, 10)
        for first in range(0, 10, 4 * jax.process_count()):
            chosen = first + 4 * jax.process_index() + np.arange(4)
            yield {**{name: array[np.minimum(chosen, 9)] for name, array in batch.items()}, "mask": chosen < 10}

    def score(params, model_state, batch, constants):
        error = jnp.abs(predict(params, model_state, batch["x"]) - constants["scale"] * batch["y"])
        return {"error": error, "picture": jnp.tile(error[:, None, None, None], (1, 8, 8, 3)).clip(0, 1)}

    def summarise(arrays):
        return {"error": arrays["error"].mean(), "count": len(arrays["error"])}

    return System(
        init=init,
        loss=loss,
        optimizer=optim.optimizer(config.optim, config.steps, config.batch_size),
        train_data=train_data,
        evaluators={"held_out": Evaluator(eval_data, score, summarise, config.eval_every)},
        predict=lambda params, model_state, photo: predict(params, model_state, photo),
        raw=lambda params, model_state, arrays: {"y": predict(params, model_state, arrays["x"])},
        inputs={"x": f"B, {config.data.width}"},
        from_torch=lambda tensors, params, model_state: Converted(params, model_state),
        constants=lambda: {"scale": np.float32(1.0)},
    )
