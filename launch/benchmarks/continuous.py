"""Benchmarks of continuous landmark detection, of rendering heads, and of the input pipeline."""

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

from jaxface.heads import scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead
from jaxface.inference import Predictor
from jaxface.nn.convnext import SIZES
from jaxface.system import build

from .benchmark import Benchmark, Run, load_config, training_run

NUM_QUERIES = 68
RENDER_BATCH, RENDER_SIZE = 8, 256
# Side of the images of the input pipeline, in pixels.
IMAGE_SIZE = 96
TRAIN_BATCH = 8


def benchmarks() -> Iterator[Benchmark]:
    """ConvNeXt-Tiny at 224 px with the MLP predictor on 68 queries: forward at 1 and 8, training step at 8."""
    config = load_config("continuous", "convnext_tiny")
    config.model.drop_path, config.ema = 0.0, 0.0  # the baseline has neither
    system = build(config, "the configuration")
    params, model_state = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((TRAIN_BATCH, 224, 224, 3), np.float32),
        "queries": random.standard_normal((TRAIN_BATCH, NUM_QUERIES, 3), np.float32),
        "points": random.standard_normal((TRAIN_BATCH, NUM_QUERIES, 2), np.float32),
    }
    predictor = Predictor(config, system, params, model_state)
    for size in (1, TRAIN_BATCH):
        arrays = {name: batch[name][:size] for name in ("image", "queries")}
        run = functools.partial(predictor.raw, arrays)
        yield Benchmark("continuous", "forward", size, run, functools.partial(_baselines, *arrays.values(), None))
    valid = np.ones((TRAIN_BATCH, NUM_QUERIES), bool)
    train = training_run(system, config, params, model_state, {**batch, "valid": valid})
    yield Benchmark("continuous", "train_step", TRAIN_BATCH, train, functools.partial(_baselines, **batch))
    yield _render()
    yield from _input_pipeline()


def _render() -> Benchmark:
    """Images of random embedded heads, as `launch.prepare` renders them."""
    head = jax.device_put(scenes.renderable(makehuman_head()))
    keys = jax.random.split(jax.random.key(0), RENDER_BATCH)

    @jax.jit
    def render(head: MorphableHead, key: jax.Array) -> jax.Array:
        return scenes.render(head, scenes.sample_scene(head, key, RENDER_SIZE), RENDER_SIZE).image

    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def run() -> None:
        jax.block_until_ready([*pool.map(render, repeat(head), keys)])

    return Benchmark("continuous", "render", RENDER_BATCH, run)


def _input_pipeline() -> Iterator[Benchmark]:
    """Batches of rendered heads, read and augmented."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("continuous", "rendered")
        config.model.image_size = IMAGE_SIZE
        config.data.update(datasets=("rendered_heads/makehuman",), evaluate=())
        config.data.update(dir=folder, build_examples=2 * RENDER_BATCH)
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it prepares; stdout is for the JSON lines
            stream = build(config, "the configuration").train_data(0)
            next(stream)
        yield Benchmark("continuous", "input_pipeline", config.batch_size, functools.partial(next, stream))
        stream.close()


def _baselines(image: np.ndarray, queries: np.ndarray, points: np.ndarray | None) -> dict[str, Run]:
    from . import continuous_torch

    return continuous_torch.continuous(image, queries, points, *SIZES["tiny"])
