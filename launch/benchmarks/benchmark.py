"""How `launch.bench` measures: the type of a benchmark, its JSON line, and a training step that all systems share."""

import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from jaxface import parallel, run_length, training
from jaxface.system import Batch, System, Tree

Run = Callable[[], object]
# Seconds between runs: PyTorch's threads spin for milliseconds after a run, on the cores that the next run needs.
PAUSE = 0.02
MIN_RUNS = 5
# Examples of an epoch: no data set is read, and the schedule of the learning rate does not change the time of a step.
EPOCH_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One measured task. `run` and every baseline do the same work once per call and wait until it is done.

    Attributes:
        system, metric, batch: keys of the JSON line.
        run: our implementation.
        baselines: `() -> runs by name` of the library `peer`. Those of PyTorch are called in a `BaselineProcess` only.
        baseline_share: the fraction of the work that the baselines do, below 1 where all of it would take too long;
            their times are divided by it.
        peer: "torch", or the name of another library, whose baselines run in the process of the benchmark.
    """

    system: str
    metric: str
    batch: int
    run: Run
    baselines: Callable[[], Mapping[str, Run]] | None = None
    baseline_share: float = 1.0
    peer: str = "torch"


def load_config(name: str, variant: str) -> ml_collections.ConfigDict:
    """The configuration `configs/<name>.py:<variant>` of the checkout or of the installed package, in steps."""
    package = __package__.removesuffix("launch.benchmarks")
    config = importlib.import_module(f"{package}configs.{name}").get_config(variant)
    return run_length.in_steps(config, EPOCH_EXAMPLES)


def timed(run: Run) -> float:
    """Milliseconds of one run."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(benchmark: Benchmark, baselines: Mapping[str, Callable[[], float]], seconds: float) -> dict:
    """The JSON line of a benchmark: medians in milliseconds of interleaved runs, after one warm-up of each.

    Args:
        benchmark: what is measured.
        baselines: by name, functions that make one run and return its milliseconds.
        seconds: measuring time; at least `MIN_RUNS` rounds are made.
    """
    runs = {"ours": lambda: timed(benchmark.run), **baselines}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while len(times["ours"]) < MIN_RUNS or time.perf_counter() < end:
        for name, run in runs.items():
            time.sleep(PAUSE)
            times[name].append(run())
    medians = {name: statistics.median(values) for name, values in times.items()}
    ms = medians.pop("ours")
    medians = {name: median / benchmark.baseline_share for name, median in medians.items()}
    best = min(medians, key=medians.get, default=None)
    return {
        "system": benchmark.system,
        "metric": benchmark.metric,
        "batch": benchmark.batch,
        "ms": round(ms, 3),
        "peer": f"{benchmark.peer}, {best}" if best else None,
        "peer_ms": round(medians[best], 3) if best else None,
        "ratio": round(ms / medians[best], 3) if best else None,
        "per_s": round(1e3 * benchmark.batch / ms, 1),
        "peers_ms": {name: round(median, 3) for name, median in medians.items()},
        "runs": len(times["ours"]),
        "device": jax.devices()[0].device_kind,
    }


def training_run(
    system: System, config: ml_collections.ConfigDict, params: Tree, model_state: Tree, batch: Batch
) -> Run:
    """A run of one training step of `system` on one device and one `batch`; each run continues the last."""
    device = jax.local_devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), config.backend, device)
    state = parallel.replicate(training.initial_state(system, params, model_state, 0.0), config.backend, device)
    arguments: list[Any] = [state, parallel.shard(batch, config.backend, device)]

    def train() -> None:
        arguments[0] = jax.block_until_ready(step(*arguments, {}))[0]

    return train
