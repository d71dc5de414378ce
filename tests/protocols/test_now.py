"""NoW on a fixture in the benchmark's layout: a box as head and scan, whose distances are known by hand."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.protocols import now, scan_to_mesh
from jaxface.protocols.protocol import Request

ROOT = pathlib.Path(__file__).parents[2]
BOX = trimesh.creation.box((150, 200, 160))
# The seven landmarks, on the front of the box.
SEVEN = np.array(
    [[-45, 30, 80], [-15, 30, 80], [15, 30, 80], [45, 30, 80], [0, -10, 80], [-25, -40, 80], [25, -40, 80.0]]
)
HEIGHTS = np.array([0.25, 0.5, 1.0, 3.0])


def scan_points() -> np.ndarray:
    """Pairs in front of and behind the box's front, so that the box itself is their least-squares alignment."""
    x, y = np.meshgrid(np.linspace(-40, 40, 4), np.linspace(-30, 40, 5))
    foot = np.stack([x, y, np.full_like(x, 80)], -1).reshape(-1, 3)
    heights = np.resize(HEIGHTS, len(foot))[:, None] * [0, 0, 1]
    return np.concatenate([foot + heights, foot - heights])


def write_layout(root: pathlib.Path) -> pathlib.Path:
    """Two images of one subject, one of another; returns the folder of predictions, boxes in other frames."""
    names = ["FaMoS_1/multiview_neutral/IMG_1.jpg", "FaMoS_1/selfie/IMG_2.jpg", "FaMoS_2/selfie/IMG_3.jpg"]
    (root / now.LIST).write_text("\n".join(names) + "\n")
    points = scan_points()
    far = points + [0, 0, 400]
    rest = np.concatenate([points, far])
    triangles = np.arange(3 * (len(rest) // 3)).reshape(-1, 3)
    for subject in ("FaMoS_1", "FaMoS_2"):
        (root / now.SCANS / subject).mkdir(parents=True)
        (root / now.LANDMARKS / subject).mkdir(parents=True)
        (root / now.SCANS / subject / "head.000001.obj").write_bytes(meshes.encode(Mesh(rest, triangles), ".obj"))
        picked = "".join(
            f'<point x="{x}" y="{y}" z="{z}" active="1" name="{i}"/>\n' for i, (x, y, z) in enumerate(SEVEN)
        )
        text = f"<!DOCTYPE PickedPoints>\n<PickedPoints>\n<DocumentData/>\n{picked}</PickedPoints>\n"
        (root / now.LANDMARKS / subject / "head.000001_picked_points.pp").write_text(text)
    turn = Rotation.from_rotvec([0.3, -0.2, 0.1]).as_matrix()
    predictions = root / "predictions"
    for number, name in enumerate(names):
        path = predictions / name.replace(".jpg", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        scale = (0.01, 1.3, 1.0)[number]
        mesh = Mesh(scale * BOX.vertices @ turn.T + 5, BOX.faces)
        path.with_suffix(".ply" if number else ".obj").write_bytes(meshes.encode(mesh, ".ply" if number else ".obj"))
        landmarks = scale * SEVEN @ turn.T + 5
        np.savetxt(path.with_suffix(".txt"), landmarks) if number else np.save(path.with_suffix(".npy"), landmarks)
    return predictions


def test_the_region_by_hand():
    """Centre 0.3 of the way up from (0,-10,80) to (0,30,80); radius 1.4 (90 + 40) / 2 = 91 mm."""
    edge = np.array([[0, 2, 80], [90.9, 2, 80], [91.1, 2, 80], [0, 2 - 90.9, 80], [0, 2, 80 + 91.1]])
    assert scan_to_mesh.now_region(edge, SEVEN).tolist() == [True, True, False, True, False]


def test_pooled_distances_are_those_by_hand(tmp_path):
    predictions = write_layout(tmp_path)
    outcome = now.run(Request(tmp_path, tmp_path / "out", predictions=predictions))
    known = np.tile(np.resize(HEIGHTS, 20), 2)
    for row, images in (("all", 3), ("multiview_neutral", 1), ("selfie", 2)):
        assert outcome.table[row]["images"] == images
        for metric in ("median", "mean", "std"):
            assert outcome.table[row][metric] == pytest.approx(getattr(np, metric)(known), abs=1e-6)
    assert not outcome.skipped and len(outcome.curves["all"]) == 120


def test_metrical_scores_keep_the_size_and_know_the_unit(tmp_path):
    predictions = write_layout(tmp_path)
    (tmp_path / now.LIST).write_text("FaMoS_1/multiview_neutral/IMG_1.jpg\n")
    known = np.tile(np.resize(HEIGHTS, 20), 2).mean()
    # The first prediction is 1/100 of a head in mm: exact if its unit is 100 mm, far too small otherwise.
    exact = now.run(Request(tmp_path, tmp_path, predictions=predictions, metrical=True, unit_mm=100.0))
    assert exact.table["all"]["mean"] == pytest.approx(known, abs=1e-6)
    small = now.run(Request(tmp_path, tmp_path, predictions=predictions, metrical=True, unit_mm=90.0))
    fitted = now.run(Request(tmp_path, tmp_path, predictions=predictions, unit_mm=90.0))
    assert fitted.table["all"]["mean"] == pytest.approx(known, abs=1e-6) and small.table["all"]["mean"] > known - 1e-6


def test_distances_agree_with_trimesh():
    """The distances to an aligned bumpy surface, by trimesh's closest point of every triangle."""
    rng = np.random.default_rng(0)
    head = trimesh.creation.icosphere(3, 80.0)
    head.vertices *= 1 + 0.1 * np.sin(head.vertices[:, :1] / 20)
    points = head.vertices[rng.permutation(len(head.vertices))[:300]] + rng.normal(0, 1, (300, 3))
    seven = head.vertices[:7]
    found = scan_to_mesh.now_distances(points, np.ones(300, bool), seven, head.vertices / 7, head.faces, seven / 7)
    start = scan_to_mesh.align_landmarks(seven / 7, seven)
    aligned = scan_to_mesh.align_surface(points, head.vertices / 7, head.faces, start)
    moved = trimesh.Trimesh(aligned(np.asarray(head.vertices) / 7), head.faces, process=False)
    every = np.repeat(points, len(moved.triangles), axis=0)
    closest = trimesh.triangles.closest_point(np.tile(moved.triangles, (len(points), 1, 1)), every)
    known = np.linalg.norm(closest - every, axis=1).reshape(len(points), -1).min(1)
    np.testing.assert_allclose(found, known, atol=1e-6)


def test_missing_predictions_are_named_and_left_out(tmp_path):
    predictions = write_layout(tmp_path)
    (predictions / "FaMoS_1/selfie/IMG_2.txt").write_text("1 2 3\n")
    outcome = now.run(Request(tmp_path, tmp_path, predictions=predictions))
    assert outcome.table["all"]["images"] == 2
    assert "7 rows" in outcome.skipped["FaMoS_1/selfie/IMG_2.jpg"]
    with pytest.raises(UserError, match="none of the 3 examples could be scored.*IMG_1.*ending .obj or .ply"):
        now.run(Request(tmp_path, tmp_path, predictions=tmp_path / "nothing"))


def evaluate(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_command_writes_table_curve_and_errors(tmp_path):
    predictions, output = write_layout(tmp_path), tmp_path / "out"
    done = evaluate("--protocol=now", f"--manual_dir={tmp_path}", f"--predictions={predictions}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "| selfie |" in done.stdout and "published: NoW challenge" in done.stdout
    entry = json.loads((output / "now.json").read_text())
    assert entry["examples"] == 3 and entry["table"]["all"]["mean"] == pytest.approx(1.1875, abs=1e-6)
    assert (output / "now_ced.png").is_file() and "multiview_neutral" in (output / "now.md").read_text()
    assert (output / "now.csv").read_text().splitlines()[0] == "name,distance (mm),groups"


def test_an_unknown_protocol_lists_all():
    done = evaluate("--protocol=nothing", "--manual_dir=/")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    names = "now, micc, aflw2000, facewarehouse, realy, nphm, cross_domain, gte, cvgtce"
    assert f"error: --protocol: unknown 'nothing'; choose one of {names}" in done.stderr
