"""Evaluation of PIPNet: errors per example on the device, summaries on the host.

The original measures in units of the crop (x over its width, y over its height), where a crop that is not square
distorts distances; errors in pixels of the photo are reported as well. Source: jhb86253817/PIPNet, lib/functions.py,
`compute_nme` and `compute_fr_and_auc`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from jaxface import landmark_metrics
from jaxface.system import Batch, Tree
from jaxface.systems.pipnet import model
from jaxface.systems.pipnet.decoding import Votes

# Sampling step of the CED in the original's `compute_fr_and_auc`.
THRESHOLD_STEP = 1e-4


def score(
    net: Any, votes: Votes, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """`Evaluator.predict`: `errors` of the network, and the ground truth for the mean-face baseline of `summarise`."""
    del constants
    points = model.predict_landmarks(net, votes, {"params": params, **model_state}, batch["image"])["landmarks"]
    truth = {name: batch[name] for name in ("landmarks", "norm_crop")}
    return {**errors(points, batch), **truth}


def errors(points: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """NME of each example in units of the crop and in pixels of the photo.

    Args:
        points: (B,L,2) predictions in crop units.
        batch: landmarks (B,L,2) in crop units, NaN for missing ones; crop_px (B,2), width and height of the crop in the
            photo; norm_crop and norm_px (B,), the normalising distance in crop units and in pixels.

    Returns:
        nme_crop (B,) and nme_pixels (B,), NaN for an example without normalising distance or annotated landmark.
    """
    valid = jnp.isfinite(batch["landmarks"]).all(-1)
    offset = jnp.where(valid[..., None], points - batch["landmarks"], 0.0)
    offset_px = offset * batch["crop_px"][:, None]
    unscored = jnp.where(valid.any(-1), 0.0, jnp.nan)
    zero = jnp.zeros_like(offset)
    return {
        "nme_crop": landmark_metrics.nme(offset, zero, batch["norm_crop"], valid) + unscored,
        "nme_pixels": landmark_metrics.nme(offset_px, zero, batch["norm_px"], valid) + unscored,
    }


def sampled_failure_and_auc(
    nme: np.ndarray, threshold: float = landmark_metrics.FAILURE_THRESHOLD
) -> tuple[float, float]:
    """Failure rate and AUC of NMEs (E,) as PIPNet publishes them: the CED sampled every 1e-4, Simpson's rule.

    Differs in the fourth digit from `landmark_metrics.auc`, which integrates exactly.

    Returns:
        failure rate and AUC, both in [0,1].
    """
    thresholds = np.arange(0, threshold + THRESHOLD_STEP, THRESHOLD_STEP)
    share = landmark_metrics.ced(nme, thresholds)
    return 1 - share[-1], scipy.integrate.simpson(share, x=thresholds) / threshold


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean NMEs, failure rate and AUC of `nme_crop` at 10 %, all in percent.

    Missing landmarks do not count, nor do examples without an error (see `errors`). `nme_mean_face` is the NME in crop
    units of a constant prediction, the mean face of the split.
    """
    scored = np.isfinite(arrays["nme_crop"])
    arrays = {name: values[scored] for name, values in arrays.items()}
    landmarks = np.asarray(arrays["landmarks"], np.float64)
    valid = np.isfinite(landmarks).all(-1)
    landmarks = np.where(valid[..., None], landmarks, 0.0)
    mean_face = landmarks.sum(0) / np.maximum(valid.sum(0), 1)[:, None]
    mean_face_nme = landmark_metrics.nme(mean_face, landmarks, arrays["norm_crop"], valid)
    failure_rate, auc = sampled_failure_and_auc(arrays["nme_crop"])
    return {
        "nme_crop": 100 * np.mean(arrays["nme_crop"], dtype=np.float64),
        "nme_pixels": 100 * np.mean(arrays["nme_pixels"], dtype=np.float64),
        "nme_mean_face": 100 * mean_face_nme.mean(),
        "failure_rate": 100 * failure_rate,
        "auc": 100 * auc,
    }
