"""Benchmarks of PIPNet: ResNet-18 at 256 px with 98 landmarks and 10 neighbours.

`forward` ends with landmarks on the host. `train_step` and its baseline compute the targets, too. `decode` is
everything after the network's maps, to be compared with `forward` at the same batch size.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from jaxface.inference import Predictor
from jaxface.system import build
from jaxface.systems.pipnet import decoding

from .benchmark import Benchmark, Run, load_config, training_run

LANDMARKS, NEIGHBORS, SIZE, STRIDE = 98, 10, 256, 32
TRAIN_BATCH, DECODE_BATCH = 8, 64


def benchmarks() -> Iterator[Benchmark]:
    """Forward at 1, 8 and 64, training step at 8, decoding at 64."""
    config = load_config("pipnet", "wflw_resnet18")
    random = np.random.default_rng(0)
    meanface = random.random((LANDMARKS, 2))
    config.model.meanface = tuple(meanface.ravel())
    system = build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    votes = decoding.votes(decoding.neighbor_table(meanface, NEIGHBORS))
    images = random.random((DECODE_BATCH, SIZE, SIZE, 3), np.float32)
    points = random.random((TRAIN_BATCH, LANDMARKS, 2), np.float32)
    predictor = Predictor(config, system, params, model_state)
    for size in (1, TRAIN_BATCH, DECODE_BATCH):
        run = functools.partial(predictor.raw, {"image": images[:size]})
        baselines = functools.partial(_baselines, images[:size], meanface, votes, None)
        yield Benchmark("pipnet", "forward", size, run, baselines)
    train = training_run(system, config, params, model_state, {"image": images[:TRAIN_BATCH], "points": points})
    baselines = functools.partial(_baselines, images[:TRAIN_BATCH], meanface, votes, points)
    yield Benchmark("pipnet", "train_step", TRAIN_BATCH, train, baselines)
    maps = _random_maps(random, SIZE // STRIDE)
    decode = jax.jit(decoding.decode)
    yield Benchmark("pipnet", "decode", DECODE_BATCH, lambda: jax.block_until_ready(decode(maps, votes)))


def _random_maps(random: np.random.Generator, grid: int) -> dict[str, jax.Array]:
    """The five maps of the network, (B,grid,grid,C) by name, filled with random numbers."""
    counts = {"cls": 1, "x": 1, "y": 1, "nb_x": NEIGHBORS, "nb_y": NEIGHBORS}
    shapes = {name: (DECODE_BATCH, grid, grid, LANDMARKS * count) for name, count in counts.items()}
    return {name: jax.device_put(random.random(shape, np.float32)) for name, shape in shapes.items()}


def _baselines(
    image: np.ndarray, meanface: np.ndarray, votes: decoding.Votes, points: np.ndarray | None
) -> dict[str, Run]:
    from . import pipnet_torch

    table = decoding.neighbor_table(meanface, NEIGHBORS)
    return pipnet_torch.pipnet(image, table, np.asarray(votes.index), points)
