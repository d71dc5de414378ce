"""Closed heads: watertight for every identity and expression; fillings follow eyes and lips; anchors; sampling."""

import numpy as np
import pytest
import trimesh

from jaxface.geometry import sampling
from jaxface.heads import closed, head_space
from jaxface.heads.makehuman.head import makehuman_head


@pytest.fixture(scope="module")
def surface() -> closed.ClosedHead:
    return closed.close(makehuman_head())


def check_closed(vertices: np.ndarray, triangles: np.ndarray) -> trimesh.Trimesh:
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2 and mesh.volume > 0
    return mesh


@pytest.mark.parametrize("weights", [{}, {"jawOpen": 1.0}, {"eyeBlink_L": 1.0, "mouthSmile_R": 1.0}])
def test_every_pose_is_watertight(surface, weights):
    head = surface.head
    vertices = surface.posed(head_space.identity(head, 3, 1), head.expression_weights(**weights))
    check_closed(vertices, surface.triangles)


def test_fillings_follow_eyes_and_mouth(surface):
    head = surface.head
    assert sorted(filling.kind for filling in surface.fillings) == ["", "eyeball_L", "eyeball_R", "mouth"]
    person = np.zeros(len(head.identity_names))
    opened = np.asarray(head.shape(person, head.expression_weights(jawOpen=1.0)))
    for filling in surface.fillings:
        own = filling.points(head, opened)
        if filling.kind == "mouth":
            lips = opened[filling.loop]
            assert own[:, 2].max() < lips[:, 2].max() and 5 < (lips[:, 2].min() - own[:, 2].min()) < 20
        elif filling.kind:
            eyeball = opened[np.asarray(head.regions[filling.kind])]
            middle, radius = (eyeball.min(0) + eyeball.max(0)) / 2, np.ptp(eyeball, axis=0).max() / 2
            np.testing.assert_allclose(np.linalg.norm(own - middle, axis=1), radius, atol=0.7)
    shut = np.asarray(head.shape(person, head.expression_weights(jawOpen=-0.02)))
    mouth = next(filling for filling in surface.fillings if filling.kind == "mouth")
    assert np.ptp(mouth.points(head, shut)[:, 1]) < 0.3 * np.ptp(mouth.points(head, opened)[:, 1])


def test_neck_is_capped_above_the_shoulders(surface):
    head = surface.head
    assert not head.regions["shoulders"][surface.skin].any()
    mesh = check_closed(surface.surface(head.template), surface.triangles)
    first = len(surface.skin) + sum(len(closed.RINGS) * len(f.loop) for f in surface.fillings[:1])
    assert surface.fillings[1].kind == "" and 2e6 < mesh.volume < 7e6
    cap = (surface.triangles >= first).any(1) & (mesh.triangles_center[:, 1] < -90)
    assert cap.sum() > 100 and not surface.face[cap].any()


def test_anchors_are_mirrored_pairs_and_central_points(surface):
    head, anchors = surface.head, head_space.anchor_vertices(surface.head)
    template = np.asarray(head.template)[anchors]
    assert len(set(anchors)) == len(head_space.ANCHORS) == 39
    np.testing.assert_allclose(template[0:32:2] * [-1, 1, 1], template[1:32:2], atol=1e-4)
    assert (template[0:32:2, 0] < -5).all() and np.allclose(template[32:, 0], 0, atol=1e-4)
    assert head_space.ANCHORS.index("nose_tip") == 32 + template[32:, 2].argmax()
    scans = head_space.scans(surface, 5, 7, [0, 3])
    of_scan = scans[0][np.searchsorted(surface.skin, anchors)]
    np.testing.assert_allclose(head_space.anchors(head, 5, [7])[0], of_scan, atol=1e-5)
    again = head_space.scans(surface, 5, 7, [3])[0]
    np.testing.assert_array_equal(scans[1], again)
    np.testing.assert_allclose(head_space.to_units(head_space.to_mm(again)), again, atol=1e-6)
    assert 0.001 < np.abs(scans[1] - scans[0]).max() < 0.3 and np.abs(again).max() < 0.8


def test_expression_weights_are_bounded():
    head = makehuman_head()
    weights = np.stack([head_space.expression(head, 0, 0, number) for number in range(1, 200)])
    assert weights.min() >= 0 and weights.max() <= 1 and (weights.sum(1) <= head_space.MAX_WEIGHT_SUM + 1).all()
    assert len(np.unique(weights.round(4), axis=0)) > 190
    np.testing.assert_array_equal(head_space.expression(head, 0, 0, 0), head_space.neutral(head))


def test_samples_are_uniform_over_the_area():
    """A square cut into one large and two small triangles and a sliver."""
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0]])
    triangles = np.int32([[0, 1, 2], [0, 2, 4], [0, 4, 3], [4, 2, 3]])
    points = sampling.sample(vertices, triangles, 40_000, np.random.default_rng(0))
    places = points.on(vertices, triangles)[:, :2]
    counts = np.histogram2d(*places.T, bins=4, range=[[0, 1], [0, 1]])[0]
    np.testing.assert_allclose(counts, 2500, rtol=0.08)
    np.testing.assert_allclose(sampling.vertex_normals(vertices, triangles), [[0, 0, 1]] * 5)
    with pytest.raises(ValueError, match="the area is 0"):
        sampling.sample(vertices, triangles[1:2], 3, np.random.default_rng(0))
