"""Two real processes: the same numbers as one, other numbers of hosts in between, and one SIGTERM that stops both."""

import re
import signal

import numpy as np
import processes

from jaxface import checkpoint

CONSTANT = {"optim.schedule": "constant", "save_every": 5}


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
    assert [status for status, _ in results] == [0, 0]
    stopped = int(re.search(r"stopped by SIGTERM at step (\d+)", results[0][1]).group(1))
    assert processes.params(tmp_path)["step"] == processes.params(tmp_path, host=1)["step"] == stopped
    assert checkpoint.steps(tmp_path) == [stopped]


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
