"""Prior on spherical-harmonics lighting (ours): bounded and nearly white where the photo shows no skin.

Skin shows a part of all normals only. Its colours leave combinations of the coefficients open that change the visible
skin little and turn the far cheek white, black or cyan.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import lighting
from jaxface.systems.deep3d.rendering.image_formation import AMBIENT, BANDS

# Directions over the sphere in which the shading is bounded, and the bounds: multiples of the PERCENTILES of the
# shading of visible skin.
DIRECTIONS = 96
PERCENTILES, LOW_FACTOR, HIGH_FACTOR = (5.0, 95.0), 0.5, 1.2
# Weights relative to the total weight of the skin's colours: of the bounds; and of squared coefficients of bands 0 to
# 2, for their mean over the channels (intensity) and for their deviations from it (tint). They are small enough to
# leave the visible skin as it is; ten times larger ones darken it.
BOUND_WEIGHT = 0.5
INTENSITY_WEIGHTS, TINT_WEIGHTS = (0.0, 0.0005, 0.002), (0.0, 0.01, 0.01)
BAND = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])


def _sphere(count: int) -> np.ndarray:
    """Unit vectors (count,3) spread over the sphere (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    angle, z = np.pi * (1 + 5**0.5) * index, 1 - 2 * index / count
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1)


def normal_equations(
    light: jax.Array, normals: jax.Array, visible: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gauss-Newton normal equations of the prior.

    Args:
        light: (C*9,) coefficients of C channels, 1 or 3, without the ambient term.
        normals: (N,3) unit normals of the skin, rotated with the head.
        visible: (N,) positive where the photo shows the skin.
        total: (), sum of the weights of the skin's colours.

    Returns:
        (matrix (C*9,C*9), gradient (C*9,)).
    """
    channels = light.size // BANDS
    basis = lighting.sh_basis(jnp.asarray(_sphere(DIRECTIONS), jnp.float32))
    coefficients = light.reshape(channels, BANDS).at[:, 0].add(AMBIENT)
    seen = jnp.where(visible[:, None] > 0, lighting.sh_basis(normals) @ coefficients.T, jnp.nan)
    low, high = jnp.nanpercentile(seen, jnp.array(PERCENTILES), axis=0)
    shading = basis @ coefficients.T
    excess = shading - jnp.clip(shading, LOW_FACTOR * low, HIGH_FACTOR * high)
    # Without visible skin there are no bounds.
    excess = jnp.where(jnp.isfinite(excess), excess, 0.0) * (BOUND_WEIGHT / DIRECTIONS)
    blocks = jnp.einsum("kc,ki,kj->cij", (excess != 0) * (BOUND_WEIGHT / DIRECTIONS), basis, basis)
    bounds = jax.scipy.linalg.block_diag(*blocks)
    quadratic = jnp.asarray(_quadratic(channels), jnp.float32)
    return total * (quadratic + bounds), total * (quadratic @ light + (excess.T @ basis).ravel())


def _quadratic(channels: int) -> np.ndarray:
    """The matrix (C*9,C*9) of the squared intensity and tint of C channels."""
    mean = np.full((channels, channels), 1 / channels)
    intensity = np.kron(mean, np.diag(np.take(INTENSITY_WEIGHTS, BAND)))
    return intensity + np.kron(np.eye(channels) - mean, np.diag(np.take(TINT_WEIGHTS, BAND)))
