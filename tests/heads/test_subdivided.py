"""Loop subdivision: the rules on small meshes, and a head that stays consistent and exactly symmetric."""

import numpy as np
import pytest

from jaxface.geometry.subdivision import subdivide
from jaxface.heads import closed
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.subdivided import subdivided

OCTAHEDRON = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
CORNERS = np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


def test_closed_mesh_follows_the_rules():
    step = subdivide(OCTAHEDRON, np.array([1, 0, 2, 3, 4, 5]))
    fine = step.smooth @ CORNERS
    assert fine.shape == (18, 3) and step.triangles.shape == (32, 3)
    np.testing.assert_allclose(np.asarray(step.smooth.sum(1)).ravel(), 1, atol=1e-7)
    # Valence 4: a vertex keeps 1 - 4 beta, beta = 31/256, and its neighbours cancel out; edges keep 3/8.
    np.testing.assert_allclose(fine[:6], CORNERS * (1 - 4 * (5 / 8 - (3 / 8) ** 2) / 4), atol=1e-6)
    np.testing.assert_allclose(np.abs(fine[6:]).max(1), 3 / 8, atol=1e-6)
    corners = fine[step.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    np.testing.assert_array_equal(fine[step.mirror] * [-1, 1, 1], fine)


def test_boundaries_depend_on_boundaries_only():
    square = np.array([[0, 1, 2], [0, 2, 3]])
    points = np.float32([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]])
    step = subdivide(square, np.arange(4))
    fine = step.smooth @ points
    np.testing.assert_allclose(fine[0], [0.5, 0.5, 0])
    edge = step.edge_vertex(np.array([0, 0, 1]), np.array([1, 2, 3]))
    np.testing.assert_allclose(fine[edge[:2]], [[2, 0, 0], [2, 2, 0]])
    assert edge[2] == -1
    with pytest.raises(ValueError, match="not mirror-symmetric"):
        subdivide(square, np.array([1, 0, 3, 2]))


def test_head_stays_consistent_and_exactly_symmetric():
    head = makehuman_head()
    fine = subdivided(head)
    flip = np.float32([-1, 1, 1])
    np.testing.assert_array_equal(fine.template[fine.mirror] * flip, fine.template)
    for mode in (*fine.identity[:8], *fine.identity[-8:]):
        image = mode[fine.mirror] * flip
        assert np.array_equal(image, mode) or np.array_equal(image, -mode)
    blinks = [fine.expression[fine.expression_names.index(f"eyeBlink_{side}")] for side in "LR"]
    np.testing.assert_array_equal(blinks[0][fine.mirror] * flip, blinks[1])
    assert len(fine.triangles) == len(fine.uv_triangles) == 4 * len(head.triangles)
    assert fine.uv_triangles.max() < len(fine.uv) and all(
        len(mask) == len(fine.template) for mask in fine.regions.values()
    )
    for layout, (_, weights) in fine.landmarks.items():
        moved = fine.landmark_points(fine.template, layout) - head.landmark_points(head.template, layout)
        assert np.linalg.norm(moved, axis=1).max() < 1.5 and np.allclose(weights.sum(1), 1)
    assert len(closed.close(fine).fillings) == 4
