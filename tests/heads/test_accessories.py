"""Hair, hats and glasses: places, depth test, and independence of the rest of the scene."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from jaxface.geometry import camera
from jaxface.heads import accessories, hair, scenes
from jaxface.heads.makehuman.head import makehuman_head

SIZE, FOCAL = 96, 300.0
CENTER = jnp.array([47.5, 47.5])
AHEAD = jnp.array([0.0, 0.0, 700.0])


@pytest.fixture(scope="module")
def landmarks():
    head = makehuman_head()
    return jnp.asarray(head.landmark_points(head.template, "68"))


def view(rotation=None, depth=0.0, crop=None):
    rotation = jnp.eye(3) if rotation is None else rotation
    rays = accessories.view_rays(SIZE, FOCAL, CENTER, crop)
    return accessories.View(rays, rotation, AHEAD, jnp.full((SIZE, SIZE), depth))


def changed_pixels(seed, camera_view, landmarks):
    """Mask (S,S) of the pixels of a grey image that glasses change."""
    grey = jnp.full((SIZE, SIZE, 3), 0.5)
    image = accessories.glasses(jax.random.key(seed), grey, camera_view, landmarks)
    assert np.isfinite(image).all()
    return np.asarray(jnp.abs(image - grey).max(-1) > 0.05)


def test_plane_intersection_inverts_the_projection():
    rotation = jaxlie.SO3.from_rpy_radians(0.2, -0.7, 0.1).as_matrix()
    crop = jnp.array([[0.9, 0.2, 5.0], [-0.2, 0.9, 11.0]])
    point = jnp.array([23.0, -31.0, 40.0])
    camera_point = camera.to_camera(point, rotation, AHEAD)
    pixel = crop[:, :2] @ camera.project(camera_point, FOCAL, CENTER) + crop[:, 2]
    moved = crop.at[:, 2].add(jnp.array([50.0, 60.0]) - pixel)  # the point now projects to pixel (50, 60)
    positions, depth = view(rotation, crop=moved).plane(point[2])
    np.testing.assert_allclose(positions[60, 50], point[:2], atol=1e-2)
    assert depth[60, 50] == pytest.approx(float(camera_point[2]), abs=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_glasses_are_symmetric_over_the_eyes_and_depth_tested(seed, landmarks):
    mask = changed_pixels(seed, view(), landmarks)
    assert (mask == mask[:, ::-1]).mean() > 0.99
    eyes = camera.project(camera.to_camera(landmarks, jnp.eye(3), AHEAD), FOCAL, CENTER)[36:48]
    row = np.asarray(eyes).mean(0)[1]
    rows = np.flatnonzero(mask.any(1))
    assert rows.min() < row < rows.max() and np.abs(rows - row).max() < 36 * FOCAL / AHEAD[2]
    assert not changed_pixels(seed, view(depth=300.0), landmarks).any()


@pytest.mark.parametrize("sample", [hair.sample_style, hair.sample_hat])
def test_hair_covers_the_crown_and_leaves_the_face_open(sample):
    head = makehuman_head()
    skull = hair.fit_skull(head, jnp.asarray(head.template))
    points = jnp.asarray(head.landmark_points(head.template, "68"))[jnp.array([30, 57, 8, 27])]
    crown = skull.center + jnp.array([0.0, 1.1, -0.1]) * skull.radii
    for seed in range(4):
        style = sample(jax.random.key(seed))
        vertices, triangles = hair.mesh(style, skull)
        opacity, _ = hair.opacity(style, skull, jnp.concatenate([points, crown[None]]))
        np.testing.assert_array_equal(opacity, [0, 0, 0, 0, 1])
        assert np.isfinite(vertices).all() and 50 < len(np.unique(triangles)) <= len(vertices)
        outside = (((vertices - skull.center) / skull.radii) ** 2).sum(-1) > 0.98
        assert np.asarray(outside)[vertices[:, 1] > skull.center[1]].all()


def test_accessories_change_nothing_else_of_the_scene():
    head = scenes.renderable(makehuman_head())
    captures = (scenes.UNCONSTRAINED, scenes.WITH_ACCESSORIES)
    bare, worn = (scenes.sample_scene(head, jax.random.key(1), SIZE, capture) for capture in captures)
    beard = head.albedo_names.index("beard")
    np.testing.assert_array_equal(np.delete(bare.albedo, beard), np.delete(worn.albedo, beard))
    same = worn.replace(albedo=bare.albedo, accessories=bare.accessories)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(_plain, bare), jax.tree.map(_plain, same))


def _plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
