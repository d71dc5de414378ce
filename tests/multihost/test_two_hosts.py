"""Several real processes: the same numbers as one, other numbers of hosts in between, signals, and lost hosts.

By default the toy system; JAXFACE_ALL_SYSTEMS=1 adds all systems (minutes: `docs/scale.md`).
"""

import os
import re
import signal
import time

import batches
import numpy as np
import processes
import pytest

from jaxface import checkpoint, hosts

CONSTANT = {"optim.schedule": "constant", "save_every": 5}
ALL = bool(os.environ.get("JAXFACE_ALL_SYSTEMS"))
ENDED_WITHIN_S = 60.0


def test_two_hosts_equal_one_and_hand_over_to_each_other(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    steps = [{**CONSTANT, "steps": steps} for steps in (5, 8, 12)]
    assert processes.run(one, steps, devices=4)[0][0] == 0
    assert [status for status, _ in processes.run(two, [steps[:1]] * 2, hosts=2)] == [0, 0]
    close(processes.params(two), processes.params(one))
    close(processes.params(two, host=1), processes.params(one))
    assert processes.run(two, steps[1:2], devices=4)[0][0] == 0
    close(processes.params(two), processes.params(one, 1))
    data = max((two / "checkpoints" / "8" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(b"\0" * data.stat().st_size)
    results = processes.run(two, [steps[2:]] * 2, hosts=2)
    assert [status for status, _ in results] == [0, 0]
    assert all("checkpoint skipped, step 8" in text for _, text in results)
    assert "resumed at step 5" in results[0][1]
    assert checkpoint.steps(two) == [12, 10, 5]
    close(processes.params(two), processes.params(one, 2))


def test_sigterm_to_one_of_two_saves_the_same_step_on_both(tmp_path):
    slow = {"steps": 1000, "save_every": 1000, "data.delay_s": 0.02}
    results = processes.run(tmp_path, [[slow], [{**slow, "data.signal": signal.SIGTERM, "data.signal_at": 5}]], hosts=2)
    assert [status for status, _ in results] == [143, 143]
    stopped = int(re.search(r"stopped by SIGTERM at step (\d+)", results[0][1]).group(1))
    assert processes.params(tmp_path)["step"] == processes.params(tmp_path, host=1)["step"] == stopped
    assert checkpoint.steps(tmp_path) == [stopped]


@pytest.mark.parametrize(
    "sent, lost", [(signal.SIGSTOP, 1), (signal.SIGKILL, 0), (signal.SIGKILL, 2)][: None if ALL else 1]
)
def test_a_lost_host_ends_the_others_with_one_line(tmp_path, sent, lost):
    changes = {"steps": 1000, "save_every": 3, "batch_size": 12, "data.delay_s": 0.02}
    check_loss(tmp_path, "toy", sent, lost, changes, lost_after_s=4.0)


@pytest.mark.skipif(not ALL, reason="minutes; set JAXFACE_ALL_SYSTEMS=1")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", batches.CONFIGS)
def test_every_system_loses_a_host_and_resumes_on_two_and_on_one(tmp_path, name, sent):
    changes = {"steps": 1000, "save_every": 3, "batch_size": 12}
    check_loss(tmp_path, name, sent, 2, changes, hosts.LOST_AFTER_S)
    (saved, *_) = checkpoint.steps(tmp_path)
    results = processes.run(tmp_path, [[{**changes, "steps": saved + 3}]] * 2, 2, timeout=600, config=name)
    assert [status for status, _ in results] == [0, 0], "\n".join(text[-3000:] for _, text in results)
    assert f"resumed at step {saved}" in results[0][1]
    ((status, text),) = processes.run(tmp_path, [{**changes, "steps": saved + 6}], timeout=600, config=name)
    assert status == 0, text
    assert processes.params(tmp_path)["step"] == saved + 6


def check_loss(workdir, name: str, sent: signal.Signals, lost: int, changes: dict, lost_after_s: float) -> None:
    """Three hosts, one gets a signal at step 12: the others end within a minute, and what was saved is intact."""
    runs = [[{**changes, "data.signal": sent, "data.signal_at": 12} if host == lost else changes] for host in range(3)]
    results = processes.run(workdir, runs, 3, 1, timeout=600, config=name, lost_after_s=lost_after_s)
    ended = time.time()
    for host, (status, text) in enumerate(results):
        if host != lost:
            assert status == 75, text
            (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
            assert line.startswith(f"error: host {lost} ") and line.endswith("run the same command again to resume")
            assert not re.search(r"Traceback|\*\*\*|SIGABRT|F0000", text), text
    assert 3 <= checkpoint.steps(workdir)[0] <= 12
    seconds = ended - float(re.search(rf"signal {sent:d} at ([\d.]+)", results[lost][1]).group(1))
    print(f"{name}, {sent.name} to host {lost} of 3: the others ended after {seconds:.1f} s")
    assert seconds < ENDED_WITHIN_S


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
