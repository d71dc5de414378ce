"""`launch.fit --register --training_set`: the layout that launch.prepare reads, from scans with known points."""

import concurrent.futures
import json
import subprocess
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
from launch import fit_dataset, scan_files

# The neutral scan of anna is known by its name, that of bob by its weights.
EXPRESSIONS = {"anna": {"a_smile": 1, "b_neutral": 0}, "bob": {"a": 0, "b": 3}}


@pytest.fixture(scope="module")
def template() -> closed.ClosedHead:
    return closed.close(makehuman_head())


@pytest.fixture(scope="module")
def training_set(template, tmp_path_factory):
    """(scans, data set, files that failed): two people of two expressions in centimetres, and a damaged file."""
    root = tmp_path_factory.mktemp("scans")
    marks, head = {}, template.head
    for subject, (person, files) in enumerate(EXPRESSIONS.items()):
        (root / person).mkdir()
        identity = 0.6 * head_space.identity(head, 3, subject)
        for stem, number in files.items():
            weights = head_space.expression(head, 3, subject, number)
            vertices = template.posed(identity, weights)
            # The winding of one scan points inwards.
            triangles = template.triangles[:, ::-1] if stem == "b" else template.triangles
            scan = Mesh(vertices / 10 + [3, 150, 2], triangles)
            (root / person / f"{stem}.ply").write_bytes(meshes.encode(scan, ".ply"))
            points = np.asarray(head.landmark_points(head.shape(identity, weights), "68"))
            marks[f"{person}/{stem}.ply"] = (points / 10 + [3, 150, 2]).tolist()
    (root / "bob" / "c.ply").write_bytes(b"ply")
    marks["bob/c.ply"] = marks["bob/b.ply"]
    (root / "marks.json").write_text(json.dumps(marks))
    people, output, failed = scan_files.find([str(root)]), root.parent / "set", {}
    assert fit_dataset.run(people, "makehuman", "", output, str(root / "marks.json"), None, failed) == 4
    return root, output, failed


def test_scans_are_written_in_true_size_and_frame(template, training_set):
    _, output, failed = training_set
    assert [path.name for path in failed] == ["c.ply"]
    people = nphm_scans.people(output)
    assert people == {"train": {1: 2}, "validation": {2: 1}, "test": {}}
    assert nphm_scans.expressions(output, 2) == [1, 2]
    head, mask = template.head, nphm_scans.face_mask(output)
    identity, weights = 0.6 * head_space.identity(head, 3, 0), head_space.neutral(head)
    truth = template.posed(identity, weights)
    folder = nphm_scans.scan_folder(output, 1, 2)
    scan, registered = (meshes.read(folder / name) for name in ("scan.ply", "registration.ply"))
    size = np.ptp(scan.vertices, axis=0) * head_space.MM_PER_UNIT
    np.testing.assert_allclose(size, np.ptp(truth, axis=0), rtol=0.02)
    away = np.linalg.norm(registered.vertices[: len(truth)] - scan.vertices, axis=1) * head_space.MM_PER_UNIT
    face = np.unique(template.triangles[template.face])
    assert np.median(away[face]) < 2.5 and mask.shape == (len(registered.vertices),)
    assert mask[face].all() and 0.2 < mask.mean() < 0.9
    anchors = nphm_scans.anchors(folder)
    expected = scan.vertices[fit_dataset.anchor_vertices(template)]
    assert np.median(np.linalg.norm(anchors - expected, axis=1)) * head_space.MM_PER_UNIT < 6
    above = flame.above_throat(scan.vertices, nphm_scans.throat(folder))
    assert above[face].all() and above.mean() > 0.85


def test_inward_scans_are_turned(training_set):
    _, output, _ = training_set
    for subject, number in ((2, 1), (2, 2)):
        scan = meshes.read(nphm_scans.scan_folder(output, subject, number) / "scan.ply")
        corners = scan.vertices[scan.triangles]
        assert np.einsum("ti,ti->", np.cross(corners[:, 0], corners[:, 1]), corners[:, 2]) > 0


def test_the_training_set_is_prepared(training_set, tmp_path, monkeypatch):
    _, output, _ = training_set
    monkeypatch.setitem(nphm_jobs.RECORDS, "surface", 2)
    monkeypatch.setattr(nphm, "_worker_processes", lambda: concurrent.futures.ThreadPoolExecutor(1))
    info = prepare("nphm", str(tmp_path), str(output), size=200)
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert counts == {"train": 2, "train_expressions": 4, "test": 2, "test_expressions": 4}
    record = next(iter(stream.open_dataset("nphm", tmp_path).as_dataset(split="train").as_numpy_iterator()))
    normals = record["face_normals"]
    assert (normals[:, 2] > 0).mean() > 0.8 and np.abs(record["face_points"]).max() < 1


def test_a_second_run_takes_no_result_for_a_scan(training_set, tmp_path):
    root, output, _ = training_set
    (output / "carl").mkdir()
    (output / "carl" / "scan.ply").write_bytes((root / "anna" / "b_neutral.ply").read_bytes())
    assert list(scan_files.find([str(output)])) == ["carl"]


def test_a_flat_folder_is_refused(training_set):
    root, _, _ = training_set
    flags = ["--register", "--training_set", "--scan", root / "anna", "--output", root.parent / "other"]
    done = subprocess.run([sys.executable, "-m", "launch.fit", *map(str, flags)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: --training_set: 1 people; give a folder with a subfolder of scans" in done.stderr


def test_a_damaged_template_is_one_line(training_set, tmp_path):
    for content, message in (("{", "damaged, not JSON"), ('{"anchors": [1]}', "not a template")):
        (tmp_path / nphm_scans.TEMPLATE_FILE).write_text(content)
        with pytest.raises(UserError, match=message):
            nphm_scans.template(tmp_path)
