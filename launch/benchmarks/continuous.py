"""What `launch.bench` measures of continuous detection, of rendering heads and of reading them."""

import concurrent.futures
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import repeat

import jax
import numpy as np

from configs import continuous as continuous_config
from jaxface import inference
from jaxface.heads import scenes
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural import procedural_head
from jaxface.nn.convnext import SIZES
from launch.benchmarks.work import Run, Work, training_run

QUERIES = 68
RENDERED, RENDER_SIZE = 8, 256
TRAIN_BATCH = 8


def works() -> Iterator[Work]:
    """ConvNeXt-Tiny at 224 px with the MLP predictor on 68 queries: forward at 1 and 8, training step at 8."""
    config = continuous_config.get_config("convnext_tiny")
    config.model.drop_path, config.ema = 0.0, 0.0  # the peer has neither
    system = inference.build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((TRAIN_BATCH, 224, 224, 3), np.float32),
        "queries": random.standard_normal((TRAIN_BATCH, QUERIES, 3), np.float32),
        "points": random.standard_normal((TRAIN_BATCH, QUERIES, 2), np.float32),
    }
    predictor = inference.Predictor(config, system, params, model_state)
    for size in (1, TRAIN_BATCH):
        arrays = {name: batch[name][:size] for name in ("image", "queries")}
        run = functools.partial(predictor.raw, arrays)
        yield Work("continuous", "forward", size, run, functools.partial(_peers, *arrays.values(), None))
    valid = np.ones((TRAIN_BATCH, QUERIES), bool)
    train = training_run(system, config, params, model_state, {**batch, "valid": valid})
    yield Work("continuous", "train_step", TRAIN_BATCH, train, functools.partial(_peers, **batch))

    yield from _rendered_heads()


def _rendered_heads() -> Iterator[Work]:
    """Pictures of random procedural heads as `launch.prepare` makes them, and batches of them, read and augmented."""
    head = jax.device_put(scenes.renderable(procedural_head()))
    keys = jax.random.split(jax.random.key(0), RENDERED)

    @jax.jit
    def photograph(head: MorphableHead, key: jax.Array) -> jax.Array:
        return scenes.render(head, scenes.sample_scene(head, key, RENDER_SIZE), RENDER_SIZE).image

    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    yield Work(
        "continuous", "render", RENDERED, lambda: jax.block_until_ready([*pool.map(photograph, repeat(head), keys)])
    )
    with tempfile.TemporaryDirectory() as folder:
        config = continuous_config.get_config("quick")
        config.data.update(dir=folder, build_examples=2 * RENDERED)
        with contextlib.redirect_stdout(sys.stderr):  # TFDS tells what it prepares where only our lines may be
            stream = inference.build(config, "the configuration").train_data(0)
            next(stream)
        yield Work("continuous", "input_pipeline", config.batch_size, functools.partial(next, stream))
        stream.close()


def _peers(image: np.ndarray, queries: np.ndarray, points: np.ndarray | None) -> dict[str, Run]:
    from launch.benchmarks import continuous_torch

    return continuous_torch.continuous(image, queries, points, *SIZES["tiny"])
