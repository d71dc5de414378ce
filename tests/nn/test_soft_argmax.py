"""Soft-argmax: moments of an attention in both layouts, and its cross-entropy, against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxface.nn import soft_argmax

HEIGHT, WIDTH = 3, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 5, HEIGHT * WIDTH)).astype(np.float32)
LOG_ATTENTION = scipy.special.log_softmax(LOGITS, axis=-1)
CENTERS = soft_argmax.cell_centers(HEIGHT, WIDTH)


def _layout(log_attention: np.ndarray, axis: int) -> jnp.ndarray:
    return jnp.asarray(log_attention if axis == -1 else log_attention.swapaxes(1, 2))


def test_cell_centers_are_row_by_row_and_scale_with_the_extent():
    np.testing.assert_allclose(CENTERS[:2], [[1 / 8, 1 / 6], [3 / 8, 1 / 6]], rtol=1e-6)
    np.testing.assert_allclose(CENTERS[WIDTH], [1 / 8, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(soft_argmax.cell_centers(HEIGHT, WIDTH, 2.0), 2 * CENTERS, rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_moments_are_those_of_the_distribution(axis):
    features = RNG.normal(size=(2, HEIGHT * WIDTH, 6)).astype(np.float32)
    attention = np.exp(LOG_ATTENTION)
    mean, covariance, expected_features = soft_argmax.moments(_layout(attention, axis), CENTERS, features, axis)
    for image in range(2):
        for point in range(5):
            weights = attention[image, point]
            np.testing.assert_allclose(mean[image, point], weights @ CENTERS, atol=1e-6)
            expected = np.cov(np.transpose(CENTERS), aweights=weights, ddof=0)
            np.testing.assert_allclose(covariance[image, point], expected, atol=1e-6)
            np.testing.assert_allclose(expected_features[image, point], weights @ features[image], atol=1e-6)
    np.testing.assert_allclose(soft_argmax.expectation(_layout(attention, axis), CENTERS, axis), mean, atol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_cross_entropy_with_a_gaussian_heat_map(axis):
    target = RNG.uniform(0, 1, (2, 5, 2)).astype(np.float32)
    found = soft_argmax.cross_entropy(_layout(LOG_ATTENTION, axis), CENTERS, jnp.asarray(target), 0.2, axis)
    squared_distance = ((target[:, :, None] - np.asarray(CENTERS)) ** 2).sum(-1)
    heat_map = scipy.special.softmax(-squared_distance / (2 * 0.2**2), axis=-1)
    np.testing.assert_allclose(found, -(heat_map * LOG_ATTENTION).sum(-1), rtol=1e-5)
    own = soft_argmax.cross_entropy(_layout(np.log(heat_map), axis), CENTERS, jnp.asarray(target), 0.2, axis)
    assert (own < found).all()
