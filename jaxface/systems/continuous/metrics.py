"""Evaluation of the 68 landmarks: errors per example on the device, summaries on the host."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface import landmark_metrics
from jaxface.heads import canonical
from jaxface.system import Batch, Tree
from jaxface.systems.continuous import crop_units
from jaxface.systems.continuous.model import Continuous


def score(net: Continuous, params: Tree, model_state: Tree, batch: Batch, constants: Tree) -> dict[str, jax.Array]:
    """`Evaluator.predict`: `landmark_errors` of the 68 landmarks, and "picture" with true and predicted points."""
    del constants
    queries = jnp.broadcast_to(canonical.queries("68"), (len(batch["image"]), 68, 3))
    points, _ = net.apply({"params": params, **model_state}, batch["image"], queries)
    size = batch["image"].shape[1]
    truth_px, points_px = crop_units.to_pixels(batch["landmarks"], size), crop_units.to_pixels(points, size)
    picture = landmark_metrics.mark_landmarks(batch["image"], truth_px, points_px)
    return {**landmark_errors(points, batch), "picture": picture}


def landmark_errors(points: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """NME of each example over the projected 3D inter-ocular distance.

    Args:
        points: (B,68,2) predictions in `crop_units`.
        batch: landmarks (B,68,2) in the same unit, visible (B,68) bool, eye_distance (B,), the normalising
            distance (`landmark_metrics.projected_interocular_px`) in the same unit, yaw_rad (B,).

    Returns:
        nme (B,) over all landmarks, nme_visible (B,) over the visible ones, yaw (B,) rad.
    """
    truth, norm = batch["landmarks"], batch["eye_distance"]
    return {
        "nme": landmark_metrics.nme(points, truth, norm),
        "nme_visible": landmark_metrics.nme(points, truth, norm, batch["visible"]),
        "yaw": batch["yaw_rad"],
    }


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean NME (all, visible, by yaw), failure rate and AUC at 10 %, all in percent."""
    nme = np.asarray(arrays["nme"], np.float64)
    result = {
        "nme": nme.mean(),
        "nme_visible": np.mean(arrays["nme_visible"]),
        "failure_rate": landmark_metrics.failure_rate(nme),
        "auc": landmark_metrics.auc(nme),
        **landmark_metrics.means_by_yaw("nme", nme, np.rad2deg(arrays["yaw"])),
    }
    return {name: 100 * float(value) for name, value in result.items()}
