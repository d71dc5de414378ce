"""What is measured, how, and what the measurements of several systems share."""

import dataclasses
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from jaxface import parallel, training
from jaxface.system import Batch, System, Tree

Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing to measure: `ours` and every peer do the same work once per call and wait for its end.

    peer_share: the part of the work that a peer does, where all of it would take too long; its time is scaled up.
    """

    system: str
    metric: str
    batch: int
    ours: Run
    peers: Mapping[str, Run] = dataclasses.field(default_factory=dict)
    peer_share: float = 1.0


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
    medians = {name: median / work.peer_share for name, median in medians.items()}
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
        "peers_ms": {name: round(median, 3) for name, median in medians.items()},
        "runs": len(times["ours"]),
        "device": jax.devices()[0].device_kind,
    }


def has_torch() -> bool:
    """Whether PyTorch is installed; if so, it is given as many threads as this process may use."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return True


def training_run(system: System, config: ml_collections.ConfigDict, params: Tree, extra: Tree, batch: Batch) -> Run:
    """A training step of `system` on one device, on the same `batch` each time; it goes on from its own result."""
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, extra, 0.0), config.backend, device)
    held: list[Any] = [state, parallel.shard(batch, config.backend, device)]

    def train() -> None:
        held[0] = jax.block_until_ready(step(*held, {}))[0]

    return train
