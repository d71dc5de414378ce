"""Lashes: where they are drawn, and how far open the lids are that carry them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import lashes, scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import LAYOUT_68

UPPER_LIDS = [37, 38, 43, 44]


@pytest.fixture(scope="module")
def head():
    return jax.device_put(scenes.renderable(makehuman_head()))


@pytest.fixture(scope="module")
def scene(head):
    return scenes.sample_scene(head, jax.random.key(0), 64).replace(fade=jnp.zeros(2))


@pytest.mark.parametrize("closed", [0.0, 1.0])
def test_lashes_lie_on_the_margin_of_the_upper_lid_and_follow_it(head, scene, closed):
    weights = head.expression_weights(eyeBlink_L=closed, eyeBlink_R=closed)
    landmarks = head.landmark_points(head.shape(jnp.zeros_like(scene.identity), weights), "68")
    lids = landmarks[jnp.array(UPPER_LIDS)]
    elsewhere = jnp.concatenate([lids + jnp.array([0.0, 5.0, 0.0]), lids - jnp.array([0.0, 0.0, 5.0])])
    cover = lashes.lashes(scene, landmarks, lids, jnp.zeros(len(lids))).cover
    assert cover.min() > 0.4
    np.testing.assert_allclose(cover, cover[::-1], atol=0.05)
    cover = lashes.lashes(scene, landmarks, elsewhere, jnp.zeros(len(elsewhere))).cover
    np.testing.assert_allclose(cover, 0, atol=0.05)


def test_statues_have_no_lashes(head, scene):
    landmarks = head.landmark_points(head.template, "68")
    drawn = lashes.lashes(scene.replace(fade=jnp.ones(2)), landmarks, landmarks, jnp.ones(len(landmarks)))
    assert float(drawn.cover.max()) == float(drawn.shade.max()) == 0


def test_lashes_darken_the_rendered_margin_of_the_upper_lid(head):
    """The surface of the pixel, from its depth, and the lids must be in the same frame."""
    size = 128

    @jax.jit
    def render(key, fade):
        scene = scenes.sample_scene(head, key, size, scenes.PORTRAIT).replace(fade=jnp.stack([0.0, fade]))
        rendering = scenes.render(head, scene, size)
        return rendering.image.mean(-1), head.landmark_points(rendering.points_px, "68")

    margin, above = [], []
    for seed in range(8):
        (image, points), (without, _) = (jax.device_get(render(jax.random.key(seed), fade)) for fade in (0.0, 1.0))
        ratio = (image + 0.01) / (without + 0.01)
        for shift, found in ((0, margin), ((points[27] - points[30]) / 3.5, above)):
            x, y = np.rint(points[UPPER_LIDS] + shift).astype(int).T
            found += list(ratio[y, x])
    assert np.median(margin) < 0.9
    assert np.median(above) == pytest.approx(1, abs=0.02)


def test_lids_are_as_open_as_on_the_mean_annotation(head):
    """The mean of dlib's points, trained on 300-W, in units of the distance between the centres of the eyes."""
    right = np.array([[0.121737, 0.216423], [0.187122, 0.178758], [0.265825, 0.179852]])
    right = np.concatenate([right, [[0.334606, 0.231733], [0.260918, 0.245099], [0.182743, 0.244077]]])
    left_center = 0.754914  # mean of the x of points 42 to 47
    wanted = (right[[0, 3], 1].mean() - right[[1, 2], 1].mean()) / (left_center - right[:, 0].mean())
    drawn = jax.jit(lambda key: scenes.sample_scene(head, key, 64))
    opened = []
    for seed in range(60):
        scene = drawn(jax.random.key(seed))
        points = np.asarray(head.landmark_points(head.shape(scene.identity, scene.expression), "68"))
        eyes = LAYOUT_68.five_points(points)[:2]
        height = points[UPPER_LIDS, 1].mean() - points[[36, 39, 42, 45], 1].mean()
        opened.append(height / np.linalg.norm(eyes[0] - eyes[1]))
    assert np.mean(opened) == pytest.approx(wanted, abs=0.025)
