"""Rendered scenes: determinism, depth and projected points, gaze, surface sampling, capture conditions."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continuous import get_config
from jaxface.errors import UserError
from jaxface.geometry import raster
from jaxface.geometry.surface import fit_sphere
from jaxface.heads import background, canonical, region_samples, scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import rotate_eyes
from jaxface.systems.continuous import rendering

SIZE = 96


@pytest.fixture(scope="module")
def head():
    return jax.device_put(scenes.renderable(makehuman_head()))


@pytest.fixture(scope="module")
def capture(head):
    """Function from a seed to (scene, rendering), compiled once."""

    @jax.jit
    def render(head, key):
        scene = scenes.sample_scene(head, key, SIZE)
        return scene, scenes.render(head, scene, SIZE)

    return lambda seed: render(head, jax.random.key(seed))


def test_renderings_depend_on_the_key_only(capture):
    (_, one), (_, same), (_, other) = capture(1), capture(1), capture(2)
    np.testing.assert_array_equal(one.image, same.image)
    assert np.abs(one.image - other.image).mean() > 0.02
    assert one.image.min() >= 0 and one.image.max() <= 1 and np.isfinite(one.image).all()


@pytest.mark.parametrize("seed", range(3))
def test_depth_and_points_agree(head, capture, seed):
    _, rendering = capture(seed)
    landmarks, px = (head.landmark_points(points, "68") for points in (rendering.points, rendering.points_px))
    visible = raster.visible_points(px, landmarks[:, 2], rendering.depth, 4.0)
    nose = np.round(np.asarray(px[30])).astype(int)
    assert rendering.depth[nose[1], nose[0]] == pytest.approx(float(landmarks[30, 2]), abs=8.0)
    assert 25 <= int(visible.sum()) <= 68
    low, high = np.split(np.asarray(scenes.face_box(head, rendering.points_px)), 2)
    assert (px[17:] > low - 1).all() and (px[17:] < high + 1).all() and (high - low)[1] > 0.3 * SIZE


def test_gaze_turns_the_eyeballs_only(head):
    turned = np.asarray(rotate_eyes(head, jnp.asarray(head.template), jnp.array([0.3, 0.2])))
    moved = turned - np.asarray(head.template)
    eyes = np.asarray(head.regions["eyeball_L"] | head.regions["eyeball_R"])
    assert np.abs(moved[~eyes]).max() == 0
    for side in "LR":
        iris = moved[np.asarray(head.regions[f"iris_{side}"])].mean(0)
        assert iris[0] > 2 and iris[1] > 1
        ball = np.asarray(head.regions[f"eyeball_{side}"])
        centers = [fit_sphere(vertices[ball])[0] for vertices in (np.asarray(head.template), turned)]
        np.testing.assert_allclose(*centers, atol=0.05)


def test_surface_points_lie_on_the_face(head):
    index, weights = region_samples.surface_points(region_samples.region_triangles(head), jax.random.key(0), 64)
    assert np.asarray(head.regions["face"])[np.asarray(index)].all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert len(np.unique(np.asarray(index), axis=0)) > 50


def test_half_of_the_surface_points_lie_on_the_face_and_the_rest_by_share_on_each_region(head):
    names = ("ears", "face", "iris_L", "teeth")
    triangles = region_samples.region_triangles(head, names)
    index = np.asarray(region_samples.surface_points(triangles, jax.random.key(0), 6000)[0])
    inside = {name: np.asarray(head.regions[name])[index].all(-1) for name in names}
    assert np.sum(list(inside.values()), 0).min() == 1
    for name, share in {"ears": 1 / 3, "face": 1 / 2, "iris_L": 1 / 12, "teeth": 1 / 12}.items():
        assert inside[name].mean() == pytest.approx(share, abs=0.02)


def test_a_rendered_example_shows_its_points(head):
    constants = jax.device_put(rendering.rendering_head(makehuman_head()))
    example = jax.jit(rendering.render_example, static_argnums=(2, 3))(constants, jax.random.key(3), 64, 16)
    assert example["image"].shape == (64, 64, 3) and example["queries"].shape == (84, 3)
    np.testing.assert_allclose(example["queries"][:68], canonical.queries("68"), atol=1e-5)
    assert example["valid"].mean() > 0.9 and np.abs(example["points"][:68]).mean() < 0.8


def test_backgrounds_are_parts_of_the_photos_of_a_folder(tmp_path):
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 255
    for name, image in (("b.png", np.full((300, 500, 3), (255, 0, 0), np.uint8)), ("a.jpg", stripes)):
        assert cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "notes.txt").write_text("no photo")
    photos = rendering.background_photos(str(tmp_path))
    assert photos.shape == (2, 256, 256, 3) and photos.dtype == np.uint8
    np.testing.assert_array_equal(photos[1], np.broadcast_to(np.uint8([0, 0, 255]), (256, 256, 3)))
    ramp = jnp.asarray(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 1, 256, 3)))
    drawn = jax.jit(jax.vmap(lambda key: background.from_photos(key, ramp, 32)))(
        jax.random.split(jax.random.key(0), 16)
    )
    rows = 255 * np.asarray(drawn)[:, :, 0, 0]
    assert (np.diff(rows, axis=1) > 2.5).all() and rows.min() >= 0 and rows.max() <= 255
    assert np.ptp(rows[:, 0]) > 30 and 90 < np.ptp(rows, axis=1).min() < 150


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_photos_is_one_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config.head.backgrounds: \S+ (is not a folder|has no photos); give"):
        rendering.background_photos(str(tmp_path / folder))


def test_a_rendered_example_labels_every_region_and_the_joints():
    constants = jax.device_put(rendering.rendering_head(makehuman_head(), get_config("endless").data.regions))
    example = jax.jit(rendering.render_example, static_argnums=(2, 3))(constants, jax.random.key(3), 32, 400)
    assert len(example["points"]) == 68 + 400 + 4 and example["valid"][-4:].all()
    np.testing.assert_allclose(example["queries"][-4:], canonical.queries("joints"), atol=1e-5)
    template, joints = np.asarray(canonical.queries("dense")), np.asarray(canonical.queries("joints"))
    # A weak-perspective camera, fitted to the face, shows every other point about where it is labelled.
    front = np.abs(example["queries"][:, 2] - template[:, 2].mean()) < 0.6
    known = np.c_[example["queries"], np.ones(472)][np.asarray(example["valid"] & front)]
    labels = np.asarray(example["points"])[np.asarray(example["valid"] & front)]
    camera = np.linalg.lstsq(known, labels, rcond=None)[0]
    distance = np.linalg.norm(np.c_[joints, np.ones(4)] @ camera - np.asarray(example["points"])[-4:], axis=1)
    assert distance.max() < 0.12
    behind = joints[:2, 2] - canonical.queries("98")[[97, 96], 2]
    assert (behind < -0.1).all() and (np.abs(joints[2:, 0]) < 0.65).all() and joints[2, 0] > 0 > joints[3, 0]


def test_portraits_are_more_frontal_and_more_distant(head):
    keys = jax.random.split(jax.random.key(0), 200)

    def sample(capture: scenes.CaptureConfig) -> tuple[np.ndarray, np.ndarray]:
        sampled = jax.vmap(lambda key: scenes.sample_scene(head, key, SIZE, capture))(keys)
        assert (sampled.occluded == np.float32(capture.occluded)).all()
        return np.rad2deg(np.arccos(np.abs(sampled.rotation[:, 2, 2]))), sampled.translation[:, 2]

    turned, distance = sample(scenes.UNCONSTRAINED)
    assert 50 < turned.max() < 70 and distance.min() < 500
    turned, distance = sample(scenes.PORTRAIT)
    assert 25 < turned.max() < 40 and 600 < distance.min() < 900
