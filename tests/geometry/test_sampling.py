"""sampling: warps agree with scipy's linear interpolation, with both paddings, and are differentiable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from jaxface.geometry import alignment, sampling

IMAGE = np.random.default_rng(0).random((21, 34, 3)).astype(np.float32)


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "grid-constant"), ("edge", "nearest")])
def test_warp_agrees_with_scipy(padding, mode):
    matrix = alignment.crop_matrix(np.array([20.0, 6.0]), 30.0, 24, 0.4)
    inverse = alignment.invert_affine(matrix)[::-1, [1, 0, 2]]
    expected = [
        scipy.ndimage.affine_transform(
            IMAGE[..., c], inverse[:, :2], inverse[:, 2], output_shape=(24, 28), order=1, mode=mode
        )
        for c in range(3)
    ]
    result = sampling.warp(jnp.asarray(IMAGE), jnp.asarray(matrix, jnp.float32), 24, 28, padding)
    np.testing.assert_allclose(result, np.stack(expected, -1), atol=2e-5)


def test_warp_of_the_identity_and_gradients():
    identity = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(sampling.warp(jnp.asarray(IMAGE), identity, 21, 34), IMAGE)
    matrix = jnp.array([[0.9, 0.2, 1.3], [-0.1, 1.1, 2.7]])
    image = jnp.asarray(IMAGE[:6, :7])
    warp = jax.jit(lambda image, matrix: sampling.warp(image, matrix, 4, 4, "edge"))
    check_grads(warp, (image, matrix), 1, ["rev"], eps=1e-3, rtol=2e-2)
