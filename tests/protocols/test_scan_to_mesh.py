"""MICC and NoW protocols on scans with known answers: recovered motions, measured offsets, excluded regions."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxface.errors import UserError
from jaxface.geometry.alignment import Similarity
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.protocols import scan_to_mesh

UP = np.array([0.0, 1.0, 0.0])
SEVEN = list(scan_to_mesh.SEVEN)


@pytest.fixture(scope="module")
def head():
    """vertices, triangles of the face, landmarks (68,3), mm."""
    whole = makehuman_head()
    outer = whole.regions["face"] | whole.regions["lips"]
    triangles = whole.triangles[outer[whole.triangles].all(1)]
    return whole.template.astype(float), triangles, whole.landmark_points(whole.template, "68").astype(float)


@pytest.fixture(scope="module")
def scan(head):
    """Random surface points (N,3) of the face with normals; they do not coincide with the head's vertices."""
    vertices, triangles, _ = head
    rng = np.random.default_rng(0)
    corners = vertices[triangles[rng.integers(0, len(triangles), 1500)]]
    points = (corners * rng.dirichlet(np.ones(3), 1500)[..., None]).sum(1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return points, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def transformed(points, scale=1.2, turn=(0.2, -0.3, 0.1), shift=(10.0, -20.0, 5.0)):
    rotation = Rotation.from_rotvec(turn).as_matrix()
    return Similarity(scale, rotation, np.array(shift))(points)


@pytest.mark.parametrize("start_error", [0.0, 0.08])
def test_a_transformed_head_has_no_error(head, scan, start_error):
    vertices, triangles, landmarks = head
    start = scan_to_mesh.align_landmarks(transformed(landmarks[SEVEN]), landmarks[SEVEN])
    off = Rotation.from_rotvec([start_error, -start_error, start_error]).as_matrix()
    start = Similarity(start.scale * (1 + start_error), off @ start.rotation, start.translation + 50 * start_error)
    fitted = scan_to_mesh.align_surface(scan[0], transformed(vertices), triangles, start)
    np.testing.assert_allclose(fitted(transformed(vertices)), vertices, atol=1e-3)
    error = scan_to_mesh.micc_error(scan[0], landmarks[30], UP, transformed(vertices), triangles, start)
    assert error < 1e-3


def test_micc_measures_an_added_offset(head, scan):
    """Points alternate 1 mm outside and inside of the surface, an offset that no similarity removes."""
    vertices, triangles, landmarks = head
    points = scan[0] + scan[1] * np.where(np.arange(1500) % 2, 1.0, -1.0)[:, None]
    start = scan_to_mesh.align_landmarks(transformed(landmarks), landmarks)
    error = scan_to_mesh.micc_error(points, landmarks[30], UP, transformed(vertices), triangles, start)
    # Another part of the surface may be closer, and ICP removes a little: the error is at most the offset.
    assert 0.95 < error <= 1.0
    far = np.concatenate([points, points + [0, 0, 300], points + [0, 60, 0]])
    region = scan_to_mesh.micc_region(far, landmarks[30], UP)
    assert not region[1500:3000].any() and 0 < region[:1500].mean() < 1
    assert far[region, 1].max() <= landmarks[30, 1] + 55
    with pytest.raises(UserError, match="within 95 mm"):
        scan_to_mesh.micc_error(points, landmarks[30] + 900, UP, vertices, triangles, start)


def test_now_measures_only_masked_points(head, scan):
    vertices, triangles, landmarks = head
    points = scan[0] + scan[1] * np.where(np.arange(1500) % 2, 0.5, -0.5)[:, None]
    mask = points[:, 2] > 60
    points[~mask] += 40  # points outside the mask have no influence
    distances = scan_to_mesh.now_distances(
        points, mask, landmarks[SEVEN], transformed(vertices), triangles, transformed(landmarks)[SEVEN]
    )
    assert len(distances) == mask.sum()
    summary = scan_to_mesh.now_summary([distances, distances])
    assert summary["median"] == pytest.approx(0.5, abs=0.02) and summary["std"] < 0.1
    assert summary["mean"] == pytest.approx(0.5, abs=0.03)


def test_the_metric_protocol_keeps_the_size(head, scan):
    vertices, triangles, landmarks = head
    larger = 1.05 * vertices
    seven = landmarks[SEVEN]
    everywhere = np.ones(len(scan[0]), bool)
    fitted = scan_to_mesh.now_distances(scan[0], everywhere, seven, larger, triangles, 1.05 * seven)
    metric = scan_to_mesh.now_distances(scan[0], everywhere, seven, larger, triangles, 1.05 * seven, metric=True)
    assert fitted.mean() < 1e-3 and 0.3 < metric.mean() < 4.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v, t, p: scan_to_mesh.align_landmarks(p[:2], p[:2]), "at least 3 points"),
        (lambda v, t, p: scan_to_mesh.align_landmarks(p[:7], p[:6]), "the same on both"),
        (lambda v, t, p: scan_to_mesh.align_landmarks(p[:7] * np.nan, p[:7]), "finite"),
        (
            lambda v, t, p: scan_to_mesh.now_distances(v, np.zeros(len(v), bool), p, v, t, p),
            "mask of the scan is empty",
        ),
    ],
)
def test_malformed_input_is_a_user_error(head, call, message):
    with pytest.raises(UserError, match=message):
        call(*head)
