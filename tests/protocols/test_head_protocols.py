"""MICC, FaceWarehouse and REALY on fixtures in the benchmarks' layouts; the errors of known heads."""

import functools
import json

import numpy as np
import pytest
import scipy.sparse
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.geometry.alignment import Similarity
from jaxface.inference import Predictor
from jaxface.meshes import Mesh
from jaxface.protocols import facewarehouse, micc, predicted_heads, realy, region_error
from jaxface.protocols.predicted_heads import Head
from jaxface.protocols.protocol import Request
from jaxface.protocols.region_error import Region

BOX = trimesh.creation.box((150, 200, 160))
MOVED = Similarity(1.2, Rotation.from_rotvec([0.2, -0.3, 0.1]).as_matrix(), np.array([10.0, -20.0, 5.0]))


@functools.cache
def predictor() -> Predictor:
    return Predictor.pretrained("deep3d")


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(pytest.importorskip("skimage.data").astronaut()).save(path)
    return path


def box_head() -> Head:
    """A box with 68 landmarks on its front; those of MICC's correspondences are not in a line."""
    landmarks = np.zeros((68, 3)) + [0, 0, 80]
    landmarks[39], landmarks[42], landmarks[33], landmarks[30] = [15, 30, 80], [-15, 30, 80], [0, -10, 80], [0, 0, 80]
    landmarks[[62, 66]] = [0, -40, 80]
    return Head(np.asarray(BOX.vertices, np.float64), BOX.faces, landmarks)


def test_micc_error_by_hand():
    """Points 0.25 to 3 mm in front of and behind the front, within 95 mm and below the forehead: their RMS."""
    x, y = np.meshgrid(np.linspace(-40, 40, 4), np.linspace(-40, 40, 5))
    foot = np.stack([x, y, np.full_like(x, 80)], -1).reshape(-1, 3)
    heights = np.resize([0.25, 0.5, 1.0, 3.0], len(foot))[:, None] * [0, 0, 1]
    left_out = np.array([[0, 90, 80.0], [0, 60, 80], [100, 0, 80]]) + [0, 0, 10]
    scan = np.concatenate([[[0, 0, 80.0]], foot + heights, foot - heights, left_out])
    head = box_head()
    points = {name: head.landmarks[list(numbers)].mean(0) for name, numbers in micc.POINTS.items()}
    known = np.sqrt((heights[:, 2] ** 2).sum() * 2 / (2 * len(foot) + 1))
    moved = Head(MOVED.inverse(head.vertices), head.triangles, MOVED.inverse(head.landmarks))
    assert micc.error_mm(scan, points, moved) == pytest.approx(known, abs=1e-6)


def test_facewarehouse_error_by_hand(tmp_path):
    """A mesh in decimetres: pairs of vertices in front of and behind the front, and the start points on it."""
    head, count = box_head(), facewarehouse.VERTICES - len(facewarehouse.START_VERTICES)
    x, y = np.meshgrid(np.arange(-32.0, 33, 8), np.arange(-40.0, 33, 8))
    foot = np.stack([x, y, np.full_like(x, 80)], -1).reshape(-1, 3)
    height = np.resize([1.0, 2.0, 4.0], len(foot))[:, None] * [0, 0, 1]
    pairs = np.concatenate([foot + height, foot - height])
    # The rest of the vertices is farther than 95 mm from the nose tip; it gives the mesh the extent of a head.
    away = np.resize([[-80, 120, 80.0], [-80, -120, 80]], (count - len(pairs), 3))
    vertices = np.zeros((facewarehouse.VERTICES, 3))
    starts = list(facewarehouse.START_VERTICES.values())
    vertices[np.setdiff1d(np.arange(len(vertices)), starts)] = np.concatenate([pairs, away])
    for name, number in facewarehouse.START_VERTICES.items():
        vertices[number] = head.landmarks[list(micc.POINTS[name])].mean(0)
    path = tmp_path / "pose_0.obj"
    path.write_bytes(meshes.encode(Mesh(vertices / 100, np.array([[0, 1, 2]])), ".obj"))
    known = np.sqrt((height[:, 2] ** 2).sum() * 2 / (len(pairs) + len(starts)))
    moved = Head(MOVED.inverse(head.vertices), head.triangles, MOVED.inverse(head.landmarks))
    assert facewarehouse.error_mm(facewarehouse.read_mesh(path), moved) == pytest.approx(known, abs=1e-6)


