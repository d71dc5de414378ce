"""Times of this machine, a JSON line per thing: python -m launch.bench [--system NAME]

{"system", "metric", "batch", "ms", "peer", "peer_ms", "ratio", …}: medians of runs that alternate with the peer's. The
peer is stock eager PyTorch in float32 with the same threads in a process of its own, the better of both memory formats;
ratio = ms / peer_ms, and peers_ms has both. The peer's entries are null where torch is not installed. `per_s` is batch
items per second.
"""

import contextlib
import importlib
import json

from absl import flags

from launch import app
from launch.benchmarks.work import PeerProcess, has_torch, measure

SYSTEMS = ("continuous", "pipnet", "jvcr", "deep3d", "nphm")
SYSTEM = flags.DEFINE_enum("system", None, SYSTEMS, "measure this system only (default: all)")
SECONDS = flags.DEFINE_float("seconds", 30.0, "time for each measured thing; at least 5 runs are made")


def main(argv: list[str]) -> None:
    """Prints a line as soon as it is measured."""
    del argv
    for name in [SYSTEM.value] if SYSTEM.value else SYSTEMS:
        with contextlib.closing(PeerProcess(name)) if has_torch() else contextlib.nullcontext() as process:
            for work in importlib.import_module(f"launch.benchmarks.{name}").works():
                peers = process.following() if process and work.peers else {}
                print(json.dumps(measure(work, peers, SECONDS.value)), flush=True)


if __name__ == "__main__":
    app.run(main)
