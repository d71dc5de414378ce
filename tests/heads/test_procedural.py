"""The procedural head: a closed symmetric mesh with parting lips and lids that close, and it looks like a person."""

import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.geometry import camera, lighting, mesh, raster
from jaxface.heads.procedural import procedural_head
from jaxface.layouts import LAYOUTS

FLIP = np.array([-1.0, 1.0, 1.0], np.float32)
ARKIT = """jawOpen jawLeft jawRight mouthPucker mouthFunnel mouthSmile_L mouthSmile_R mouthFrown_L mouthFrown_R
mouthStretch_L mouthStretch_R mouthUpperUp_L mouthUpperUp_R mouthLowerDown_L mouthLowerDown_R eyeBlink_L eyeBlink_R
eyeWide_L eyeWide_R browDown_L browDown_R browInnerUp_L browInnerUp_R browOuterUp_L browOuterUp_R cheekPuff_L
cheekPuff_R noseSneer_L noseSneer_R""".split()


@pytest.fixture(scope="module")
def head():
    return procedural_head()


def _points(head, layout="68", **weights):
    vertices = head.shape(np.zeros(len(head.identity), np.float32), head.expression_weights(**weights))
    return np.asarray(head.landmark_points(vertices, layout))


def _person(head, seed):
    """Vertices and colours of a random person."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(size=len(head.identity)).astype(np.float32)
    colors = head.colors(rng.normal(size=len(head.albedo)).astype(np.float32))
    return head.shape(identity, np.zeros(len(head.expression), np.float32)), jnp.clip(colors, 0, 1)


def test_mesh_is_closed_and_faces_outwards(head):
    triangles, points = head.triangles, head.template.astype(float)
    directed = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    key, count = np.unique(directed[:, 0].astype(np.int64) * len(points) + directed[:, 1], return_counts=True)
    back = directed[:, 1].astype(np.int64) * len(points) + directed[:, 0]
    assert 6000 <= len(points) <= 12000 and len(np.unique(triangles)) == len(points)
    assert count.max() == 1 and np.array_equal(np.sort(back), key)
    a, b, c = (points[triangles[:, i]] for i in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-3
    for litres, region in ((0.0118, head.regions["eyeball_L"]), (4.9, ~head.regions["eyeball_L"])):
        part = region[triangles].all(1)
        assert np.einsum("ij,ij->", a[part], np.cross(b[part], c[part])) / 6e6 == pytest.approx(litres, rel=0.05)


def test_mirror_symmetry(head):
    mirror = head.mirror
    assert np.array_equal(mirror[mirror], np.arange(len(mirror)))
    assert np.array_equal(head.template[mirror] * FLIP, head.template)
    turned = {tuple(np.roll(t, -t.argmin())) for t in mirror[head.triangles][:, ::-1]}
    assert turned == {tuple(np.roll(t, -t.argmin())) for t in head.triangles}
    for name in ("eyeball", "iris", "brows"):
        assert np.array_equal(head.regions[f"{name}_L"][mirror], head.regions[f"{name}_R"])
        assert (head.template[head.regions[f"{name}_L"], 0] > 0).all()
    for i, name in enumerate(head.identity_names):
        even = np.abs(head.identity[i][mirror] * FLIP - head.identity[i]).max() < 1e-4
        assert even != name.startswith("asymmetric"), name
    assert sum(name.startswith("asymmetric") for name in head.identity_names) >= 6


@pytest.mark.parametrize("layout", ["68", "98"])
def test_landmarks_mirror_by_the_flip_map(head, layout):
    index, weights = head.landmarks[layout]
    points = _points(head, layout)
    assert len(points) == LAYOUTS[layout].count and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(points[LAYOUTS[layout].flip] * FLIP, points, atol=1e-4)


def test_proportions_are_an_adults(head):
    p = _points(head)
    distance = {(36, 45): 89, (39, 42): 34, (48, 54): 50, (31, 35): 25, (27, 8): 118, (0, 16): 147, (30, 33): 21}
    for (a, b), mm in distance.items():
        assert np.linalg.norm(p[a] - p[b]) == pytest.approx(mm, rel=0.07), (a, b)
    skull = head.template[head.regions["scalp"] | head.regions["face"]]
    np.testing.assert_allclose(np.ptp(skull[:, 1:], axis=0), [230, 222], rtol=0.05)
    assert np.ptp(head.template[head.regions["ears"], 1]) == pytest.approx(62, abs=4)


def test_landmarks_agree_with_another_head(head, shared):
    with np.load(shared / "data" / "ict_facekit.npz") as data:
        other = 10 * data["neutral"][data["landmarks68"]]
    own = _points(head)
    own, other = own - own.mean(0), other - other.mean(0)
    u, s, vt = np.linalg.svd(other.T @ own)
    aligned = other @ (u @ vt) * s.sum() / (other**2).sum()
    assert np.linalg.norm(aligned - own, axis=1).mean() < 2.5


def test_modes(head):
    assert len(head.identity_names) == len(set(head.identity_names)) == len(head.identity) >= 40
    assert set(ARKIT) <= set(head.expression_names) and len(head.albedo_names) == 10
    size = np.linalg.norm(head.identity, axis=-1).max(1)
    assert size.min() > 0.5 and size.max() < 12
    left = [name for name in head.expression_names if name.endswith("_L")]
    for name in left:
        a, b = (head.expression[head.expression_names.index(n)] for n in (name, name[:-1] + "R"))
        np.testing.assert_array_equal(a[head.mirror] * FLIP, b)


def test_lips_part_and_lids_meet(head):
    neutral, opened = _points(head), _points(head, jawOpen=1.0)
    assert np.linalg.norm(neutral[62] - neutral[66]) < 0.5 < 25 < np.linalg.norm(opened[62] - opened[66])
    assert np.abs(opened[36:48] - neutral[36:48]).max() < 0.1
    shut, one = _points(head, "98", eyeBlink_L=1.0, eyeBlink_R=1.0), _points(head, "98", eyeBlink_L=1.0)
    for upper, lower in ((61, 67), (62, 66), (63, 65), (69, 75), (70, 74), (71, 73)):
        assert np.linalg.norm(shut[upper] - shut[lower]) < 0.2
    assert np.abs(one[60:68] - _points(head, "98")[60:68]).max() < 0.1


@pytest.mark.parametrize("blink", [0.0, 0.5, 1.0])
def test_eyeballs_stay_spheres_behind_the_lids(head, blink):
    weights = head.expression_weights(eyeBlink_L=blink, eyeBlink_R=blink)
    for seed in range(10):
        identity = np.random.default_rng(seed).normal(size=len(head.identity)).astype(np.float32)
        vertices = np.asarray(head.shape(identity, weights))
        for side in "LR":
            ball = vertices[head.regions[f"eyeball_{side}"]]
            center = ball.mean(0)
            radius = np.linalg.norm(ball - center, axis=1)
            assert np.ptp(radius) < 0.01 and 11 < radius.mean() < 18
            lids = vertices[head.regions["lids"] & (np.sign(head.template[:, 0]) == np.sign(center[0]))]
            assert np.linalg.norm(lids - center, axis=1).min() > radius.mean() - 0.3


@jax.jit
def _render(head, vertices, colors):
    """A frontal picture (192,192,3) in [0,1] under soft light on grey."""
    placed = camera.to_camera(vertices, jnp.eye(3), jnp.array([0.0, 0.0, 900.0]))
    pixels = camera.project(placed, jnp.array(580.0), jnp.array([96.0, 96.0]))
    seen = raster.rasterize(pixels, placed[:, 2], head.triangles, 192, 192, tiers=((4, None), (12, 8192), (48, 512)))
    shown = jnp.concatenate([colors, mesh.vertex_normals(vertices, head.triangles)], axis=1)
    shown = raster.interpolate(shown, pixels, placed[:, 2], head.triangles, seen.triangle_id)
    light = jnp.zeros((9, 3)).at[0].set(1.2).at[1].set(-0.25).at[2].set(0.5).at[3].set(-0.15)
    lit = shown[..., :3] * lighting.sh_shade(mesh.normalize(shown[..., 3:]), light) / jnp.pi
    return jnp.clip(jnp.where((seen.triangle_id >= 0)[..., None], lit, 0.5), 0, 1)


def test_a_face_detector_takes_it_for_a_face(head):
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    found = 0
    for seed in range(10):
        picture = np.asarray(255 * _render(head, *_person(head, seed))).astype(np.uint8)
        found += len(cascade.detectMultiScale(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.1, 3)) == 1
    assert found >= 9


def test_it_is_built_fast_and_the_same_every_time(head):
    procedural_head.cache_clear()
    start = time.process_time()
    again = procedural_head()
    assert time.process_time() - start < 4.0
    for name in ("template", "identity", "expression", "albedo_mean", "albedo", "triangles"):
        np.testing.assert_array_equal(getattr(head, name), getattr(again, name))