def test_micc_of_the_model_s_own_head_is_zero(tmp_path, astronaut):
    head = predicted_heads.identity_of(predictor(), [astronaut])
    for number in (1, 2):
        folder = tmp_path / f"subject_{number:02d}"
        (folder / "Model/frontal1/obj").mkdir(parents=True)
        (folder / micc.IMAGES).mkdir()
        (folder / micc.IMAGES / "frame.png").write_bytes(astronaut.read_bytes())
        marks = np.stack([head.landmarks[list(numbers)].mean(0) for numbers in micc.POINTS.values()])
        vertices = MOVED(np.concatenate([head.vertices, marks])) if number == 1 else np.zeros((3, 3))
        scan = Mesh(vertices, head.triangles if number == 1 else np.array([[0, 1, 2]]))
        (folder / "Model/frontal1/obj/1.obj").write_bytes(meshes.encode(scan, ".obj"))
    cases = tmp_path / "cases" / "subject_1" / micc.CORRESPONDENCES
    cases.parent.mkdir(parents=True)
    lines = [f"{name} {len(head.vertices) + row}" for row, name in enumerate(micc.POINTS)]
    cases.write_text("\n".join(lines))
    outcome = micc.run(Request(tmp_path, tmp_path, predictor()))
    # Where eyeballs and the inside of the mouth touch the skin, the closest triangle is not the point's own.
    assert outcome.table["all"]["rmse"] == pytest.approx(0, abs=5e-3) and outcome.table["all"]["subjects"] == 1
    assert "correspondences.txt: missing" in outcome.skipped["subject_02"]
    assert outcome.items[0].draw().shape[-1] == 3


def test_facewarehouse_reads_poses_and_finds_the_unit(tmp_path):
    rng = np.random.default_rng(0)
    vertices = rng.normal(0, 1, (facewarehouse.VERTICES, 3))
    vertices *= 240 / np.ptp(vertices, axis=0).max()
    triangles = np.arange(3 * (len(vertices) // 3)).reshape(-1, 3)
    for tester, pose, unit in ((2, 0, 1.0), (2, 10, 100.0), (10, 1, 1000.0)):
        folder = tmp_path / f"Tester_{tester}" / "TrainingPose"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"pose_{pose}.obj").write_bytes(meshes.encode(Mesh(vertices / unit, triangles), ".obj"))
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / f"pose_{pose}.png")
        found = facewarehouse.read_mesh(folder / f"pose_{pose}.obj")
        np.testing.assert_allclose(found, vertices, atol=0.02)
    assert list(facewarehouse._poses(tmp_path)) == ["Tester_2/pose_0", "Tester_2/pose_10", "Tester_10/pose_1"]
    (tmp_path / facewarehouse.CHOSEN).write_text("Tester_10\n")
    assert list(facewarehouse._poses(tmp_path)) == ["Tester_10/pose_1"]
    with pytest.raises(UserError, match="none of the 1 examples could be scored.*no face found"):
        facewarehouse.run(Request(tmp_path, tmp_path, predictor()))


def bumpy(seed: int = 0) -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(2, 80.0)
    factor = 1 + 0.05 * np.sin(sphere.vertices @ np.random.default_rng(seed).normal(0, 0.05, (3, 1)))
    return trimesh.Trimesh(sphere.vertices * factor, sphere.faces, process=False)


