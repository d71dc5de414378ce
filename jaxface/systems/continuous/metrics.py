"""Evaluation of landmarks of any layout: errors per example on the device, summaries on the host."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface import landmark_metrics
from jaxface.system import Batch, Tree
from jaxface.systems.continuous import crop_units, query_table
from jaxface.systems.continuous.deformer import Deformer
from jaxface.systems.continuous.losses import network_params
from jaxface.systems.continuous.model import Continuous
from jaxface.systems.continuous.query_table import QuerySet

NORMS = ("interocular", "interpupil", "box")
SUBSET = "subset_"


def score(
    net: Continuous,
    queries: QuerySet,
    sigma_scale: float,
    deformer: Deformer | None,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    constants: Tree,
) -> dict[str, jax.Array]:
    """`Evaluator.predict`: `errors` of the landmarks of a data set, and "picture" with true and predicted points.

    Learned offsets of the data set and the deformer move its queries: the answers follow its convention.
    error_over_sigma (B,) is the mean error over the mean sigma that is reported, scaled by `sigma_scale`
    (`config.model`); NaN without labels.
    """
    del constants
    moved = query_table.corrected_points(deformer, params, queries)
    asked = jnp.broadcast_to(moved, (len(batch["image"]), *moved.shape))
    points, sigma = net.apply({"params": network_params(params), **model_state}, batch["image"], asked)
    size = batch["image"].shape[1]
    truth = jnp.where(batch["valid"][..., None], batch["landmarks"], jnp.nan)
    truth_px, points_px = crop_units.to_pixels(truth, size), crop_units.to_pixels(points, size)
    picture = landmark_metrics.mark_landmarks(batch["image"], truth_px, points_px)
    valid = batch["valid"]
    mean_sigma = sigma_scale * (sigma * valid).sum(-1) / valid.sum(-1)
    relative = landmark_metrics.mean_distance(points, batch["landmarks"], valid) / mean_sigma
    return {**errors(points, batch), "error_over_sigma": relative, "picture": picture}


def errors(points: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Errors of each example under every norm.

    Args:
        points: (B,K,2) predictions in `crop_units`.
        batch: arrays of `data.preprocess_eval`.

    Returns:
        nme_interocular, nme_interpupil, nme_box (B,), NaN where the norm or every landmark is unlabelled; nme (B,), of
        rendered heads as in `landmark_errors`, else the first of the three norms that the layout has; nme_visible and
        yaw (B,) of rendered heads; found and subset_NAME (B,) bool as in the batch.
    """
    distance = landmark_metrics.mean_distance(points, batch["landmarks"], batch["valid"])
    distance = jnp.where(batch["valid"].any(-1), distance, jnp.nan)
    by_norm = {f"nme_{name}": distance / batch[f"norm_{name}"] for name in NORMS}
    main = landmark_errors(points, batch) if "eye_distance" in batch else {}
    flags = {name: batch[name] for name in batch if name == "found" or name.startswith(SUBSET)}
    return {**by_norm, **main, **flags}


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


def main_errors(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The NME (E,) by which a data set is ranked: `nme`, else that of the first norm that any example has.

    A face that the detector misses has an infinite error, an example without labels NaN.
    """
    names = ["nme", *(f"nme_{name}" for name in NORMS)]
    defined = [name for name in names if name in arrays and np.isfinite(arrays[name]).any()]
    nme = np.asarray(arrays[defined[0] if defined else names[-1]], np.float64)
    missed = ~np.asarray(arrays.get("found", np.ones(len(nme), bool)), bool)
    return np.where(missed & np.isfinite(nme), np.inf, nme)


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of the NME, failure rates and AUC, all in percent.

    Returns:
        nme; failure_rate and auc, at 10 %, and both at 8 and 10 % as failure_rate_8, …; nme_interocular,
        nme_interpupil and nme_box, where defined; nme, failure_rate_10 and auc_10 of each subset NAME as nme_NAME, …;
        of rendered heads nme_visible and nme_yaw_LOW_HIGH; with the detector's boxes `missed`. Faces that the detector
        misses are left out of the means and count as failures. Examples without labels are left out. error_over_sigma
        is a median and no percentage.
    """
    ranked = main_errors(arrays)
    scored = ~np.isnan(ranked)
    result = {"nme": _mean(ranked), **landmark_metrics.failures(ranked[scored])}
    result |= {"failure_rate": result["failure_rate_10"], "auc": result["auc_10"]}
    hit = np.asarray(arrays.get("found", scored), bool) & scored
    for name in (*(f"nme_{norm}" for norm in NORMS), "nme_visible"):
        if name in arrays and np.isfinite(arrays[name]).any():
            result[name] = _mean(arrays[name][hit])
    if "yaw" in arrays:
        result |= landmark_metrics.means_by_yaw("nme", ranked[hit], np.rad2deg(arrays["yaw"][hit]))
    if "found" in arrays:
        result["missed"] = 1 - np.mean(arrays["found"])
    for flag in (name for name in arrays if name.startswith(SUBSET)):
        inside = np.asarray(arrays[flag], bool) & scored
        if inside.any():
            subset = {"nme": _mean(ranked[inside]), **landmark_metrics.failures(ranked[inside], (0.10,))}
            result |= {f"{name}_{flag.removeprefix(SUBSET)}": value for name, value in subset.items()}
    percent = {name: 100 * float(value) for name, value in result.items()}
    if "error_over_sigma" in arrays and hit.any():
        percent["error_over_sigma"] = float(np.median(arrays["error_over_sigma"][hit]))
    return percent


def _mean(values: np.ndarray) -> float:
    """The mean of the finite values; NaN if there are none."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan
