"""Times of this machine, a JSON line per thing: python -m launch.bench [--system NAME]

{"system", "metric", "batch", "ms", "peer", "peer_ms", "ratio", …}: medians of runs that alternate with the peer's. The
peer is stock eager PyTorch in float32 with the same threads, the better of both memory formats; ratio = ms / peer_ms.
The peer's entries are null where torch is not installed. `per_s` is batch items per second.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat

import jax
import numpy as np
from absl import flags

from configs import continuous as continuous_config
from jaxface import inference, parallel, training
from jaxface.errors import UserError
from jaxface.heads import scenes
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural import procedural_head
from jaxface.nn.convnext import SIZES
from launch import app, bench_deep3d, bench_pipnet

SYSTEM = flags.DEFINE_string("system", None, "measure this system only (default: all)")
SECONDS = flags.DEFINE_float("seconds", 30.0, "time for each measured thing; at least 5 runs are made")

QUERIES = 68
RENDERED, RENDER_SIZE = 8, 256
TRAIN_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing to measure: `ours` and every peer do the same work once per call and wait for its end."""

    system: str
    metric: str
    batch: int
    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object]] = dataclasses.field(default_factory=dict)


def measure(work: Work, seconds: float) -> dict:
    """The JSON line of a Work: medians in milliseconds of alternating runs, after one warm-up of each."""
    runs = {"ours": work.ours, **work.peers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while len(times["ours"]) < 5 or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ms = medians.pop("ours")
    best = min(medians, key=medians.get, default=None)
    return {
        "system": work.system,
        "metric": work.metric,
        "batch": work.batch,
        "ms": round(ms, 3),
        "peer": f"torch, {best}" if best else None,
        "peer_ms": round(medians[best], 3) if best else None,
        "ratio": round(ms / medians[best], 3) if best else None,
        "per_s": round(1e3 * work.batch / ms, 1),
        "runs": len(times["ours"]),
        "device": jax.devices()[0].device_kind,
    }


def continuous() -> Iterator[Work]:
    """ConvNeXt-Tiny at 224 px with the MLP predictor on 68 queries: forward at 1 and 8, training step at 8."""
    config = continuous_config.get_config("convnext_tiny")
    config.model.drop_path, config.ema = 0.0, 0.0  # the peer has neither
    system = inference.build(config, "the configuration")
    params, extra = system.init(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((TRAIN_BATCH, 224, 224, 3), np.float32),
        "queries": random.standard_normal((TRAIN_BATCH, QUERIES, 3), np.float32),
        "points": random.standard_normal((TRAIN_BATCH, QUERIES, 2), np.float32),
    }
    for size in (1, TRAIN_BATCH):
        arrays = {name: batch[name][:size] for name in ("image", "queries")}
        run = functools.partial(system.raw, params, extra, arrays)
        yield Work("continuous", "forward", size, run, _continuous_peers(arrays["image"], arrays["queries"], None))
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, extra, 0.0), config.backend, device)
    valid = np.ones((TRAIN_BATCH, QUERIES), bool)
    held = [state, parallel.shard({**batch, "valid": valid}, config.backend, device)]

    def train() -> None:
        held[0] = jax.block_until_ready(step(*held, {}))[0]

    yield Work("continuous", "train_step", TRAIN_BATCH, train, _continuous_peers(**batch))

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
        stream = inference.build(config, "the configuration").train_data(0)
        with contextlib.redirect_stdout(sys.stderr):  # TFDS tells what it prepares where only our lines may be
            next(stream)
        yield Work("continuous", "input_pipeline", config.batch_size, functools.partial(next, stream))
        stream.close()


def _continuous_peers(image: np.ndarray, queries: np.ndarray, points: np.ndarray | None) -> dict:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    from launch import peers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return peers.continuous(image, queries, points, *SIZES["tiny"])


def pipnet() -> Iterator[Work]:
    """See `launch.bench_pipnet`."""
    for work in bench_pipnet.works():
        yield Work("pipnet", *work)


def deep3d() -> Iterator[Work]:
    """See `launch.bench_deep3d`."""
    for work in bench_deep3d.works():
        yield Work("deep3d", *work)


SYSTEMS = {"continuous": continuous, "pipnet": pipnet, "deep3d": deep3d}


def main(argv: list[str]) -> None:
    """Prints a line as soon as it is measured."""
    del argv
    if SYSTEM.value is not None and SYSTEM.value not in SYSTEMS:
        raise UserError(f"--system: nothing is measured for {SYSTEM.value!r}; choose one of {', '.join(SYSTEMS)}")
    for name in [SYSTEM.value] if SYSTEM.value else SYSTEMS:
        for work in SYSTEMS[name]():
            print(json.dumps(measure(work, SECONDS.value)), flush=True)


if __name__ == "__main__":
    app.run(main)
