"""Benchmarks of JVCR: the published network at 256 px, four hourglasses and a volume of 64 cells in depth.

`train_step` is one of the joint phase and includes computing the target volumes; the baseline gets them as inputs.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from jaxface.inference import Predictor
from jaxface.system import build

from .benchmark import Benchmark, Run, load_config, training_run

TRAIN_BATCH = 8


def benchmarks() -> Iterator[Benchmark]:
    """Forward at 1 and 8, training step at 8."""
    config = load_config("jvcr", "clean")
    config.loss.pretrain = 0
    size, count = config.model.image_size, config.model.points
    system = build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.random((TRAIN_BATCH, size, size, 3), np.float32)
    predictor = Predictor(config, system, params, model_state)
    for batch_size in (1, TRAIN_BATCH):
        run = functools.partial(predictor.raw, {"image": images[:batch_size]})
        baselines = functools.partial(_baselines, config, images[:batch_size], None, None)
        yield Benchmark("jvcr", "forward", batch_size, run, baselines)
    valid = np.ones((TRAIN_BATCH, count), bool)
    points = random.uniform(0, size, (TRAIN_BATCH, count, 3)).astype(np.float32)
    batch = {"image": images, "coordinates": points, "valid": valid, "in_volume": valid}
    volumes = [np.asarray(volume) for volume in system.preprocess_on_device(batch, jax.random.key(0), {})["volumes"]]
    train = training_run(system, config, params, model_state, batch)
    baselines = functools.partial(_baselines, config, images, points / (size - 1), volumes)
    yield Benchmark("jvcr", "train_step", TRAIN_BATCH, train, baselines)


def _baselines(
    config, images: np.ndarray, target: np.ndarray | None, volumes: list[np.ndarray] | None
) -> dict[str, Run]:
    from . import jvcr_torch

    return jvcr_torch.jvcr(config.model, images, target, volumes)
