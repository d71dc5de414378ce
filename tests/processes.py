"""Runs the toy system in child processes, for tests that kill a run or need several hosts."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from jaxface import parallel

TESTS = pathlib.Path(__file__).resolve().parent


def run(workdir: pathlib.Path, runs: list[dict], hosts: int = 1, devices: int = 2, timeout: float = 90) -> list:
    """Runs `fit` with each of `runs` on every host and returns [(exit status, stderr)] by host."""
    coordinator = f"127.0.0.1:{parallel.free_port()}"
    workdir.mkdir(exist_ok=True)
    children = []
    try:
        for host in range(hosts):
            order = dict(workdir=str(workdir), runs=runs[host] if hosts > 1 else runs, hosts=hosts, host=host)
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
            environment["PYTHONPATH"] = f"{TESTS}:{TESTS.parent}"
            command = [
                sys.executable,
                str(TESTS / "multihost" / "worker.py"),
                json.dumps({**order, "coordinator": coordinator}),
            ]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            children.append(subprocess.Popen(command, env=environment, **pipes))
        return [(child.returncode, text) for child in children for text in [child.communicate(timeout=timeout)[1]]]
    finally:
        for child in children:
            child.kill()
            child.wait()


def params(workdir: pathlib.Path, number: int = 0, host: int = 0) -> dict[str, np.ndarray]:
    """The parameters of `host` after its `number`-th run."""
    return dict(np.load(workdir / f"host{host}_{number}.npz"))
