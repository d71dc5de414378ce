"""Second-order spherical-harmonics lighting of Lambertian surfaces.

Source: Ramamoorthi & Hanrahan, SIGGRAPH 2001; signs and constants as in Deep3DFaceRecon_pytorch (models/bfm.py).
"""

import math

import jax
import jax.numpy as jnp

# Clamped-cosine coefficient of each band times the normalisation of its basis functions.
BAND_0 = math.pi / math.sqrt(4 * math.pi)
BAND_1 = 2 * math.pi / math.sqrt(3) * math.sqrt(3) / math.sqrt(4 * math.pi)
BAND_2 = 2 * math.pi / math.sqrt(8) * 3 * math.sqrt(5) / math.sqrt(12 * math.pi)


def _basis(normals: jax.Array) -> tuple[jax.Array, ...]:
    """The nine values (…) of `sh_basis` as separate arrays."""
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    return (
        jnp.full_like(x, BAND_0),
        -BAND_1 * y,
        BAND_1 * z,
        -BAND_1 * x,
        BAND_2 * x * y,
        -BAND_2 * y * z,
        BAND_2 / (2 * math.sqrt(3)) * (3 * z**2 - 1),
        -BAND_2 * x * z,
        BAND_2 / 2 * (x**2 - y**2),
    )


def sh_basis(normals: jax.Array) -> jax.Array:
    """Nine basis values (…,9) of unit normals (…,3); axes: x to the image's right, y up, z towards the viewer."""
    return jnp.stack(_basis(normals), axis=-1)


def sh_shade(normals: jax.Array, coefficients: jax.Array) -> jax.Array:
    """RGB irradiance (…,3) at unit normals (…,3) under SH `coefficients` (9,3); radiance is albedo times irradiance."""
    basis = _basis(normals)
    # Sums of separate arrays are fused; a product with a matrix of three columns is several times slower on CPUs.

    def channel(weights: jax.Array) -> jax.Array:
        return sum(value * weight for value, weight in zip(basis, weights, strict=True))

    return jnp.stack([channel(weights) for weights in coefficients.T], axis=-1)
