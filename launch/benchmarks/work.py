"""What is measured, how, and what the measurements of several systems share."""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from jaxface import parallel, training
from jaxface.errors import UserError
from jaxface.system import Batch, System, Tree

Run = Callable[[], object]
# Seconds before each run: PyTorch's threads go on spinning for milliseconds after theirs, on the cores of the next one.
PAUSE = 0.02


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing to measure: `ours` and every peer do the same work once per call and wait for its end.

    peers: makes the peers' runs; it needs torch and is called in their own process only, see `PeerProcess`.
    peer_share: the part of the work that a peer does, where all of it would take too long; its time is scaled up.
    """

    system: str
    metric: str
    batch: int
    ours: Run
    peers: Callable[[], Mapping[str, Run]] | None = None
    peer_share: float = 1.0


class PeerProcess:
    """The process in which PyTorch runs as its users have it: `launch.app` sets up memory for ours, and in one process
    either library makes the other one slower."""

    def __init__(self, system: str):
        command = [sys.executable, "-m", "launch.benchmarks.peer", system]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}  # a GPU is left to PyTorch
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def following(self) -> dict[str, Callable[[], float]]:
        """The peers of the next Work that has some; each call makes one run and gives its milliseconds."""
        names = json.loads(self._answer("next"))
        return {name: lambda name=name: float(self._answer(name)) for name in names}

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, asked: str) -> str:
        self._process.stdin.write(f"{asked}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError("the process that runs PyTorch has ended; its message is above")
        return answer


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def timed(run: Run) -> float:
    """Milliseconds of one run."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(work: Work, peers: Mapping[str, Callable[[], float]], seconds: float) -> dict:
    """The JSON line of a Work: medians in milliseconds of alternating runs, after one warm-up of each.

    `peers`: each makes one run and gives its milliseconds.
    """
    runs = {"ours": lambda: timed(work.ours), **peers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while len(times["ours"]) < 5 or time.perf_counter() < end:
        for name, run in runs.items():
            time.sleep(PAUSE)
            times[name].append(run())
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


def training_run(
    system: System, config: ml_collections.ConfigDict, params: Tree, model_state: Tree, batch: Batch
) -> Run:
    """A training step of `system` on one device, on the same `batch` each time; it goes on from its own result."""
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, model_state, 0.0), config.backend, device)
    held: list[Any] = [state, parallel.shard(batch, config.backend, device)]

    def train() -> None:
        held[0] = jax.block_until_ready(step(*held, {}))[0]

    return train
