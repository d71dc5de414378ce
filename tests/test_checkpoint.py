"""Checkpoints: retention, handling of damage, and parameters for inference."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import toy

from jaxface import checkpoint, checksums, config_file, training
from jaxface.errors import UserError

CONFIG = toy.config()


def state(step: int, ema: float = 0.9):
    system = toy.build(CONFIG)
    params, _ = system.init(jax.random.key(step))
    model_state = {"mean": np.random.default_rng(step).normal(size=4096).astype(np.float32)}
    return training.initial_state(system, params, model_state, ema).replace(step=np.int32(step))


def save(workdir: pathlib.Path, steps: dict[int, float | None], keep: int = 3) -> None:
    config_file.write(workdir, CONFIG)
    with checkpoint.Checkpoints(workdir, keep) as checkpoints:
        for step, metric in steps.items():
            checkpoints.save(state(step), metric)


def truncate(folder):
    for path in (folder / "ema").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * path.stat().st_size)


def remove(folder):
    (folder / "ema" / "manifest.ocdbt").unlink()


def flip(folder):
    """Flips one bit of the values of an array, which Orbax itself restores without an error."""
    path = max((folder / "model_state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_without_file_checksums(folder):
    """As in a run that was killed before it had written the checksums of the files."""
    flip(folder)
    (folder / checksums.NAME).unlink()


def remove_average(folder):
    """Without the moving average, inference would use other parameters."""
    shutil.rmtree(folder / "ema")
    (folder / checksums.NAME).unlink()


DAMAGES = {
    truncate: "ema/",
    zero: f"{checksums.NAME} is damaged",
    remove: "ema/manifest.ocdbt is missing",
    flip: "has another checksum",
    flip_without_file_checksums: "wrong checksum of ['model_state']['mean']",
    remove_average: "ema is missing",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_set_aside_for_the_one_before(tmp_path, caplog, damage):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path / "checkpoints" / "2")
    kernel = checkpoint.load_params(tmp_path)[0]["weights"]["kernel"]
    assert checkpoint.steps(tmp_path) == [2, 1]
    restored = checkpoint.restore(tmp_path, state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))
    np.testing.assert_array_equal(kernel, restored.ema["weights"]["kernel"])
    assert checkpoint.steps(tmp_path) == [1]
    assert (tmp_path / "checkpoints" / "2.damaged").is_dir()
    assert "checkpoint skipped, step 2: " in caplog.text
    assert DAMAGES[damage] in caplog.text
    save(tmp_path, {2: None})
    assert checkpoint.restore(tmp_path, state(0)).step == 2


def test_intact_arrays_are_used_where_every_checkpoint_is_damaged(tmp_path, caplog):
    save(tmp_path, {2: None})
    (tmp_path / "checkpoints" / "2" / "opt_state" / "_sharding").write_bytes(b"")
    np.testing.assert_array_equal(
        checkpoint.load_params(tmp_path)[0]["weights"]["kernel"], state(2).ema["weights"]["kernel"]
    )
    assert "opt_state/_sharding has another checksum" in caplog.text
    assert checkpoint.restore(tmp_path, state(0)).step == 2


@pytest.mark.parametrize("name", ["[a]", "a\\b", "a*", "a b#%"])
def test_a_workdir_may_have_any_name(tmp_path, name):
    save(tmp_path / name, {2: None})
    assert checkpoint.restore(tmp_path / name, state(0)).step == 2
    assert checkpoint.load_params(tmp_path / name)


def test_only_numbers_are_steps(tmp_path):
    save(tmp_path, {2: None})
    for name in ("²", "٣", "02", "3.damaged", "99999999999"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoint.steps(tmp_path) == [2]
    save(tmp_path, {4: None})
    assert checkpoint.steps(tmp_path) == [4, 2]


def test_saves_leave_no_descriptors_and_threads(tmp_path):
    open_files, threads = [], []
    with checkpoint.Checkpoints(tmp_path, 1) as checkpoints:
        for step in range(12):
            checkpoints.save(state(step))
            checkpoints.wait()
            open_files.append(len(os.listdir("/proc/self/fd")))
            threads.append(threading.active_count())
    assert max(open_files[3:]) <= open_files[2] and max(threads[3:]) <= threads[2]


def test_nothing_is_renamed_if_no_checkpoint_can_be_read(tmp_path):
    save(tmp_path, {1: None, 2: None})
    before = sorted(tmp_path.rglob("*"))
    other = state(0).replace(params={"weights": {"kernel": np.zeros((3, 1), np.float32)}})
    with pytest.raises(UserError, match="use the configuration that"):
        checkpoint.restore(tmp_path, other)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_newest_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: None, 4: float("nan"), 5: 2.0, 6: 4.0}, keep=2)
    assert checkpoint.steps(tmp_path) == [6, 5, 2]
    save(tmp_path, {7: 9.0, 8: 8.0}, keep=2)
    assert checkpoint.steps(tmp_path) == [8, 7, 2]
    kernel = state(8).params["weights"]["kernel"]
    np.testing.assert_array_equal(checkpoint.load_params(tmp_path)[0]["weights"]["kernel"], kernel)
    config_file.write(tmp_path, toy.config({"best": "held_out/error"}))
    kernel = state(2).params["weights"]["kernel"]
    np.testing.assert_array_equal(checkpoint.load_params(tmp_path)[0]["weights"]["kernel"], kernel)


def test_a_folder_that_is_not_a_workdir_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        config_file.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no config.json"):
        checkpoint.load_params(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        config_file.load(tmp_path)
    config_file.write(tmp_path, CONFIG)
    with pytest.raises(UserError, match="no readable checkpoint .*train first"):
        checkpoint.load_params(tmp_path)
    with pytest.raises(UserError, match="of the system 'toy', not 'pipnet'"):
        config_file.check_system(tmp_path, "pipnet")
    assert config_file.load(tmp_path).to_dict() == CONFIG.to_dict()


FULL_DISK = """
import pathlib, resource, sys
sys.path[:0] = ["tests", "."]
import jax, numpy as np
from jaxface import checkpoint
from jaxface.errors import UserError
from test_checkpoint import save, state
workdir = pathlib.Path(sys.argv[1])
save(workdir, {1: None})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
large = state(2).replace(model_state={"mean": np.random.default_rng(0).normal(size=100_000)})
try:
    with checkpoint.Checkpoints(workdir, 1) as checkpoints:
        checkpoints.save(large)
except UserError as error:
    print("error:", error)
"""


def test_full_disk_is_one_line_and_loses_nothing(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"error: cannot write to {tmp_path / 'checkpoints'}: File too large;"), done.stderr
    assert done.stdout.count("\n") == 1
    assert checkpoint.restore(tmp_path, state(0)).step == 1
