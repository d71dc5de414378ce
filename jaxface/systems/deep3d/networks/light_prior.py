"""Prior on spherical-harmonics lighting (ours): even and nearly white where the photo shows no skin.

Skin shows a part of all normals only. Its colours leave combinations of the coefficients open that change the visible
skin little and turn the far cheek white, black or cyan. Bounds on the shading of unseen normals were tried as well;
with them the refinement of rendered faces did not converge.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.systems.deep3d.rendering.image_formation import BANDS

# Weights, relative to the total weight of the skin's colours, of squared coefficients of bands 0 to 2: for their mean
# over the channels (intensity) and for their deviations from it (tint). They are small enough to leave the visible skin
# as it is; ten times larger ones darken it.
INTENSITY_WEIGHTS, TINT_WEIGHTS = (0.0, 0.0005, 0.002), (0.0, 0.01, 0.01)
BAND = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])


def normal_equations(light: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gauss-Newton normal equations of the prior.

    Args:
        light: (C*9,) coefficients of C channels, 1 or 3, without the ambient term.
        total: (), sum of the weights of the skin's colours.

    Returns:
        (matrix (C*9,C*9), gradient (C*9,)).
    """
    matrix = total * jnp.asarray(_quadratic(light.size // BANDS), jnp.float32)
    return matrix, matrix @ light


def _quadratic(channels: int) -> np.ndarray:
    """The matrix (C*9,C*9) of the squared intensity and tint of C channels."""
    mean = np.full((channels, channels), 1 / channels)
    intensity = np.kron(mean, np.diag(np.take(INTENSITY_WEIGHTS, BAND)))
    return intensity + np.kron(np.eye(channels) - mean, np.diag(np.take(TINT_WEIGHTS, BAND)))