def write_realy(root, truth: np.ndarray, region: trimesh.Trimesh) -> None:
    for name in (realy.KEYPOINTS, realy.REGIONS + "/1", "data"):
        (root / name).mkdir(parents=True)
    (root / realy.KEYPOINTS / "1.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in truth))
    for name in realy.RIGID:
        (root / realy.REGIONS / "1" / f"{name}.obj").write_bytes(
            meshes.encode(Mesh(region.vertices, region.faces), ".obj")
        )
    np.savetxt(root / "data" / realy.SCALES, [2.5, 1.0])


def test_realy_of_moved_copies_is_zero_and_of_a_larger_one_is_not(tmp_path):
    """Predictions in a template's topology; the scale in mm multiplies the errors; other topologies are skipped."""
    head = bumpy()
    front = np.flatnonzero((head.vertices[:, 2] > 20)[head.faces].all(1))
    # Keypoints at vertices of the region, so that no deformation is needed for a copy.
    corners = np.random.default_rng(1).permutation(front)[: realy.COUNT]
    weights = np.tile([1.0, 0.0, 0.0], (realy.COUNT, 1))
    truth = np.asarray(head.vertices)[head.faces[corners, 0]]
    region = head.submesh([front], append=True)
    write_realy(tmp_path, truth, region)
    (tmp_path / "data" / "SPHERE.obj").write_bytes(meshes.encode(Mesh(head.vertices, head.faces), ".obj"))
    rows = [[int(t), float(w[0]), float(w[1])] for t, w in zip(corners, weights, strict=True)]
    (tmp_path / "data" / "SPHERE.txt").write_text(json.dumps(rows))
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    moved = Mesh(MOVED.inverse(np.asarray(head.vertices)), head.faces)
    other = Mesh(MOVED.inverse(np.asarray(bumpy(5).vertices)), head.faces)
    (predictions / "1.obj").write_bytes(meshes.encode(moved, ".obj"))
    (predictions / "1_2.obj").write_bytes(meshes.encode(other, ".obj"))
    (predictions / "7.obj").write_bytes(meshes.encode(moved, ".obj"))
    outcome = realy.run(Request(tmp_path, tmp_path, predictions=predictions))
    errors = {item.name: item.error for item in outcome.items}
    assert errors["1"] == pytest.approx(0, abs=1e-3) and errors["1_2"] > 0.5
    assert "number of a subject" in outcome.skipped["7"]
    assert set(outcome.table) == {"nose", "mouth", "forehead", "cheek", "all"}
    once = realy.errors(
        tmp_path,
        "1",
        realy._head(
            Request(tmp_path, tmp_path, predictions=predictions),
            predictions / "1_2.obj",
            realy.read_templates(tmp_path),
        ),
    )
    assert errors["1_2"] == pytest.approx(2.5 * np.mean(list(once.values())), abs=1e-6)


def test_a_deformation_step_is_the_dense_least_squares_solution():
    """The sparse solver against numpy's dense one on the same equations."""
    rng = np.random.default_rng(0)
    vertices, triangles = rng.normal(0, 10, (9, 3)), np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8], [8, 0, 3]])
    differences = region_error._edge_differences(triangles, 9)
    edges = {tuple(sorted(pair)) for a, b, c in triangles for pair in ((a, b), (b, c), (c, a))}
    assert differences.shape == (len(edges), 9) and (np.abs(differences.toarray()).sum(1) == 2).all()
    stiffness = 3.0 * scipy.sparse.kron(differences, np.eye(4))
    rows, goals, weights = np.array([0, 2, 3, 5, 7, 8]), rng.normal(0, 10, (6, 3)), rng.uniform(0.5, 2, 6)
    moved, solved = region_error._solve(stiffness, vertices, rows, goals, weights)
    data = np.zeros((6, 36))
    for equation, row in enumerate(rows):
        data[equation, 4 * row : 4 * row + 4] = weights[equation] * np.append(vertices[row], 1)
    dense = np.concatenate([stiffness.toarray(), data])
    right = np.concatenate([np.zeros((stiffness.shape[0], 3)), weights[:, None] * goals])
    known = np.linalg.lstsq(dense, right, rcond=None)[0]
    np.testing.assert_allclose(solved, known, atol=1e-6)
    for row in range(9):
        np.testing.assert_allclose(moved[row], np.append(vertices[row], 1) @ known[4 * row : 4 * row + 4], atol=1e-6)


def test_global_alignment_by_hand():
    """Points doubled about their centre and turned by 90 degrees about z."""
    source = np.array([[0, 0, 0], [2, 0, 0], [0, 4, 0], [0, 0, 6.0]])
    target = 2 * source[:, [1, 0, 2]] * [-1, 1, 1] + [1, 2, 3]
    found = region_error.global_alignment(source, target)
    assert found.scale == pytest.approx(2, abs=1e-9)
    np.testing.assert_allclose(found(source), target, atol=1e-9)


