"""The training loop: bit-exact resume, where a run starts from, and when it refuses to continue."""

import gzip
import json
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import processes
import pytest
import toy

from jaxface import checkpoint, config_file, metric_writer, parallel, training
from jaxface.errors import UserError


def fit(workdir, changes=None, profile=False):
    config = toy.config(changes)
    return parallel.to_host(training.fit(toy.build(config), config, workdir, profile))


def scored(workdir):
    return [(line["step"], line.get("held_out/error")) for line in metric_writer.read(workdir)]


def test_interrupted_runs_end_with_the_same_bits(tmp_path):
    straight = fit(tmp_path / "straight")
    killed = tmp_path / "killed"
    for at in (1, 11):
        status, _ = processes.run(killed, [{"data.signal": signal.SIGKILL, "data.signal_at": at}])[0]
        assert status == -signal.SIGKILL
    status, text = processes.run(killed, [{}])[0]
    assert status == 0
    assert re.search(r"resumed at step [36] ", text)
    ended = processes.params(killed)
    np.testing.assert_array_equal(ended["params/weights/kernel"], straight.params["weights"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, fit(killed), straight)
    assert scored(killed) == scored(tmp_path / "straight")


def test_sigterm_saves_and_returns(tmp_path):
    slow = {"steps": 1000, "save_every": 1000, "data.delay_s": 0.02, "data.signal": signal.SIGTERM, "data.signal_at": 5}
    status, text = processes.run(tmp_path, [slow])[0]
    assert status == 143
    assert f"stopped by SIGTERM at step {checkpoint.steps(tmp_path)[0]}, which is saved" in text


def test_ctrl_c_saves_and_says_what_is_saved(tmp_path):
    slow = {"steps": 1000, "save_every": 1000, "data.delay_s": 0.02, "data.signal": signal.SIGINT, "data.signal_at": 5}
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, slow)
    (step,) = checkpoint.steps(tmp_path)
    assert f"stopped by Ctrl-C at step {step}; step {step} is the newest that is saved in" in str(caught.value)
    assert fit(tmp_path, {"steps": step + 1}).step == step + 1


HOLD = "import sys\nfrom jaxface.lock import locked\nwith locked(sys.argv[1], 'trains in it'): print('held'), input()"


def test_a_second_process_in_a_workdir_is_refused(tmp_path):
    command = [sys.executable, "-u", "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process trains in it \(process {other.pid} of "):
            fit(tmp_path)
        assert not (tmp_path / "checkpoints").exists()
        other.kill()
    assert fit(tmp_path).step == 12
    assert not (tmp_path / ".lock").exists()


def test_a_remote_workdir_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3://bucket/run: a remote path, which jaxface cannot read or write; mount"):
        fit("s3://bucket/run")
    with pytest.raises(UserError, match="a remote path"):
        config_file.load("s3://bucket/run")
    assert not list(tmp_path.iterdir())


def test_finished_run_only_verifies_its_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO", "jaxface.training")
    first = fit(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, fit(tmp_path), first)
    assert "resumed at step 12" in caplog.text
    data = max((tmp_path / "checkpoints" / "12" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(b"")
    jax.tree.map(np.testing.assert_array_equal, fit(tmp_path), first)
    assert "resumed at step 9" in caplog.text
    assert checkpoint.steps(tmp_path) == [12, 9, 6]


@pytest.mark.parametrize("steps, traced", [(12, [3, 4, 5, 6, 7]), (5, [3, 4])])
def test_a_profile_shows_steps_once_they_are_compiled(tmp_path, steps, traced):
    assert fit(tmp_path, {"steps": steps}, profile=True).step == steps
    (path,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train") == traced


def test_resume_order(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    first = fit(source, {"steps": 3})
    resumed = fit(target, {"steps": 4, "resume": str(source), "init": str(tmp_path / "unused")})
    assert resumed.step == 4
    assert fit(target, {"steps": 4, "resume": str(tmp_path / "unused")}).step == 4
    config = toy.config({"init": str(source)})
    state, origin = training.starting_state(toy.build(config), config, tmp_path / "fresh")
    jax.tree.map(np.testing.assert_array_equal, state.params, first.ema)
    assert state.step == 0
    assert str(source) in origin


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"init": "nowhere"}, "nowhere: no such folder"),
        ({"system": "pipnet"}, "a workdir of the system 'toy'"),
        ({"data.width": 9, "steps": 20}, "use the configuration that they were saved with"),
        ({"batch_size": 5}, "multiple of 2"),
        ({"best": "nowhere/error"}, "config.best"),
        ({"backend": "pjit"}, "unknown backend"),
    ],
)
def test_unusable_configuration_is_refused_and_nothing_changes(tmp_path, changes, message):
    if "init" not in changes:
        fit(tmp_path, {"steps": 3})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        fit(tmp_path, changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_init_of_another_shape_names_the_arrays(tmp_path):
    fit(tmp_path / "source", {"steps": 3})
    with pytest.raises(UserError, match=r"2 arrays differ.*model_state|2 arrays differ.*mean"):
        fit(tmp_path / "target", {"init": str(tmp_path / "source"), "data.width": 9})


def test_unknown_best_metric_is_refused(tmp_path):
    with pytest.raises(UserError, match="no 'held_out/eror'; choose from held_out/error, held_out/count"):
        fit(tmp_path, {"steps": 3, "best": "held_out/eror"})


@pytest.mark.parametrize("save_every", [1, 100])
def test_loss_that_is_not_finite_stops_the_run(tmp_path, save_every):
    changes = {"save_every": save_every, "log_every": 4, "data.poison": 5}
    with pytest.raises(UserError, match="not finite at step 5 .*nonfinite_5.npz") as caught:
        fit(tmp_path, changes)
    assert "\n" not in str(caught.value)
    assert np.isnan(np.load(tmp_path / "nonfinite_5.npz")["x"]).any()
    assert checkpoint.steps(tmp_path) == ([5, 4, 3] if save_every == 1 else [])


def test_loss_falls_and_best_is_tracked(tmp_path):
    fit(
        tmp_path,
        {"steps": 60, "eval_every": 20, "best": "held_out/error", "save_every": 0, "optim.schedule": "constant"},
    )
    lines = metric_writer.read(tmp_path)
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert [line["step"] for line in lines if "held_out/error" in line] == [20, 40, 60]
    assert {"loss", "mae", "grad_norm", "finite"} <= lines[0].keys()
    assert checkpoint.steps(tmp_path) == [60, 40, 20]
    events = next(tmp_path.glob("events.out.tfevents.*")).read_bytes()
    assert all(name in events for name in (b"loss", b"held_out/error", b"held_out/3"))
