"""Measures speed on this machine, one JSON line a benchmark: python -m launch.bench [--system NAME]

{"system", "metric", "batch", "ms", "peer", "peer_ms", "ratio", …}: medians of runs that alternate with those of a
baseline: stock eager PyTorch in float32 with the same threads, in a process of its own, in the faster of both memory
formats (`peers_ms` has both). ratio = ms / peer_ms; without torch the baseline's entries are null. `per_s` is batch
items per second. The peer of the metric `photo` is MediaPipe, if it is installed.
"""

import contextlib
import functools
import importlib
import json
import pathlib

from absl import flags

from . import app
from .benchmarks.baseline_process import BaselineProcess, has_torch
from .benchmarks.benchmark import measure, timed

BENCHMARKS = pathlib.Path(__file__).parent / "benchmarks"
# Each system has a file of benchmarks and one of their PyTorch baselines, NAME.py and NAME_torch.py.
SYSTEMS = sorted(path.name.removesuffix("_torch.py") for path in BENCHMARKS.glob("*_torch.py"))
SYSTEM = flags.DEFINE_enum("system", None, SYSTEMS, "measure this system only (default: all)")
SECONDS = flags.DEFINE_float("seconds", 30.0, "measuring time of each benchmark; at least 5 runs are made")


def main(argv: list[str]) -> None:
    """Prints a line as soon as it is measured."""
    del argv
    for name in [SYSTEM.value] if SYSTEM.value else SYSTEMS:
        module = importlib.import_module(f"{__package__}.benchmarks.{name}")
        with contextlib.closing(BaselineProcess(name)) if has_torch() else contextlib.nullcontext() as process:
            for benchmark in module.benchmarks():
                baselines = {}
                if benchmark.baselines and benchmark.peer != "torch":
                    runs = benchmark.baselines().items()
                    baselines = {name: functools.partial(timed, run) for name, run in runs}
                elif benchmark.baselines and process:
                    baselines = process.next_baselines()
                print(json.dumps(measure(benchmark, baselines, SECONDS.value)), flush=True)


if __name__ == "__main__":
    app.run(main)
