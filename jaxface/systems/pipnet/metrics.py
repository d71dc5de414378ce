"""How good landmarks are: per-example errors on the device, summaries on the host.

The original's unit is the crop (x over its width, y over its height), in which a crop that is not square distorts
distances; errors in the picture's pixels are given beside it. Source: lib/functions.py, `compute_nme` and
`compute_fr_and_auc`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from jaxface.system import Batch, Tree
from jaxface.systems.pipnet import model
from jaxface.systems.pipnet.decoding import Votes

FAILURE_AT = 0.10
THRESHOLD_STEP = 1e-4


def score(
    net: Any, votes: Votes, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """`Evaluator.predict` of a network: errors, and the truth, from which the mean face's error is found."""
    del constants
    points = model.answer(net, votes, {"params": params, **model_state}, batch["image"])["landmarks"]
    kept = {name: batch[name] for name in ("landmarks", "norm_crop")}
    return {**errors(points, batch), **kept}


def errors(points: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Per-example errors (B,) `nme_crop` and `nme_pixels` of points (B,L,2) in crop units.

    Reads of `batch`: landmarks (B,L,2) in crop units, crop_px (B,2) width and height of the crop in pixels of the
    picture, and the normalising distance in both spaces, norm_crop and norm_px (B,).
    """
    difference = points - batch["landmarks"]
    pixels = difference * batch["crop_px"][:, None]
    return {
        "nme_crop": jnp.linalg.norm(difference, axis=-1).mean(-1) / batch["norm_crop"],
        "nme_pixels": jnp.linalg.norm(pixels, axis=-1).mean(-1) / batch["norm_px"],
    }


def failure_and_auc(nme: np.ndarray, failure_at: float = FAILURE_AT) -> tuple[float, float]:
    """Share of errors (E,) above `failure_at`, and area under the curve of those below (Simpson); both in [0,1]."""
    thresholds = np.arange(0, failure_at + THRESHOLD_STEP, THRESHOLD_STEP)
    share = (np.asarray(nme, np.float64)[:, None] <= thresholds).mean(0)
    return 1 - share[-1], scipy.integrate.simpson(share, x=thresholds) / failure_at


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean errors in percent, failure rate and area under the curve of `nme_crop` at 10 %, in percent too.

    `nme_mean_face` is what the best constant answer, the split's own mean face, would score in crop units.
    """
    landmarks = np.asarray(arrays["landmarks"], np.float64)
    constant = np.linalg.norm(landmarks.mean(0) - landmarks, axis=-1).mean(-1) / arrays["norm_crop"]
    failure, auc = failure_and_auc(arrays["nme_crop"])
    return {
        "nme_crop": 100 * np.mean(arrays["nme_crop"], dtype=np.float64),
        "nme_pixels": 100 * np.mean(arrays["nme_pixels"], dtype=np.float64),
        "nme_mean_face": 100 * constant.mean(),
        "failure_rate": 100 * failure,
        "auc": 100 * auc,
    }
