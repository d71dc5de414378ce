"""What `launch.bench` measures of JVCR: the published network at 256 px, four hourglasses and the volume of 64.

A training step is one of the joint phase and draws its volumes itself; the peer is given them.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from configs import jvcr as jvcr_config
from jaxface import inference, parallel, training

TRAIN_BATCH = 8

Works = Iterator[tuple[str, int, Callable[[], object], Mapping[str, Callable[[], object]]]]


def works() -> Works:
    """(metric, batch, ours, peers) of everything measured; the peers are empty where torch is not installed."""
    config = jvcr_config.get_config("clean")
    config.loss.pretrain = 0
    size, count = config.model.image_size, config.model.points
    system = inference.build(config, "the configuration")
    params, extra = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.random((TRAIN_BATCH, size, size, 3), np.float32)
    for batch in (1, TRAIN_BATCH):
        run = functools.partial(system.raw, params, extra, {"image": images[:batch]})
        yield "forward", batch, run, _peers(config, images[:batch], None, None)
    flags = np.ones((TRAIN_BATCH, count), bool)
    places = random.uniform(0, size, (TRAIN_BATCH, count, 3)).astype(np.float32)
    batch = {"image": images, "coordinates": places, "known": flags, "drawn": flags}
    volumes = [np.asarray(volume) for volume in system.prepare(batch, jax.random.key(0), {})["volumes"]]
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, extra, 0.0), config.backend, device)
    held = [state, parallel.shard(batch, config.backend, device)]

    def train() -> None:
        held[0] = jax.block_until_ready(step(*held, {}))[0]

    yield "train_step", TRAIN_BATCH, train, _peers(config, images, places / (size - 1), volumes)


def _peers(config, images: np.ndarray, target: np.ndarray | None, volumes: list[np.ndarray] | None) -> dict:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from launch import peers_jvcr

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return peers_jvcr.jvcr(config.model, images, target, volumes)
