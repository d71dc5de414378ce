"""What `launch.bench` measures of PIPNet: ResNet-18 at 256 px with 98 landmarks and 10 neighbours.

Forward passes end with landmarks on the host; a training step makes its targets itself, as the peer's does. `decode`
is all that follows the network's maps, to be compared with `forward` at the same batch.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from configs import pipnet as pipnet_config
from jaxface import inference
from jaxface.systems.pipnet import decoding
from launch.benchmarks.work import Run, Work, training_run

LANDMARKS, NEIGHBORS, SIZE, STRIDE = 98, 10, 256, 32
TRAIN_BATCH, DECODE_BATCH = 8, 64


def works() -> Iterator[Work]:
    """Everything measured."""
    config = pipnet_config.get_config("wflw_resnet18")
    random = np.random.default_rng(0)
    face = random.random((LANDMARKS, 2))
    config.model.meanface = tuple(face.ravel())
    system = inference.build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    votes = decoding.votes(decoding.neighbor_table(face, NEIGHBORS))
    images = random.random((DECODE_BATCH, SIZE, SIZE, 3), np.float32)
    points = random.random((TRAIN_BATCH, LANDMARKS, 2), np.float32)
    predictor = inference.Predictor(config, system, params, model_state)
    for size in (1, TRAIN_BATCH, DECODE_BATCH):
        run = functools.partial(predictor.raw, {"image": images[:size]})
        yield Work("pipnet", "forward", size, run, functools.partial(_peers, images[:size], face, votes, None))
    train = training_run(system, config, params, model_state, {"image": images[:TRAIN_BATCH], "points": points})
    peers = functools.partial(_peers, images[:TRAIN_BATCH], face, votes, points)
    yield Work("pipnet", "train_step", TRAIN_BATCH, train, peers)
    maps = _maps(random, SIZE // STRIDE)
    decode = jax.jit(decoding.decode)
    yield Work("pipnet", "decode", DECODE_BATCH, lambda: jax.block_until_ready(decode(maps, votes)))


def _maps(random: np.random.Generator, grid: int) -> dict[str, jax.Array]:
    counts = {"cls": 1, "x": 1, "y": 1, "nb_x": NEIGHBORS, "nb_y": NEIGHBORS}
    shapes = {name: (DECODE_BATCH, grid, grid, LANDMARKS * count) for name, count in counts.items()}
    return {name: jax.device_put(random.random(shape, np.float32)) for name, shape in shapes.items()}


def _peers(image: np.ndarray, face: np.ndarray, votes: decoding.Votes, points: np.ndarray | None) -> dict[str, Run]:
    from launch.benchmarks import pipnet_torch

    table = decoding.neighbor_table(face, NEIGHBORS)
    return pipnet_torch.pipnet(image, table, np.asarray(votes.index), points)
