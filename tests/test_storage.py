"""Workdirs and prepared data in a bucket, through a server of this process."""

import sys

import bucket
import jax
import numpy as np
import pytest
import toy
from fsspec.registry import _registry

from jaxface import checkpoint, config_file, evaluation, metric_writer, pretrained, storage, training
from jaxface.errors import UserError

WORKDIR = f"gs://{bucket.NAME}/runs/one"


@pytest.fixture
def objects(monkeypatch):
    with bucket.served(monkeypatch) as objects:
        yield objects


def fit(workdir, changes=None):
    config = toy.config({"optim.schedule": "constant", **(changes or {})})
    return training.fit(toy.build(config), config, workdir)


def test_a_run_in_a_bucket_stops_resumes_and_is_read(objects, tmp_path, monkeypatch, caplog):
    """Numbers and files equal those of a local workdir, and nothing else is written on this machine."""
    caplog.set_level("INFO", "jaxface")
    monkeypatch.chdir(tmp_path)
    expected = fit(tmp_path / "local")
    fit(WORKDIR, {"steps": 6})
    objects["runs/one/checkpoints/9/params/unfinished"] = (10**6, b"")  # what a killed save leaves
    assert checkpoint.steps(WORKDIR) == [6, 3]
    found = fit(WORKDIR)
    assert "resumed at step 6" in caplog.text and "a bucket has no locks" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert checkpoint.steps(WORKDIR) == checkpoint.steps(tmp_path / "local") == [12, 9, 6]
    assert metric_writer.read(WORKDIR) == metric_writer.read(tmp_path / "local")
    config = config_file.load(WORKDIR)
    assert config.steps == 12
    scores = evaluation.evaluate(toy.build(config), config, WORKDIR)
    assert scores == evaluation.evaluate(toy.build(config), config, tmp_path / "local")
    folders = [
        {name.split("/")[0].split(".out.")[0] for name in storage.files(storage.path(one))}
        for one in (WORKDIR, "local")
    ]
    assert folders[0] == folders[1]
    assert [path.name for path in tmp_path.iterdir()] == ["local"]


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(objects, caplog):
    fit(WORKDIR)
    name = max(
        (name for name in objects if name.startswith("runs/one/checkpoints/12/params/")),
        key=lambda name: len(objects[name][1]),
    )
    objects.write(name, b"\0" * len(objects[name][1]))
    fit(WORKDIR)
    assert "checkpoint skipped, step 12" in caplog.text
    assert any(name.startswith("runs/one/checkpoints/12.damaged/") for name in objects)
    assert checkpoint.steps(WORKDIR) == [12, 9, 6]


def test_a_run_starts_from_another_one_in_a_bucket(objects, tmp_path):
    fit(WORKDIR)
    assert fit(tmp_path / "resumed", {"resume": WORKDIR, "steps": 15}).step == 15
    config, params, model_state = pretrained.load(WORKDIR)
    (tmp_path / "asset").mkdir()
    pretrained.save_asset(tmp_path / "asset", config, params, model_state)
    storage.copy(tmp_path / "asset", storage.path(f"gs://{bucket.NAME}/asset"))
    for source in (WORKDIR, f"gs://{bucket.NAME}/asset"):
        assert fit(tmp_path / source[-3:], {"init": source}).step == 12


def test_a_folder_in_a_bucket_is_copied_to_this_machine_once(objects, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    objects.write("data/heads/1.0.0/records", b"abc")
    objects.write("data/heads/1.0.0/inside/more", b"de")
    folder = storage.path(f"gs://{bucket.NAME}/data/heads/1.0.0")
    copied = storage.local_copy(folder)
    assert storage.files(copied) == ["inside/more", "records"] and (copied / "records").read_bytes() == b"abc"
    (copied / "records").write_bytes(b"kept")
    assert storage.local_copy(folder) == copied and (copied / "records").read_bytes() == b"kept"
    objects.write("data/heads/1.0.0/records", b"changed")
    assert (storage.local_copy(folder) / "records").read_bytes() == b"changed"


def test_without_gcsfs_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gcs", raising=False)
    bucket.forget()
    with pytest.raises(UserError, match=r"--workdir gs://b/run: a bucket needs the package gcsfs; run: pip install"):
        storage.path("gs://b/run", "--workdir")
    bucket.forget()


@pytest.mark.parametrize("folder", ["gs://", "gs:///run", "gs://b/../run", "gs://b/run[1]"])
def test_names_that_no_folder_in_a_bucket_can_have(folder):
    with pytest.raises(UserError, match="give gs://BUCKET/FOLDER"):
        storage.path(folder)
