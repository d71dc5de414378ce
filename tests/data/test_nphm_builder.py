"""The layout of the NPHM data set, with a tiny one of generated heads: its records, and an interrupted run."""

import concurrent.futures
import json
import shutil
import sys

import numpy as np
import pytest

from jaxface import meshes
from jaxface.data import nphm_jobs, nphm_scans, stream
from jaxface.data.builders import nphm
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.heads import closed, flame, head_space
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.meshes import Mesh

PEOPLE = {1: 10, 286: 3, 99: -1, 283: 1, 7: 4}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Two training people, one validation, one test person; the template mesh takes the place of the registration."""
    root = tmp_path_factory.mktemp("nphm")
    surface = closed.close(makehuman_head())
    for subject, neutral in PEOPLE.items():
        numbers = {1: (10, 11), 7: (4,), 286: (3, 5), 283: (1,)}.get(subject, ())
        for number in numbers:
            (vertices,) = head_space.scans(surface, 0, subject, [0 if number == neutral else number])
            folder = nphm_scans.scan_folder(root, subject, number)
            folder.mkdir(parents=True)
            mesh = Mesh(vertices, surface.triangles)
            # Three of FLAME's vertices span the throat: here the level y = -0.3, above is inside.
            fitted = vertices.copy()
            fitted[list(flame.THROAT)] = [[0, -0.3, 0], [0, -0.3, 1], [1, -0.3, 0]]
            for name, shape in zip(nphm_scans.FILES, (mesh, Mesh(fitted, surface.triangles), mesh), strict=True):
                (folder / name).write_bytes(meshes.encode(shape, ".ply"))
    on_face = np.zeros(len(vertices), bool)
    on_face[np.unique(surface.triangles[surface.face])] = True
    np.save(root / nphm_scans.FACE_MASK, on_face)
    (root / nphm_scans.NEUTRALS).write_text(json.dumps({str(k): v for k, v in PEOPLE.items()}))
    return root


def test_people_fall_into_the_official_splits(layout):
    assert nphm_scans.people(layout) == {"train": {1: 10, 7: 4}, "validation": {286: 3}, "test": {283: 1}}
    assert nphm_scans.expressions(layout, 1) == [10, 11]
    excluded = (nphm_scans.scan_folder(layout, 298, 23), nphm_scans.scan_folder(layout, 98, 0))
    for folder in excluded:
        folder.mkdir(parents=True)
        for name in nphm_scans.FILES:
            (folder / name).write_bytes(b"")
    assert nphm_scans.expressions(layout, 298) == nphm_scans.expressions(layout, 98) == []
    assert len(set(nphm_scans.TEST)) == 23 and len(set(nphm_scans.VALIDATION)) == 10


def test_points_of_a_scan(layout):
    folder, mask = nphm_scans.scan_folder(layout, 1, 10), nphm_scans.face_mask(layout)
    drawn = nphm_scans.surface(folder, mask, 300, 100, (0,))
    for part, count in (("face", 300), ("nonface", 100)):
        points, normals = drawn[f"{part}_points"], drawn[f"{part}_normals"]
        assert points.shape == (count, 3) and (points[:, 1] > -0.3).all()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert drawn["face_points"][:, 2].mean() > drawn["nonface_points"][:, 2].mean() + 0.1
    np.testing.assert_array_equal(nphm_scans.surface(folder, mask, 300, 100, (0,))["face_points"], drawn["face_points"])
    registered = meshes.read(folder / "registration.ply").vertices
    np.testing.assert_array_equal(nphm_scans.anchors(folder), registered[list(flame.ANCHORS)])


@pytest.fixture
def small(monkeypatch):
    """Two records of a surface and small images, to be fast."""
    monkeypatch.setitem(nphm_jobs.RECORDS, "surface", 2)
    # Threads give the same points and start faster.
    monkeypatch.setattr(nphm, "_worker_processes", lambda: concurrent.futures.ThreadPoolExecutor(1))
    monkeypatch.setattr(nphm_scans, "SIZE", (60, 60))
    monkeypatch.setattr(nphm_scans, "FOCAL_PX", 90.0)


def test_a_published_observation_is_taken(tmp_path):
    """A full map is (H*W,3) with NaN for background; obs.npy has 2500 points, some of them twice."""
    full = np.full((1000, 3), np.nan)
    full[::3] = np.arange(1002).reshape(334, 3)
    path = tmp_path / nphm_scans.SINGLE_VIEW / "001" / "10" / nphm_scans.OBSERVATION
    path.parent.mkdir(parents=True)
    np.save(path, full)
    taken = nphm_scans.observation(tmp_path, 1, 10, (0,))
    np.testing.assert_array_equal(taken, np.arange(1002, dtype=np.float32).reshape(334, 3))
    assert taken.dtype == np.float32
    for wrong, said in (
        (full[::3, 0], "real numbers"),
        (full[1::3], "none of its 333 points"),
        (b"junk", "not an .npy file"),
    ):
        path.write_bytes(wrong) if isinstance(wrong, bytes) else np.save(path, wrong)
        with pytest.raises(UserError, match=rf"obs\.npy: .*{said}"):
            nphm_scans.read_observation(path)


def test_an_interrupted_run_continues(layout, tmp_path, small):
    info = prepare("nphm", str(tmp_path), str(layout), size=200)
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert counts == {"train": 4, "train_expressions": 4, "test": 2, "test_expressions": 4, "observations": 1}
    read = stream.open_dataset("nphm", tmp_path)
    (observed,) = read.as_dataset(split="observations").as_numpy_iterator()
    assert 200 < len(observed["observation"]) <= nphm_scans.OBSERVED and observed["observation"][:, 2].mean() > 0
    pair = next(iter(read.as_dataset(split="train_expressions").as_numpy_iterator()))
    assert pair["neutral"].shape == pair["posed"].shape == (100, 3) and pair["subject"] == 0 and pair["scan"] == 0
    assert read.info.metadata["subjects"] == {"train": 2, "test": 1} and read.info.metadata["scans"]["train"] == 1
    (drawn,) = (tmp_path / "nphm" / "drawn").iterdir()
    outputs = sorted(drawn.iterdir())
    assert len(outputs) == 6 and not any(path.name.count(".") > 1 for path in outputs)
    job = nphm_jobs.Job(str(layout / "gone"), 1, 10, 10, "surface", 200, str(outputs[0]))
    assert nphm_jobs.run_job(job) == str(outputs[0]), "an existing output is not sampled again"
    lost = nphm_jobs.Job(str(layout), 1, 10, 77, "surface", 200, str(tmp_path / "lost.npz"))
    with pytest.raises(UserError, match=r"077.*scan\.ply"):
        nphm_jobs.run_job(lost)
    with pytest.raises(UserError, match=r"face\.npy is for 5"):
        nphm_scans.surface(nphm_scans.scan_folder(layout, 1, 10), np.ones(5, bool), 10, 10, (0,))


def test_a_damaged_scan_costs_itself_only(layout, tmp_path, small):
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    shutil.copytree(nphm_scans.scan_folder(copy, 1, 11), nphm_scans.scan_folder(copy, 1, 12))
    (nphm_scans.scan_folder(copy, 1, 11) / "registration.ply").write_bytes(b"ply")
    (nphm_scans.scan_folder(copy, 7, 4) / "registration.ply").write_bytes(b"ply")
    info = prepare("nphm", str(tmp_path / "data"), str(copy), size=200)
    assert set(info.metadata["failed"]) == {"001/011 (pairs)", "007/004 (surface)"}
    assert info.splits["train"].num_examples == 2 and info.splits["train_expressions"].num_examples == 4


def test_beam_gives_the_same_points(layout, tmp_path, small):
    pytest.importorskip("apache_beam")
    scans = (((1, 10, 10), "surface"), ((1, 10, 11), "pairs"), ((283, 1, 1), "observation"), ((1, 10, 77), "pairs"))

    def jobs(name: str) -> list[nphm_jobs.Job]:
        (tmp_path / name).mkdir()
        return [nphm_jobs.Job(str(layout), *scan, p, 200, str(tmp_path / name / f"{scan[2]}.npz")) for scan, p in scans]

    *complete, missing = jobs("beam")
    pipeline = nphm_jobs.beam_pipeline(["--runner=DirectRunner", "--direct_running_mode=in_memory"])
    nphm_jobs.run_with_beam([missing, *complete], pipeline)
    assert len(list((tmp_path / "beam").iterdir())) == 3, "a missing scan does not stop the others"
    for alone, job in zip(jobs("alone"), complete, strict=False):
        expected, found = np.load(nphm_jobs.run_job(alone)), np.load(job.output)
        assert expected.files == found.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(UserError, match="Apache Beam rejects --runner=Nobody"):
        nphm_jobs.beam_pipeline(["--runner=Nobody"])


def test_missing_beam_is_reported(layout, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'jaxface\[beam\]'$"):
        prepare("nphm", str(tmp_path), str(layout), size=200, beam_options=["--runner=DirectRunner"])
    with pytest.raises(UserError, match="has no option beam_options"):
        prepare("wflw", str(tmp_path), str(layout), beam_options=["--runner=DirectRunner"])


def test_an_unrelated_folder_is_reported(tmp_path, layout):
    with pytest.raises(UserError, match=r"no neutrals_open\.json; copy it .*; expected NPHM's data set: SSS/EEE"):
        nphm_scans.people(tmp_path)
    (tmp_path / nphm_scans.NEUTRALS).write_text('{"1": 0}')
    with pytest.raises(UserError, match="no neutral scan of a training person"):
        nphm_scans.people(tmp_path)
    for damaged in ("[1, 2]", "{", '{"a": 1}'):
        (tmp_path / nphm_scans.NEUTRALS).write_text(damaged)
        with pytest.raises(UserError, match=r"neutrals_open\.json: not a JSON object of subject"):
            nphm_scans.people(tmp_path)
    with pytest.raises(UserError, match=r"no face\.npy"):
        nphm_scans.face_mask(tmp_path)
