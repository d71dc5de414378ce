"""The process in which PyTorch runs the baselines of `launch.bench`: baseline_process.py SYSTEM

The process reads lines: `next` moves to the next benchmark that has baselines and is answered by their names as JSON; a
name makes one run and is answered by its milliseconds. PyTorch has a process of its own because `launch.app` tunes the
memory allocator for XLA, and in one process either library slows the other one down.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable

from jaxface.errors import UserError

from .benchmark import timed


class BaselineProcess:
    """The baselines of one system, run one at a time in a child process."""

    def __init__(self, system: str):
        command = [sys.executable, "-m", __name__, system]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}  # leaves a GPU to PyTorch
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def next_baselines(self) -> dict[str, Callable[[], float]]:
        """The baselines of the next benchmark that has any, by name; each call makes one run and returns its ms."""
        names = json.loads(self._request("next"))
        return {name: lambda name=name: float(self._request(name)) for name in names}

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _request(self, line: str) -> str:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError("the process that runs PyTorch has ended; its message is above")
        return answer


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def serve(system: str) -> None:
    """Answers the lines of stdin until it is closed."""
    benchmarks, runs = importlib.import_module(f"{__package__}.{system}").benchmarks(), {}
    for line in sys.stdin:
        name = line.strip()
        if name == "next":
            runs = next(
                benchmark for benchmark in benchmarks if benchmark.baselines and benchmark.peer == "torch"
            ).baselines()
            print(json.dumps([*runs]), flush=True)
        else:
            print(timed(runs[name]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
