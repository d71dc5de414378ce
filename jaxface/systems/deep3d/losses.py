"""The hybrid loss of Deep3DFaceReconstruction (Deng et al., CVPRW 2019, §4), with the weights of the public codes.

models/losses.py of Deep3DFaceRecon_pytorch. Every reduction is said; B batch, S the picture's side.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.networks.map_fit import cell_places
from jaxface.systems.deep3d.rendering.image_formation import Coefficients, Decoded, Rendered

LANDMARKS = 68
# Bridge and tip of the nose and the inner lips count for twenty.
HEAVY, HEAVY_WEIGHT = (28, 29, 30, *range(60, 68)), 20.0
SURELY_SKIN = 0.5
ATTENTIONS = ("posterior", "paper", "none")
DISTANCES = ("squared", "plain")
# Landmarks nearer than this, in pixels, are pulled less; and a landmark's heat map has this deviation in cells.
ROUND_PX, HEAT_CELLS = 1.0, 0.7


def photometric(image: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean colour distance () of pictures (B,S,S,3) over a mask (B,S,S) of weights, taken over the whole batch."""
    distance = jnp.sqrt(((image - target) ** 2).sum(-1) + 1e-6)
    return (distance * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def skin_attention(posterior: jax.Array, rule: str) -> jax.Array:
    """Weights (B,S,S) of the probability of skin: "posterior" as it is, as in both codes; "paper": 1 above one half."""
    return jnp.where(posterior > SURELY_SKIN, 1.0, posterior) if rule == "paper" else posterior


def landmark_weights() -> np.ndarray:
    """Weights (68,)."""
    weights = np.ones(LANDMARKS, np.float32)
    weights[list(HEAVY)] = HEAVY_WEIGHT
    return weights


def landmark_distance(points: jax.Array, target: jax.Array, kind: str = "squared") -> jax.Array:
    """Mean distance () of points (B,68,2) in pixels of the 224 px crop.

    `kind`: "squared" and weighted as published, or "plain" (ours), in which the worst landmarks do not decide.
    """
    if kind == "plain":
        return known_distance(points, target)
    return (((points - target) ** 2).sum(-1) * landmark_weights()).mean()


def heat_map(log_attention: jax.Array, target: jax.Array) -> jax.Array:
    """Mean cross-entropy () of a reader's log_attention (B,h*w,K) with Gaussians about points (B,K,2), NaN: unknown."""
    side = math.isqrt(log_attention.shape[1])
    places = cell_places(side).reshape(side, side, 2)
    columns, rows = places[0, :, 0], places[:, 0, 1]
    deviation = HEAT_CELLS * (columns[1] - columns[0])
    known, target = _known(target)

    def gaussian(line: jax.Array, middle: jax.Array) -> jax.Array:
        return jax.nn.softmax(-((line[:, None] - middle[:, None]) ** 2) / (2 * deviation**2), axis=1)

    across, down = gaussian(columns, target[..., 0]), gaussian(rows, target[..., 1])
    wanted = down[:, :, None] * across[:, None] * known[:, None, None]
    return -(wanted.reshape(log_attention.shape) * log_attention).sum() / jnp.maximum(known.sum(), 1)


def known_distance(points: jax.Array, target: jax.Array) -> jax.Array:
    """Mean "plain" distance () of points (B,K,2) to those (B,K,2) that are not NaN."""
    known, target = _known(target)
    distance = jnp.sqrt(((points - target) ** 2).sum(-1) + ROUND_PX**2)
    return (known * distance).sum() / jnp.maximum(known.sum(), 1)


def _known(target: jax.Array) -> tuple[jax.Array, jax.Array]:
    known = jnp.isfinite(target).all(-1)
    return known, jnp.where(known[..., None], target, 0.0)


def coefficient_size(coefficients: Coefficients, weights: ml_collections.ConfigDict) -> jax.Array:
    """Weighted squared length () of identity, expression and albedo, mean over the batch.

    The paper prints 1.7e-3 for albedo, both codes have 1.7e-2.
    """
    sizes = {name: (getattr(coefficients, name) ** 2).sum() for name in ("identity", "expression", "albedo")}
    return sum(weights[name] * size for name, size in sizes.items()) / len(coefficients.angles)


def light_color(light: jax.Array) -> jax.Array:
    """How much light (B,3,9) differs between channels (): mean squared distance to their mean. Not in the paper."""
    return ((light - light.mean(1, keepdims=True)) ** 2).mean()


def albedo_evenness(albedo: jax.Array, skin: jax.Array) -> jax.Array:
    """Variance () of albedo (B,V,3) over the vertices of skin (V,), channels summed, mean over the batch."""
    weight = skin[:, None] / jnp.maximum(skin.sum(), 1.0)
    mean = (albedo * weight).sum(1, keepdims=True)
    return ((albedo - mean) ** 2 * weight).sum() / len(albedo)


def cosine_distance(features: jax.Array, target: jax.Array) -> jax.Array:
    """1 - cosine () of unit features (B,F), mean over the batch."""
    return (1.0 - (features * target).sum(-1)).mean()


def terms(
    face: FaceModel,
    coefficients: Coefficients,
    decoded: Decoded,
    rendered: Rendered,
    batch: dict[str, jax.Array],
    settings: ml_collections.ConfigDict,
) -> dict[str, jax.Array]:
    """The unweighted terms that need no recognition net. `settings` is config.loss.

    Read of `batch`: image (B,S,S,3), landmarks (B,68,2) in pixels of the 224 px crop with y up, and, unless
    `settings.attention` is "none", skin (B,S,S) in [0,1]. `rendered` may be of the first pictures only.
    """
    count, mask = len(rendered.image), jax.lax.stop_gradient(rendered.crop.astype(jnp.float32))
    if settings.attention != "none":
        mask *= skin_attention(batch["skin"][:count], settings.attention)
    return {
        "photometric": photometric(rendered.image, batch["image"][:count], mask),
        "landmarks": landmark_distance(decoded.landmarks, batch["landmarks"], settings.distance),
        "coefficients": coefficient_size(coefficients, settings.coefficient_weights),
        "light": light_color(coefficients.light),
        "reflectance": albedo_evenness(decoded.albedo, face.skin),
    }


def weighted(measured: dict[str, jax.Array], weights: ml_collections.ConfigDict) -> jax.Array:
    """The total () of unweighted terms."""
    return sum(weights[name] * value for name, value in measured.items())