def test_the_error_of_a_shifted_region_is_its_closest_distance():
    """A plane patch over a parallel plane at 2 mm: deformed onto it, each vertex is 2 mm from its correspondence."""
    x, y = np.meshgrid(np.arange(0.0, 50, 10), np.arange(0.0, 50, 10))
    patch = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    quads = [(5 * r + c, 5 * r + c + 1, 5 * r + c + 6, 5 * r + c + 5) for r in range(4) for c in range(4)]
    triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    region = Region(patch, triangles, patch[:3], np.zeros((0, 3)))
    plane = np.array([[-500, -500, 2], [500, -500, 2], [0, 900, 2.0]])
    assert region_error.error(region, plane, np.array([[0, 1, 2]]), np.zeros((0, 3))) == pytest.approx(2, abs=1e-6)


def dense_deformation(region: Region, targets: np.ndarray) -> np.ndarray:
    """Optimal-step ICP without landmarks by dense least squares and all distances (Amberg et al., §4.1 and 4.4)."""
    vertices = region.vertices
    edges = sorted({tuple(sorted(pair)) for a, b, c in region.triangles for pair in ((a, b), (b, c), (c, a))})
    incidence = np.zeros((len(edges), len(vertices)))
    for row, (first, second) in enumerate(edges):
        incidence[row, [first, second]] = 1, -1
    for alpha in 50.0 * np.exp(-0.5 * np.arange(3)):
        previous = np.zeros((4 * len(vertices), 3))
        for _ in range(11):
            distances = np.linalg.norm(vertices[:, None] - targets, axis=-1)
            nearest = distances.min(1)
            kept = np.flatnonzero(nearest < max(2 * nearest.mean(), 1.0))
            positions = np.zeros((len(kept), 4 * len(vertices)))
            for row, vertex in enumerate(kept):
                positions[row, 4 * vertex : 4 * vertex + 4] = [*vertices[vertex], 1]
            system = np.concatenate([alpha * np.kron(incidence, np.eye(4)), positions])
            right = np.concatenate([np.zeros((4 * len(edges), 3)), targets[distances.argmin(1)[kept]]])
            transforms = np.linalg.lstsq(system, right, rcond=None)[0]
            vertices = np.einsum(
                "nk,nkc->nc", np.append(vertices, np.ones((len(vertices), 1)), 1), transforms.reshape(-1, 4, 3)
            )
            change, previous = np.linalg.norm(transforms - previous), transforms
            if change <= 0.5 ** np.round(np.log(50.0 / alpha) / 0.5):
                break
    return vertices


def test_the_error_of_a_region_by_a_second_implementation():
    """A curved patch is deformed onto a bumpy sphere, as by dense equations with trimesh's closest points."""
    x, y = np.meshgrid(np.arange(-20.0, 21, 10), np.arange(-20.0, 21, 10))
    patch = np.stack([x, y, 84 - (x**2 + y**2) / 150], -1).reshape(-1, 3)
    quads = [(5 * r + c, 5 * r + c + 1, 5 * r + c + 6, 5 * r + c + 5) for r in range(4) for c in range(4)]
    triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    region, head = Region(patch, triangles, patch[:3], np.zeros((0, 3))), bumpy(2)

    def closest(points: np.ndarray) -> np.ndarray:
        every = np.repeat(points, len(head.faces), axis=0)
        found = trimesh.triangles.closest_point(np.tile(head.triangles, (len(points), 1, 1)), every)
        found = found.reshape(len(points), -1, 3)
        return found[np.arange(len(points)), np.linalg.norm(found - points[:, None], axis=-1).argmin(1)]

    deformed = dense_deformation(region, closest(patch))
    known = np.linalg.norm(closest(deformed) - patch, axis=1).mean()
    vertices = np.asarray(head.vertices)
    assert region_error.error(region, vertices, head.faces, np.zeros((0, 3))) == pytest.approx(known, abs=1e-6)
