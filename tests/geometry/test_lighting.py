"""Spherical-harmonics lighting: orthogonality of the basis and gain of each band."""

import jax.numpy as jnp
import numpy as np

from jaxface.geometry import lighting


def test_basis_is_orthogonal_with_the_gain_of_each_band():
    heights, weights = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * np.pi / 8
    radius = np.sqrt(1 - heights**2)[:, None]
    shape = (8, 16)
    normals = np.stack(
        [radius * np.cos(azimuth), radius * np.sin(azimuth), np.broadcast_to(heights[:, None], shape)], -1
    )
    basis = np.asarray(lighting.sh_basis(jnp.asarray(normals, jnp.float32)), np.float64)
    gram = np.einsum("hai,haj,h->ij", basis, basis, weights) * np.pi / 8
    gains = np.repeat([np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)], [1, 3, 5])
    np.testing.assert_allclose(gram, np.diag(gains**2), atol=1e-4)


def test_shading():
    up = jnp.array([[0.0, 1, 0], [0, 0, 1]])
    ambient = jnp.zeros((9, 3)).at[0].set(0.8)
    np.testing.assert_allclose(lighting.sh_shade(up, ambient), np.full((2, 3), 0.70898), rtol=1e-5)
    from_the_front = ambient.at[2, 0].set(0.5)
    assert lighting.sh_shade(up, from_the_front)[1, 0] > lighting.sh_shade(up, from_the_front)[0, 0]
