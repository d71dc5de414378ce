"""Hands, microphones, headphones and masks: ray casting, places, and which parts of the face stay free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.geometry import camera
from jaxface.heads import accessories, capture, clothes, hair, objects, scenes
from jaxface.heads.makehuman.head import makehuman_head

SIZE, FOCAL = 97, 300.0
CENTER = jnp.array([48.0, 48.0])
AHEAD = jnp.array([0.0, 0.0, 700.0])


@pytest.fixture(scope="module")
def head():
    return makehuman_head()


def view(depth=0.0):
    rays = accessories.view_rays(SIZE, FOCAL, CENTER, None)
    return accessories.View(rays, jnp.eye(3), AHEAD, jnp.full((SIZE, SIZE), depth))


def capsule(start, end, radius):
    ends = jnp.zeros((objects.CAPSULES, 2, 3)).at[3].set(jnp.array([start, end]))
    return objects.Capsules(ends, jnp.zeros(objects.CAPSULES).at[3].set(radius), jnp.full((objects.CAPSULES, 3), 0.5))


def test_a_capsule_has_the_silhouette_depth_and_normals_of_its_sphere_and_cylinder():
    found = objects.cast(capsule([-80.0, 0.0, 0.0], [80.0, 0.0, 0.0], 30.0), view())
    rows, columns = np.nonzero(np.asarray(found.opacity) > 0.5)
    assert found.depth[48, 48] == pytest.approx(670.0, abs=0.1)
    np.testing.assert_allclose(found.normals[48, 48], [0, 0, 1], atol=1e-3)
    assert found.normals[40, 48, 1] > 0.5  # above the middle: upwards
    tangent = 30.0 / np.sqrt(700.0**2 - 30.0**2)
    assert np.ptp(rows[columns == 48]) + 1 == pytest.approx(2 * FOCAL * tangent, abs=1.1)
    assert np.ptp(columns) + 1 == pytest.approx(2 * FOCAL * 110 / 700, abs=2.5)
    assert not np.asarray(found.opacity)[np.asarray(found.depth) == 0].any()


def test_the_nearer_surface_wins():
    sphere = capsule([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 30.0)
    assert objects.cast(sphere, view(depth=660.0)).opacity[48, 48] == 0
    assert objects.cast(sphere, view(depth=680.0)).opacity[48, 48] == 1
    far = sphere.replace(ends=sphere.ends.at[5, :, 2].set(-50.0), radius=sphere.radius.at[5].set(40.0))
    assert objects.cast(far, view()).depth[48, 48] == pytest.approx(670.0, abs=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_objects_are_where_people_have_them(head, seed):
    vertices = jnp.asarray(head.template)
    landmarks, skull = head.landmark_points(vertices, "68"), hair.fit_skull(head, vertices)
    scene = scenes.sample_scene(head, jax.random.key(seed), SIZE)
    key = jax.random.key(seed)
    hand = objects.hand(key, scene, landmarks)
    distances = np.linalg.norm(np.asarray(hand.ends[:12]).reshape(-1, 1, 3) - landmarks[objects.TOUCHED], axis=-1)
    assert distances.min() < 45 and hand.radius[15] == 0 and (np.asarray(hand.radius[:15]) > 0).all()
    bones = np.linalg.norm(np.diff(hand.ends[:14], axis=1), axis=-1)
    assert bones.min() > 20 and bones.max() < 90
    ball = np.asarray(objects.microphone(key, landmarks).ends[0, 0])
    assert 0 < ball[2] - landmarks[57, 2] < 90 and np.linalg.norm(ball - landmarks[57]) < 110
    worn = objects.headphones(key, landmarks, skull)
    cups, top = np.asarray(worn.ends[:2]).mean(1), np.asarray(worn.ends[2:15])[..., 1].max()
    np.testing.assert_allclose(np.sort(cups[:, 0]), np.asarray(landmarks)[[0, 16], 0], atol=20)
    assert top > np.asarray(vertices)[head.regions["scalp"], 1].max() - 2


@pytest.mark.parametrize("seed", range(4))
def test_masks_cover_mouth_and_chin_and_leave_eyes_forehead_and_scalp_free(head, seed):
    template = jnp.asarray(head.template)
    landmarks = head.landmark_points(template, "68")
    forehead = landmarks[27] + jnp.array([0.0, 40.0, 0.0])
    points = jnp.concatenate(
        [landmarks[jnp.array([33, 48, 51, 54, 57, 8])], landmarks[17:27], landmarks[36:48], forehead[None]]
    )
    cover = np.asarray(clothes.face_mask(head, jax.random.key(seed), points[None]).cover)[0]
    np.testing.assert_array_equal(cover[:6], 1)
    np.testing.assert_array_equal(cover[6:], 0)
    everywhere = np.asarray(clothes.face_mask(head, jax.random.key(seed), template[None]).cover)[0]
    assert everywhere[np.asarray(head.regions["scalp"])].max() == 0


def test_mouths_rest_under_masks(head, monkeypatch):
    monkeypatch.setattr(capture, "MASK_SHARE", 2.0)
    keys = jax.random.split(jax.random.key(0), 8)
    of_mouth = np.array([name.startswith(("mouth", "jaw")) for name in head.expression_names])
    for conditions, masked in ((scenes.WITH_ACCESSORIES, True), (scenes.UNCONSTRAINED, False)):
        sampled = jax.vmap(lambda key, it=conditions: scenes.sample_scene(head, key, 64, it))(keys)
        assert (sampled.mask == masked).all()
        assert (np.asarray(sampled.expression)[:, of_mouth] == 0).all() == masked


def test_objects_and_masks_change_the_image_but_not_the_depth_of_the_head(head, monkeypatch):
    monkeypatch.setattr(scenes, "OBJECT_SHARE", 2.0)
    head = jax.device_put(scenes.renderable(head))
    scene = scenes.sample_scene(head, jax.random.key(0), 64, scenes.WITH_ACCESSORIES)
    render = jax.jit(lambda scene: scenes.render(head, scene, 64))
    worn = render(scene.replace(mask=jnp.bool_(True)))
    bare = render(scene.replace(mask=jnp.bool_(False), accessories=jnp.float32(0)))
    np.testing.assert_array_equal(worn.depth, bare.depth)
    changed = np.abs(worn.image - bare.image).max(-1) > 0.1
    assert changed[np.asarray(bare.depth) > 0].mean() > 0.1 and np.isfinite(worn.image).all()


def test_projection_and_ray_casting_agree():
    """A small sphere appears at the pixel to which its centre projects."""
    center = jnp.array([40.0, -30.0, 20.0])
    found = objects.cast(capsule(center, center, 6.0), view())
    rows, columns = np.nonzero(np.asarray(found.opacity) > 0.5)
    pixel = camera.project(camera.to_camera(center, jnp.eye(3), AHEAD), FOCAL, CENTER)
    np.testing.assert_allclose([columns.mean(), rows.mean()], pixel, atol=0.5)
