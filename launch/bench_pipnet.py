"""What `launch.bench` measures of PIPNet: ResNet-18 at 256 px with 98 landmarks and 10 neighbours.

Forward passes end with landmarks on the host; a training step makes its targets itself, as the peer's does. `decode`
is all that follows the network's maps, to be compared with `forward` at the same batch.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from configs import pipnet as pipnet_config
from jaxface import inference, parallel, training
from jaxface.systems.pipnet import decoding

LANDMARKS, NEIGHBORS, SIZE, STRIDE = 98, 10, 256, 32
TRAIN_BATCH, DECODE_BATCH = 8, 64

Works = Iterator[tuple[str, int, Callable[[], object], Mapping[str, Callable[[], object]]]]


def works() -> Works:
    """(metric, batch, ours, peers) of everything measured; the peers are empty where torch is not installed."""
    config = pipnet_config.get_config("wflw_resnet18")
    random = np.random.default_rng(0)
    face = random.random((LANDMARKS, 2))
    config.model.meanface = tuple(face.ravel())
    system = inference.build(config, "the configuration")
    params, extra = system.init(jax.random.key(0))
    votes = decoding.votes(decoding.neighbor_table(face, NEIGHBORS))
    images = random.random((DECODE_BATCH, SIZE, SIZE, 3), np.float32)
    points = random.random((TRAIN_BATCH, LANDMARKS, 2), np.float32)
    for size in (1, TRAIN_BATCH, DECODE_BATCH):
        run = functools.partial(system.raw, params, extra, {"image": images[:size]})
        yield "forward", size, run, _peers(images[:size], face, votes, None)
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, extra, 0.0), config.backend, device)
    batch = {"image": images[:TRAIN_BATCH], "points": points}
    held = [state, parallel.shard(batch, config.backend, device)]

    def train() -> None:
        held[0] = jax.block_until_ready(step(*held, {}))[0]

    yield "train_step", TRAIN_BATCH, train, _peers(images[:TRAIN_BATCH], face, votes, points)
    maps = _maps(random, SIZE // STRIDE)
    decode = jax.jit(decoding.decode)
    yield "decode", DECODE_BATCH, lambda: jax.block_until_ready(decode(maps, votes)), {}


def _maps(random: np.random.Generator, grid: int) -> dict[str, jax.Array]:
    counts = {"cls": 1, "x": 1, "y": 1, "nb_x": NEIGHBORS, "nb_y": NEIGHBORS}
    shapes = {name: (DECODE_BATCH, grid, grid, LANDMARKS * count) for name, count in counts.items()}
    return {name: jax.device_put(random.random(shape, np.float32)) for name, shape in shapes.items()}


def _peers(image: np.ndarray, face: np.ndarray, votes: decoding.Votes, points: np.ndarray | None) -> dict:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from launch import peers_pipnet

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = decoding.neighbor_table(face, NEIGHBORS)
    return peers_pipnet.pipnet(image, table, np.asarray(votes.index), points)
