"""The peers of a system's works, run one by one as `launch.bench` asks: python -m launch.benchmarks.peer SYSTEM

A line "next" is answered by the names of the peers of the next work that has some, a name by the milliseconds of a run.
"""

import importlib
import json
import sys

from launch.benchmarks.work import timed


def main(system: str) -> None:
    """Answers until there are no more lines."""
    works, runs = importlib.import_module(f"launch.benchmarks.{system}").works(), {}
    for line in sys.stdin:
        name = line.strip()
        if name == "next":
            runs = next(work for work in works if work.peers).peers()
            print(json.dumps([*runs]), flush=True)
        else:
            print(timed(runs[name]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
