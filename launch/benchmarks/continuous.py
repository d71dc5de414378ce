"""Benchmarks of continuous landmark detection, of rendering heads, and of the input pipeline."""

import concurrent.futures
import contextlib
import functools
import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import repeat

import jax
import numpy as np
from PIL import Image

from jaxface import folders, input_processes
from jaxface.heads import scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead
from jaxface.inference import ACCURATE, FAST, Predictor
from jaxface.nn.convnext import SIZES
from jaxface.system import Batch, build

from .benchmark import Benchmark, Run, load_config, training_run

NUM_QUERIES = 68
RENDER_BATCH, RENDER_SIZE = 8, 256
# Batches that are read in a run of the input pipeline, and size of its data set.
PIPELINE_BATCHES, PIPELINE_EXAMPLES = 32, 64
# Values of `config.input_processes` that are compared; with 1 this process prepares the batches, without a worker.
INPUT_PROCESSES = (1, 2)
# Side of the images of the input pipeline, in pixels.
IMAGE_SIZE = 96
TRAIN_BATCH = 8
FOLDER_PHOTOS = 48


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
    train = training_run(system, config, params, model_state, {**batch, "valid": valid, "asked": valid})
    yield Benchmark("continuous", "train_step", TRAIN_BATCH, train, functools.partial(_baselines, **batch))
    yield from _files()
    yield _render()
    yield from _input_pipeline()


def _files() -> Iterator[Benchmark]:
    """One photograph, from its file to landmarks, compared with MediaPipe if installed; and a folder of photographs.

    Both with the accurate and with the fast model.
    """
    import skimage.data

    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{number}.jpg" for number in range(FOLDER_PHOTOS)]
        for path in paths:
            Image.fromarray(skimage.data.astronaut()).save(path)
        for model, suffix in ((ACCURATE, ""), (FAST, "_fast")):
            predictor = Predictor.pretrained("continuous", model)
            run = functools.partial(predictor, paths[0])
            yield Benchmark("continuous", f"photo{suffix}", 1, run, _mediapipe(paths[0]), peer="mediapipe")
            run = functools.partial(_infer_folder, predictor, folder)
            yield Benchmark("continuous", f"folder{suffix}", FOLDER_PHOTOS, run)


def _infer_folder(predictor: Predictor, folder: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        folders.infer_files(predictor, folder, output, None, False, {}, print)


def _mediapipe(path: pathlib.Path) -> Callable[[], dict[str, Run]] | None:
    """MediaPipe's face mesh on one photograph; None if it is not installed."""
    if importlib.util.find_spec("mediapipe") is None:
        return None

    def baselines() -> dict[str, Run]:
        import mediapipe

        mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=False)
        return {"face mesh": lambda: mesh.process(np.asarray(Image.open(path).convert("RGB")))}

    return baselines


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
    """Batches of rendered heads, read and augmented: each run from a stream of its own, then from streams that run on.

    A run from a stream of its own pays for its start. A stream that runs on has filled its buffer before a run, so that
    its rows are only comparable with each other: they show what `config.input_processes` gains.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("continuous", "rendered")
        config.model.image_size = IMAGE_SIZE
        config.data.update(datasets=("rendered_heads/makehuman",), evaluate=())
        config.data.update(dir=folder, build_examples=PIPELINE_EXAMPLES)
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it prepares; stdout is for the JSON lines
            system = build(config, "the configuration")
            next(system.train_data(0))

        examples = PIPELINE_BATCHES * config.batch_size

        def run() -> None:
            with contextlib.closing(system.train_data(0)) as stream:
                _take(stream)

        yield Benchmark("continuous", "input_pipeline", examples, run)
        for count in INPUT_PROCESSES:
            config.input_processes = count
            with input_processes.train_data(system, config, 0) as stream:
                yield Benchmark("continuous", f"input_processes_{count}", examples, functools.partial(_take, stream))


def _take(stream: Iterator[Batch]) -> None:
    for _ in range(PIPELINE_BATCHES):
        next(stream)


def _baselines(image: np.ndarray, queries: np.ndarray, points: np.ndarray | None) -> dict[str, Run]:
    from . import continuous_torch

    return continuous_torch.continuous(image, queries, points, *SIZES["tiny"])
