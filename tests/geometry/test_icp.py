"""ICP on point sets and surfaces with known motions; exact closest points of meshes."""

import numpy as np
import pytest
import scipy.spatial
from scipy.spatial.transform import Rotation

from jaxface.errors import UserError
from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.surface import SurfaceQuery

MOTION = Similarity(1.1, Rotation.from_rotvec([0.1, -0.15, 0.08]).as_matrix(), np.array([0.05, -0.1, 0.08]))


@pytest.fixture(scope="module")
def bumpy():
    """Vertices (400,3) and triangles of a height field without symmetries."""
    x, y = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20), indexing="ij")
    vertices = np.stack([x, y, 0.4 * np.sin(3 * x + 1) * np.cos(4 * y) + 0.3 * x * y], -1).reshape(-1, 3)
    return vertices, scipy.spatial.Delaunay(vertices[:, :2]).simplices


@pytest.mark.parametrize("vector", [[0, 0, 0], [1e-9, 0, 0], [0.3, -1.2, 2.0], [np.pi, 0, 0]])
def test_rotation_vectors(vector):
    np.testing.assert_allclose(icp.rotation_from_vector(vector), Rotation.from_rotvec(vector).as_matrix(), atol=1e-14)


def test_composition_applies_the_inner_map_first():
    points = np.random.default_rng(0).normal(size=(5, 3))
    inner = Similarity(0.7, np.eye(3)[[1, 2, 0]], np.array([1.0, 2, 3]))
    np.testing.assert_allclose(icp.compose(MOTION, inner)(points), MOTION(inner(points)))


@pytest.mark.parametrize("scale", [True, False])
def test_procrustes_recovers_a_motion(scale):
    source = np.random.default_rng(0).normal(size=(30, 3))
    truth = MOTION if scale else Similarity(1.0, MOTION.rotation, MOTION.translation)
    np.testing.assert_allclose(icp.procrustes(source, truth(source), scale)(source), truth(source), atol=1e-12)


def test_point_to_plane_jacobian_matches_finite_differences():
    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(2, 8, 3))
    step, columns = 1e-6, []
    for unit in step * np.eye(7):
        moved = Similarity(1 + unit[6], icp.rotation_from_vector(unit[:3]), unit[3:6])(points)
        columns.append(((moved - points) * normals).sum(1) / step)
    np.testing.assert_allclose(icp.point_to_plane_jacobian(points, normals), np.stack(columns, 1), atol=1e-5)


def test_point_to_plane_icp_recovers_a_similarity_despite_outliers(bumpy):
    surface = SurfaceQuery(*bumpy)
    target = MOTION(bumpy[0])
    target[::25] += [0, 0, 2.0]

    def match(current):
        closest, normals = surface.closest(current.inverse(target))
        return current(closest), target, normals @ current.rotation.T

    start = Similarity(1.0, np.eye(3), np.zeros(3))
    estimated = icp.icp(start, match, icp.point_to_plane_update, 60, 1e-7)
    np.testing.assert_allclose(estimated(bumpy[0]), MOTION(bumpy[0]), atol=0.02)


def test_axis_rotations_are_the_24_of_the_cube():
    rotations = np.stack(icp.axis_rotations())
    assert len(np.unique(rotations, axis=0)) == 24 and np.array_equal(rotations[0], np.eye(3))
    np.testing.assert_array_equal(rotations @ rotations.swapaxes(1, 2), np.broadcast_to(np.eye(3), (24, 3, 3)))
    assert (np.linalg.det(rotations) > 0).all()


def test_closest_points_are_exact():
    rng = np.random.default_rng(1)
    vertices, triangles = rng.normal(size=(60, 3)), rng.integers(0, 60, (150, 3))
    vertices[0] *= 30  # one huge triangle, far larger than the distance to its centroid
    points = rng.normal(size=(80, 3)) * 2
    closest, _ = SurfaceQuery(vertices, triangles).closest(points)
    dense = rng.dirichlet(np.full(3, 0.6), 300) @ vertices[triangles]
    sampled = np.linalg.norm(dense.reshape(-1, 3)[None] - points[:, None], axis=-1).min(1)
    exact = np.linalg.norm(closest - points, axis=1)
    assert (exact <= sampled + 1e-9).all() and np.median(sampled - exact) < 0.1


def test_closest_points_of_a_square():
    square = SurfaceQuery(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    closest, normals = square.closest(np.array([[0.3, 0.6, 0.5], [2, 0.5, 1], [-3, -4, 0]]))
    np.testing.assert_allclose(closest, [[0.3, 0.6, 0], [1, 0.5, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 3)


def test_a_surface_needs_valid_triangles(bumpy):
    vertices, triangles = bumpy
    with pytest.raises(UserError, match="needs triangles"):
        SurfaceQuery(vertices, triangles[:0])
    with pytest.raises(UserError, match="finite"):
        SurfaceQuery(vertices * np.inf, triangles)
