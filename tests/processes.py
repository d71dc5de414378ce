"""Runs a system in child processes, for tests that kill a run or need several hosts."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

from jaxface import parallel

TESTS = pathlib.Path(__file__).resolve().parent


def run(
    workdir: pathlib.Path,
    runs: list[dict],
    hosts: int = 1,
    devices: int = 2,
    timeout: float = 90,
    config: str = "toy",
    lost_after_s: float = 30.0,
) -> list:
    """Runs `fit` with each of `runs` on every host and returns [(exit status, stderr)] by host.

    With several hosts `runs` has a list for each. A host that stops itself (SIGSTOP) is killed when the others ended.
    """
    coordinator = f"127.0.0.1:{parallel.free_port()}"
    workdir.mkdir(exist_ok=True)
    children = []
    try:
        for host in range(hosts):
            order = dict(workdir=str(workdir), runs=runs[host] if hosts > 1 else runs, hosts=hosts, host=host)
            order |= {"config": config, "lost_after_s": lost_after_s, "coordinator": coordinator}
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
            environment["PYTHONPATH"] = f"{TESTS}:{TESTS.parent}"
            command = [sys.executable, str(TESTS / "multihost" / "worker.py"), json.dumps(order)]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            children.append(subprocess.Popen(command, env=environment, **pipes))
        stops = [_stops_itself(one) for one in (runs if hosts > 1 else [runs])]
        texts = {}
        for host in sorted(range(hosts), key=lambda host: stops[host]):
            if stops[host]:
                children[host].kill()
            texts[host] = children[host].communicate(timeout=timeout)[1]
        return [(child.returncode, texts[host]) for host, child in enumerate(children)]
    finally:
        for child in children:
            child.kill()
            child.wait()


def _stops_itself(runs: list[dict]) -> bool:
    return any(changes.get("data.signal") == signal.SIGSTOP for changes in runs)


def params(workdir: pathlib.Path, number: int = 0, host: int = 0) -> dict[str, np.ndarray]:
    """The parameters, `model_state` and step of `host` after its `number`-th run, by path: "params/weights/kernel"."""
    return dict(np.load(workdir / f"host{host}_{number}.npz"))
