"""Terms of the hybrid loss of Deep3DFaceReconstruction, as pure functions of arrays.

Source: Deng et al., CVPRW 2019, §4; models/losses.py of Deep3DFaceRecon_pytorch. `objective` combines the terms. All
terms return a scalar (). Shapes: B images of side S, V vertices, K points. Points are in pixels of the 224 px crop.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.systems.deep3d.networks.map_fit import cell_centers_px
from jaxface.systems.deep3d.rendering.image_formation import Coefficients

LANDMARKS = 68
# Nose bridge, nose tip and inner lips have a higher weight (models/losses.py, landmark_loss).
HIGH_WEIGHT_LANDMARKS = (28, 29, 30, *range(60, 68))
HIGH_LANDMARK_WEIGHT = 20.0
# The paper's rule: the attention is 1 where the skin probability exceeds this, otherwise the probability.
CERTAIN_SKIN = 0.5
ATTENTIONS = ("posterior", "paper", "none")
DISTANCES = ("squared", "plain")
# Keeps the gradient of the colour distance finite where the colours are equal (models/losses.py, photo_loss).
COLOR_EPSILON = 1e-6
# Ours. Below this distance in pixels the plain distance is nearly quadratic (pseudo-Huber).
HUBER_DELTA_PX = 1.0
# Ours. Standard deviation of a landmark's target heat map, in cells.
HEAT_MAP_STD_CELLS = 0.7


def photometric_loss(image: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean RGB distance of images (B,S,S,3), weighted by a mask (B,S,S). The mean is over the whole batch."""
    distance = jnp.sqrt(((image - target) ** 2).sum(-1) + COLOR_EPSILON)
    return (distance * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def skin_attention(posterior: jax.Array, rule: str) -> jax.Array:
    """Photometric weights (B,S,S) from the skin posterior (B,S,S) in [0,1].

    rule: "posterior", the posterior itself, as in both public codes; "paper", 1 where it exceeds one half, elsewhere
    the posterior.
    """
    return jnp.where(posterior > CERTAIN_SKIN, 1.0, posterior) if rule == "paper" else posterior


def landmark_weights() -> np.ndarray:
    """Weights (68,) float32 of the landmarks."""
    weights = np.ones(LANDMARKS, np.float32)
    weights[list(HIGH_WEIGHT_LANDMARKS)] = HIGH_LANDMARK_WEIGHT
    return weights


def landmark_loss(points: jax.Array, target: jax.Array, distance: str = "squared") -> jax.Array:
    """Mean distance of landmarks (B,68,2).

    distance: "squared", weighted by `landmark_weights`, as published; "plain" (ours), `valid_landmark_distance`, which
    is less sensitive to outliers.
    """
    if distance == "plain":
        return valid_landmark_distance(points, target)
    return (((points - target) ** 2).sum(-1) * landmark_weights()).mean()


def valid_landmark_distance(points: jax.Array, target: jax.Array) -> jax.Array:
    """Mean pseudo-Huber distance in pixels, at least HUBER_DELTA_PX, of points (B,K,2) to targets that are not NaN."""
    valid, target = _valid_targets(target)
    distance = jnp.sqrt(((points - target) ** 2).sum(-1) + HUBER_DELTA_PX**2)
    return (valid * distance).sum() / jnp.maximum(valid.sum(), 1)


def heat_map_loss(log_attention: jax.Array, target: jax.Array) -> jax.Array:
    """Mean cross-entropy of attention maps with Gaussian heat maps around the targets.

    Args:
        log_attention: (B,h*w,K) log-probabilities of the cells of a square map, row by row.
        target: (B,K,2) points, y up; NaN where unknown.
    """
    side = math.isqrt(log_attention.shape[1])
    centers = cell_centers_px(side).reshape(side, side, 2)
    columns, rows = centers[0, :, 0], centers[:, 0, 1]
    std_px = HEAT_MAP_STD_CELLS * (columns[1] - columns[0])
    valid, target = _valid_targets(target)

    def gaussian(positions: jax.Array, mean: jax.Array) -> jax.Array:
        return jax.nn.softmax(-((positions[:, None] - mean[:, None]) ** 2) / (2 * std_px**2), axis=1)

    # An isotropic Gaussian is the product of one along x and one along y.
    along_x, along_y = gaussian(columns, target[..., 0]), gaussian(rows, target[..., 1])
    heat_map = along_y[:, :, None] * along_x[:, None] * valid[:, None, None]
    return -(heat_map.reshape(log_attention.shape) * log_attention).sum() / jnp.maximum(valid.sum(), 1)


def _valid_targets(target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mask (B,K) of finite targets (B,K,2), and the targets with 0 in place of NaN, so that gradients are finite."""
    valid = jnp.isfinite(target).all(-1)
    return valid, jnp.where(valid[..., None], target, 0.0)


def coefficient_loss(coefficients: Coefficients, weights: Mapping[str, float]) -> jax.Array:
    """Regularisation: weighted squared norm of identity, expression and albedo coefficients, mean over the batch.

    weights: of "identity", "expression" and "albedo". The paper prints 1.7e-3 for albedo, both codes have 1.7e-2.
    """
    norms = {name: (getattr(coefficients, name) ** 2).sum() for name in ("identity", "expression", "albedo")}
    return sum(weights[name] * norm for name, norm in norms.items()) / len(coefficients.angles)


def monochromatic_light_loss(light: jax.Array) -> jax.Array:
    """Mean squared deviation of the lighting (B,3,9) from its mean over RGB: prefers white light.

    The codes' gamma loss. The paper has white light only and no such term.
    """
    return ((light - light.mean(1, keepdims=True)) ** 2).mean()


def reflectance_loss(albedo: jax.Array, skin: jax.Array) -> jax.Array:
    """Variance of the albedo (B,V,3) over the skin vertices, summed over RGB, mean over the batch.

    skin: (V,) weights, 1 on skin. The paper's flattening constraint on the skin region.
    """
    weight = skin[:, None] / jnp.maximum(skin.sum(), 1.0)
    mean = (albedo * weight).sum(1, keepdims=True)
    return ((albedo - mean) ** 2 * weight).sum() / len(albedo)


def perceptual_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Cosine distance of unit recognition features (B,F), mean over the batch."""
    return (1.0 - (features * target).sum(-1)).mean()


def size_loss(log_ratio: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute error of log ratios of sizes (B,); targets (B,) that are NaN do not count."""
    known = jnp.isfinite(target)
    error = jnp.abs(log_ratio - jnp.where(known, target, 0.0))
    return (known * error).sum() / jnp.maximum(known.sum(), 1)


def weighted_sum(terms: Mapping[str, jax.Array], weights: Mapping[str, float]) -> jax.Array:
    """The total loss of unweighted `terms`; `weights` may hold further names."""
    return sum(weights[name] * value for name, value in terms.items())
