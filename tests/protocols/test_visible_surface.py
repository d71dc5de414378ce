"""The published evaluation protocol on spheres and planes, whose errors are known."""

import numpy as np
import pytest
import trimesh

from jaxface.errors import UserError
from jaxface.geometry import views
from jaxface.heads import flame
from jaxface.meshes import Mesh
from jaxface.protocols import visible_surface

SIZE = (96, 72)


def ball(radius: float, center: tuple = (0, 0, 0)) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Mesh(np.float32(sphere.vertices + center), np.int32(sphere.faces))


def plane(height: float, normal: float = 1.0) -> visible_surface.OrientedPoints:
    x, y = np.meshgrid(np.linspace(0, 200, 81), np.linspace(0, 200, 81))
    points = np.stack([x, y, np.full_like(x, height)], -1).reshape(-1, 3)
    return visible_surface.OrientedPoints(points, np.broadcast_to([0, 0, normal], points.shape))


@pytest.fixture(scope="module")
def visible() -> visible_surface.OrientedPoints:
    return visible_surface.visible_surface(ball(90.0), SIZE)


def test_visible_points_cover_the_ball(visible):
    np.testing.assert_allclose(np.linalg.norm(visible.points, axis=1), 90, atol=0.4)
    assert ((visible.points / 90 * visible.normals).sum(1) > 0.99).all()
    directions = views.fibonacci_sphere(500)
    cosine = (visible.points / 90) @ directions.T
    assert cosine.max(0).min() > 0.97, "ten views cover the ball"


def test_inner_surfaces_and_back_faces_are_invisible():
    outer, inner = ball(90.0), ball(50.0)
    triangles = np.concatenate([outer.triangles, inner.triangles + len(outer.vertices)])
    both = Mesh(np.concatenate([outer.vertices, inner.vertices]), triangles)
    assert np.linalg.norm(visible_surface.visible_surface(both, SIZE).points, axis=1).min() > 89
    inverted = Mesh(outer.vertices, outer.triangles[:, ::-1])
    with pytest.raises(UserError, match="nothing of the mesh is visible"):
        visible_surface.visible_surface(inverted, SIZE)


def test_projection_and_back_projection_agree():
    eye = np.array([300.0, 200.0, 480.0])
    rotation = views.look_at(eye, np.zeros(3))
    mesh = ball(80.0, (10, -5, 3))
    view = views.render(mesh.vertices, mesh.triangles, eye, rotation, 300.0, SIZE)
    rows, columns = np.nonzero(view.hit)
    pixels, depth = views.project(view.points[view.hit], eye, rotation, 300.0, SIZE)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=0.02)
    assert depth.min() > 400 and view.hit.mean() > 0.1
    top = views.project(np.array([[10, 75, 3.0]]), eye, rotation, 300.0, SIZE)[0]
    assert top[0, 1] < rows.mean(), "the image's rows run downwards"


@pytest.mark.parametrize(("height", "f_scores"), [(3.0, (0, 1, 1, 1)), (0.5, (1, 1, 1, 1)), (12.0, (0, 0, 0, 1))])
def test_parallel_planes(height, f_scores):
    errors = visible_surface.compare(plane(0.0), plane(height, -1.0))
    assert errors["chamfer_l1"] == pytest.approx(height) and errors["chamfer_l2"] == pytest.approx(height**2)
    assert errors["normals"] == pytest.approx(1)
    assert tuple(errors[f"f_score_{t}"] for t in (1, 5, 10, 20)) == pytest.approx(f_scores)


def test_errors_by_all_distances():
    """Random oriented points, by the distances of all pairs."""
    rng = np.random.default_rng(0)
    points, normals = 15 * rng.random((2, 300, 3)), rng.normal(0, 1, (2, 300, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    distance = np.linalg.norm(points[0][:, None] - points[1], axis=-1)
    cosine = np.abs(normals[0] @ normals[1].T)
    nearest = distance.min(1), distance.min(0)
    one_way = cosine[np.arange(300), distance.argmin(1)].mean(), cosine[distance.argmin(0), np.arange(300)].mean()
    known = {
        "chamfer_l1": (nearest[0].mean() + nearest[1].mean()) / 2,
        "chamfer_l2": ((nearest[0] ** 2).mean() + (nearest[1] ** 2).mean()) / 2,
        "normals": sum(one_way) / 2,
    }
    for threshold in (1, 5, 10, 20):
        precision, recall = ((one < threshold).mean() for one in nearest)
        known[f"f_score_{threshold}"] = 2 * precision * recall / (precision + recall)
    surfaces = [visible_surface.OrientedPoints(*one) for one in zip(points, normals, strict=True)]
    assert visible_surface.compare(*surfaces) == pytest.approx(known, abs=1e-6)


def test_missing_parts_count_in_one_direction():
    whole = plane(0.0)
    half = whole[whole.points[:, 0] <= 100]
    errors = visible_surface.compare(half, whole)
    assert errors["chamfer_l1"] == pytest.approx(0.5 * 0.5 * 50, rel=0.05)
    assert errors["f_score_1"] == pytest.approx(2 / 3, rel=0.03)


def test_face_and_throat():
    whole = plane(0.0)
    face = whole[(np.abs(whole.points[:, :2] - 100) <= 20).all(1)]
    chosen = visible_surface.on_face(whole.points, face)
    away = np.linalg.norm(np.maximum(np.abs(whole.points[:, :2] - 100) - 20, 0), axis=1)
    np.testing.assert_array_equal(chosen, away < 10)
    assert not visible_surface.on_face(whole.points + [0, 0, 6], face).any()
    cut = np.float32([[0, 50, 0], [0, 50, 1], [1, 50, 0]])
    np.testing.assert_array_equal(flame.above_throat(whole.points, cut), whole.points[:, 1] > 50)


def test_evaluate_of_two_balls():
    reconstruction, scan = ball(97.0), ball(100.0)
    face = visible_surface.face_vertices(scan.vertices, scan.triangles, scan.vertices[:, 2] > 60)
    throat = np.float32([[0, -40, 0], [0, -40, 1], [1, -40, 0]])
    errors = visible_surface.evaluate(reconstruction, scan, face, throat, samples=60_000, size=SIZE)
    # Slightly more than 3 mm: sampled points are a millimetre apart.
    for part in ("", "face_"):
        assert errors[f"{part}chamfer_l1"] == pytest.approx(3.1, abs=0.1) and errors[f"{part}normals"] > 0.98
        assert errors[f"{part}f_score_1"] == 0 and errors[f"{part}f_score_20"] == 1
    doubled = visible_surface.evaluate(reconstruction, scan, face, throat, samples=60_000, size=SIZE, scale=2.0)
    assert doubled["chamfer_l1"] == pytest.approx(2 * errors["chamfer_l1"])
