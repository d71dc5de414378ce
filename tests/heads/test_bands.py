"""Bands of pixels: they are joined to the same image, and what is skipped in a band would not have been seen in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import bands, clothes, lashes, scenes, skin
from jaxface.heads.makehuman.head import makehuman_head


@pytest.mark.parametrize("shape", [(1, 7), (37, 300), (256, 256), (90, 10000)])
def test_bands_are_joined_to_the_image(shape):
    rng = np.random.default_rng(0)
    images = {"a": rng.normal(size=shape).astype(np.float32), "b": rng.normal(size=(*shape, 3)).astype(np.float32)}
    one, other = bands.evaluate(lambda images: (images["a"] + images["b"][..., 1], images["b"] * 2), images)
    np.testing.assert_array_equal(one, images["a"] + images["b"][..., 1])
    np.testing.assert_array_equal(other, images["b"] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_skipped_in_a_band_is_not_seen_in_it(monkeypatch, seed):
    """The vertices of a head by their height, eight in a band."""
    head = jax.device_put(scenes.renderable(makehuman_head()))
    scene = scenes.sample_scene(head, jax.random.key(seed), 64, scenes.WITH_ACCESSORIES)
    bearded = scene.albedo.at[head.albedo_names.index("beard")].set(2.0)
    scene = scene.replace(mask=jnp.float32(seed == 2), fade=jnp.zeros(2), albedo=bearded)
    landmarks = head.landmark_points(head.template, "68")
    order = np.argsort(head.template[:, 1])[: len(head.template) // 8 * 8].reshape(-1, 8)

    def paint(images):
        p, masks = images
        parts = skin.Parts(*jnp.moveaxis(masks, -1, 0))
        cloth, rim = clothes.clothe(head, scene, p), lashes.lashes(scene, landmarks, p, parts.eyes)
        visible = cloth.cover[..., None] * jnp.concatenate([cloth.albedo, cloth.bump], -1)
        return skin.surface(head, scene, p, parts), cloth.cover, visible, rim.cover, rim.shade

    images = head.template[order], skin.part_weights(head)[order]
    whole = paint(images)
    assert all(float(mask.max()) > 0.2 for mask in (whole[1], whole[3], whole[4]))
    monkeypatch.setattr(bands, "BAND_PIXELS", 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), bands.evaluate(paint, images), whole)
