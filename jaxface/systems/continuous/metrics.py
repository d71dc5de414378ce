"""How good the 68 points are: per-example errors on the device, summaries on the host."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads import canonical
from jaxface.system import Batch, Tree
from jaxface.systems.continuous.model import Continuous

FAILURE_AT = 0.10
DRAWN_TRUE, DRAWN_FOUND = (0.1, 0.9, 0.1), (1.0, 0.2, 0.2)


def score(net: Continuous, params: Tree, model_state: Tree, batch: Batch, constants: Tree) -> dict[str, jax.Array]:
    """`Evaluator.predict` of a network: the errors of the 68 points, and pictures of them."""
    del constants
    queries = jnp.broadcast_to(canonical.queries("68"), (len(batch["image"]), 68, 3))
    points, _ = net.apply({"params": params, **model_state}, batch["image"], queries)
    return {**landmark_errors(points, batch), "picture": drawn(batch["image"], points, batch["landmarks"])}


def landmark_errors(points: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Per-example errors of points (B,68,2) in [-1,1] of the crop.

    Reads of `batch`: landmarks (B,68,2) in the same unit, visible (B,68) bool, and eye_distance (B,), the outer eye
    corners' distance in space seen at the head's depth, so that turning the head does not inflate the error.
    """
    distance = jnp.linalg.norm(points - batch["landmarks"], axis=-1) / batch["eye_distance"][:, None]
    seen = batch["visible"].astype(distance.dtype)
    return {
        "nme": distance.mean(-1),
        "nme_visible": (distance * seen).sum(-1) / jnp.maximum(seen.sum(-1), 1.0),
        "yaw": batch["yaw_rad"],
    }


def drawn(image: jax.Array, points: jax.Array, landmarks: jax.Array) -> jax.Array:
    """Pictures (B,S,S,3) with the true points as green and the found ones as red pixels; both (B,68,2) in [-1,1]."""
    size = image.shape[1]
    for places, color in ((landmarks, DRAWN_TRUE), (points, DRAWN_FOUND)):
        at = jnp.round((places + 1) * size / 2 - 0.5).astype(jnp.int32)
        at = jnp.where(at < 0, size, at)  # negative places would count from the end; beyond the end they are dropped
        image = image.at[jnp.arange(len(image))[:, None], at[..., 1], at[..., 0]].set(jnp.array(color), mode="drop")
    return image


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean errors in percent of the eye distance, the failure rate and the area under the error curve at 10 %."""
    nme = np.asarray(arrays["nme"], np.float64)
    yaw = np.abs(np.rad2deg(arrays["yaw"]))
    result = {
        "nme": 100 * nme.mean(),
        "nme_visible": 100 * np.mean(arrays["nme_visible"]),
        "failure_rate": 100 * np.mean(nme > FAILURE_AT),
        "auc": 100 * np.mean(np.clip(1 - nme / FAILURE_AT, 0, 1)),
    }
    for low, high in ((0, 30), (30, 60), (60, 90)):
        inside = (yaw >= low) & (yaw < high)
        if inside.any():
            result[f"nme_yaw_{low}_{high}"] = 100 * nme[inside].mean()
    return {name: float(value) for name, value in result.items()}
