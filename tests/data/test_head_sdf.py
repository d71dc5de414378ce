"""The builder of head surfaces: its records, their reproducibility, and the batches of both phases."""

import numpy as np
import pytest
import scipy.spatial
from ml_collections import ConfigDict

from jaxface.data import stream
from jaxface.data.builders import head_sdf
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.heads import closed, head_space
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.nphm import data, model

NAME = "head_sdf/makehuman"
SEED = head_sdf.SEED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("heads"))
    info = prepare(NAME, folder, examples=3, size=400)
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert counts == {"train": 12, "train_expressions": 36, "test": 8, "test_expressions": 12}
    return folder


def records(folder: str, split: str) -> list[dict]:
    return list(stream.open_dataset(NAME, folder).as_dataset(split=split).as_numpy_iterator())


def test_surfaces_lie_on_their_scan(folder):
    surface = closed.close(makehuman_head())
    seen = set()
    for record in records(folder, "train"):
        subject = int(record["subject"])
        seen.add(subject)
        (vertices,) = head_space.scans(surface, SEED, subject, [0])
        np.testing.assert_array_equal(record["anchors"], head_space.anchors(surface.head, SEED, [subject])[0])
        assert record["face_points"].shape == (300, 3) and record["nonface_points"].shape == (100, 3)
        assert record["neutral"].shape == (0, 3) and record["expression"] == 0
        for part, own in (("face", surface.face), ("nonface", ~surface.face)):
            corners = vertices[surface.triangles[own]]
            points, normals = record[f"{part}_points"], record[f"{part}_normals"]
            near = scipy.spatial.cKDTree(corners.mean(1)).query(points)[1]
            flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[near]
            flat /= np.linalg.norm(flat, axis=1, keepdims=True)
            assert np.median(np.abs(((points - corners[near, 0]) * flat).sum(1))) < 1e-3
            assert np.median((flat * normals).sum(1)) > 0.98
            np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert seen == {0, 1, 2}


def test_pairs_correspond():
    """Pairs of a scan and its translation differ by the translation; half of them have the smaller offset."""
    surface = closed.close(makehuman_head())
    (vertices,) = head_space.scans(surface, SEED, 0, [0])
    moved = vertices + np.float32([0.1, 0, -0.2])
    pairs = head_sdf.pair_record(surface, vertices, moved, 900, np.random.default_rng(0))
    np.testing.assert_allclose(pairs["posed"] - pairs["neutral"], [[0.1, 0, -0.2]] * 900, atol=1e-5)
    away = scipy.spatial.cKDTree(vertices).query(pairs["neutral"])[0]
    assert 0.004 < np.median(away) < 0.03


def test_records_are_deterministic(folder, tmp_path):
    prepare(NAME, str(tmp_path), examples=3, size=400)
    for split in ("train", "test_expressions"):
        for one, other in zip(records(folder, split), records(str(tmp_path), split), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_metadata_is_read_without_tensorflow(folder):
    metadata = model.dataset_metadata(NAME, folder)
    anchors = np.reshape(metadata["anchors"], (39, 3))
    np.testing.assert_allclose(anchors, head_space.anchors(makehuman_head(), SEED, range(3)).mean(0), atol=1e-5)
    assert metadata["subjects"] == {"train": 3, "test": 2} and metadata["scans"] == {"train": 36, "test": 12}
    with pytest.raises(UserError, match=r"launch\.prepare --dataset head_sdf/ict"):
        model.dataset_metadata("head_sdf/ict", folder)


def test_batches_of_both_phases(folder):
    config = ConfigDict({"seed": 1, "batch_size": 4})
    config.data = {"dir": folder, "dataset": NAME, "face": 70, "nonface": 5, "pairs": 50, "build_examples": 0}
    first, second = (next(data.identity_stream(config, step)) for step in (0, 2))
    again = data.identity_stream(config, 1)
    next(again)
    np.testing.assert_array_equal(next(again)["face_points"], second["face_points"])
    assert first["face_points"].shape == first["face_normals"].shape == (4, 70, 3)
    assert first["nonface_normals"].shape == (4, 5, 3) and first["anchors"].shape == (4, 39, 3)
    assert first["subject"].shape == (4,) and first["subject"].dtype == np.int32
    batch = next(data.expression_stream(config, 0))
    assert batch["neutral"].shape == batch["posed"].shape == (4, 50, 3)
    assert (batch["scan"] == batch["subject"] * head_sdf.EXPRESSIONS["train"] + batch["expression"]).all()
    assert sum(int(b["mask"].sum()) for b in data.identity_eval(config, NAME)) == 8
    assert sum(int(b["mask"].sum()) for b in data.expression_eval(config, NAME)) == 12


@pytest.mark.parametrize(
    ("variant", "options"), [("/flame", {}), ("/bfm", {}), ("", {"examples": 0}), ("", {"size": 9})]
)
def test_bad_options_are_refused(variant, options, tmp_path):
    with pytest.raises(UserError):
        prepare(f"head_sdf{variant}", str(tmp_path), **options)
