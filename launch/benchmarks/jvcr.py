"""What `launch.bench` measures of JVCR: the published network at 256 px, four hourglasses and the volume of 64.

A training step is one of the joint phase and draws its volumes itself; the peer is given them.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from configs import jvcr as jvcr_config
from jaxface import inference
from launch.benchmarks.work import Run, Work, training_run

TRAIN_BATCH = 8


def works() -> Iterator[Work]:
    """Everything measured."""
    config = jvcr_config.get_config("clean")
    config.loss.pretrain = 0
    size, count = config.model.image_size, config.model.points
    system = inference.build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.random((TRAIN_BATCH, size, size, 3), np.float32)
    predictor = inference.Predictor(config, system, params, model_state)
    for batch in (1, TRAIN_BATCH):
        run = functools.partial(predictor.raw, {"image": images[:batch]})
        yield Work("jvcr", "forward", batch, run, functools.partial(_peers, config, images[:batch], None, None))
    flags = np.ones((TRAIN_BATCH, count), bool)
    places = random.uniform(0, size, (TRAIN_BATCH, count, 3)).astype(np.float32)
    batch = {"image": images, "coordinates": places, "valid": flags, "in_volume": flags}
    volumes = [np.asarray(volume) for volume in system.preprocess_on_device(batch, jax.random.key(0), {})["volumes"]]
    train = training_run(system, config, params, model_state, batch)
    peers = functools.partial(_peers, config, images, places / (size - 1), volumes)
    yield Work("jvcr", "train_step", TRAIN_BATCH, train, peers)


def _peers(config, images: np.ndarray, target: np.ndarray | None, volumes: list[np.ndarray] | None) -> dict[str, Run]:
    from launch.benchmarks import jvcr_torch

    return jvcr_torch.jvcr(config.model, images, target, volumes)
