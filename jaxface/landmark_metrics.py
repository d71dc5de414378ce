"""Landmark metrics: NME under each published normalisation, failure rate, CED, AUC, per-yaw means, visual checks.

Errors are fractions (0.05 = 5 %). Functions of `Array` take numpy or JAX arrays and return the same kind.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import alignment
from jaxface.layouts import Layout

Array = jax.Array | np.ndarray

# A face with a larger NME counts as a failure, and the AUC ends here: FR@10 % and AUC@10 % of 300-W and WFLW.
FAILURE_THRESHOLD = 0.10
# 300-W is also published with 8 %.
FAILURE_THRESHOLDS = (0.08, FAILURE_THRESHOLD)
# Bins of |yaw| in degrees, as for AFLW2000-3D (Zhu et al., CVPR 2016).
YAW_BINS_DEG = ((0, 30), (30, 60), (60, 90))
TRUTH_RGB, PREDICTION_RGB = (0.1, 0.9, 0.1), (1.0, 0.2, 0.2)


def mean_distance(points: Array, truth: Array, valid: Array | None = None) -> Array:
    """Mean Euclidean distance between predicted and true landmarks.

    Args:
        points: (…,L,D) predictions.
        truth: (…,L,D) ground truth in the same unit.
        valid: (…,L) bool, landmarks that are averaged; None: all.

    Returns:
        (…) distances in that unit; 0 where no landmark is valid.
    """
    xp = alignment.namespace(points, truth)
    distances = xp.linalg.norm(points - truth, axis=-1)
    if valid is None:
        return distances.mean(-1)
    weights = xp.asarray(valid).astype(distances.dtype)
    return (distances * weights).sum(-1) / xp.maximum(weights.sum(-1), 1.0)


def nme(points: Array, truth: Array, norm: Array, valid: Array | None = None) -> Array:
    """Normalised mean error (…): `mean_distance` divided by the normalising distance `norm` (…) in the same unit.

    The norms of the literature are `interocular_distance`, `interpupil_distance` and `box_size` of the true landmarks,
    of the annotated face box (AFLW) or of the crop (PIPNet without eye corners).
    """
    return mean_distance(points, truth, valid) / norm


def interocular_distance(points: Array, eye_corners: Sequence[int]) -> Array:
    """Distance (…) between the two outer eye corners of landmarks (…,L,D); D is 2 or 3. Norm of 300-W and WFLW."""
    xp = alignment.namespace(points)
    left, right = eye_corners
    return xp.linalg.norm(points[..., left, :] - points[..., right, :], axis=-1)


def interpupil_distance(points: Array, layout: Layout) -> Array:
    """Distance (…) between the two eye centres of landmarks (…,L,D), each the mean of the eye's landmarks."""
    xp = alignment.namespace(points)
    left, right = (points[..., list(group), :].mean(-2) for group in layout.five[:2])
    return xp.linalg.norm(left - right, axis=-1)


def projected_interocular_px(points_mm: np.ndarray, focal_px: float, eye_corners: Sequence[int]) -> np.ndarray:
    """3D inter-ocular distance () in pixels, projected at the landmarks' mean depth.

    Unlike the distance in the image it does not shrink when the head turns, so profile views do not inflate the NME.

    Args:
        points_mm: (L,3) landmarks in camera space, z forward.
        focal_px: focal length.
        eye_corners: indices of the outer eye corners.
    """
    return focal_px * interocular_distance(points_mm, eye_corners) / points_mm[:, 2].mean()


def box_size(extent: Array) -> Array:
    """Norm (…) of a box: the square root of its area, from its width and height (…,2)."""
    xp = alignment.namespace(extent)
    return xp.sqrt(extent.prod(-1))


def landmark_extent(points: Array, valid: Array) -> Array:
    """Width and height (…,2) of the bounding box of landmarks (…,L,2+); `valid` (…,L) bool selects those that count."""
    xp = alignment.namespace(points)
    plane, inside = points[..., :2], valid[..., None]
    return xp.where(inside, plane, -xp.inf).max(-2) - xp.where(inside, plane, xp.inf).min(-2)


def failure_rate(errors: np.ndarray, threshold: float = FAILURE_THRESHOLD) -> float:
    """Share of the NMEs (E,) that exceed `threshold`."""
    return float(np.mean(np.asarray(errors, np.float64) > threshold))


def ced(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Cumulative error distribution (T,): share of the NMEs (E,) not above each of `thresholds` (T,)."""
    return (np.asarray(errors, np.float64)[:, None] <= thresholds).mean(0)


def auc(errors: np.ndarray, threshold: float = FAILURE_THRESHOLD) -> float:
    """Area under the CED of the NMEs (E,) from 0 to `threshold`, divided by `threshold`.

    Exact integral of the step function: an error e contributes max(0, 1 - e / threshold). Codebases that sample the CED
    and integrate numerically differ in the fourth digit; PIPNet's is `systems.pipnet.metrics.sampled_failure_and_auc`.
    """
    return float(np.mean(np.clip(1 - np.asarray(errors, np.float64) / threshold, 0, 1)))


def failures(errors: np.ndarray, thresholds: Sequence[float] = FAILURE_THRESHOLDS) -> dict[str, float]:
    """Failure rate and AUC of the NMEs (E,) at each threshold, as {"failure_rate_8": share, "auc_8": area, …}."""
    found = {}
    for threshold in thresholds:
        percent = f"{100 * threshold:g}"
        found[f"failure_rate_{percent}"] = failure_rate(errors, threshold)
        found[f"auc_{percent}"] = auc(errors, threshold)
    return found


def means_by_yaw(name: str, errors: np.ndarray, yaw_deg: np.ndarray) -> dict[str, float]:
    """Mean error of each non-empty bin of |yaw|, as {"<name>_yaw_<low>_<high>": mean}.

    Args:
        name: prefix of the keys.
        errors: (E,) one value per example.
        yaw_deg: (E,) head yaw in degrees, of either sign.
    """
    yaw = np.abs(yaw_deg)
    means = {}
    for low, high in YAW_BINS_DEG:
        inside = (yaw >= low) & (yaw < high)
        if inside.any():
            means[f"{name}_yaw_{low}_{high}"] = float(errors[inside].mean())
    return means


def mark_landmarks(image: jax.Array, truth_px: jax.Array, points_px: jax.Array) -> jax.Array:
    """Images with one coloured pixel per landmark: truth green, predictions red on top.

    Args:
        image: (B,S,S,3) RGB in [0,1].
        truth_px: (B,L,2+) ground truth in pixels of the image, NaN where unlabelled; further columns are ignored.
        points_px: (B,L,2+) predictions.
    """
    size = image.shape[1]
    for landmarks, color in ((truth_px, TRUTH_RGB), (points_px, PREDICTION_RGB)):
        pixel = jnp.round(jnp.nan_to_num(landmarks[..., :2], nan=-1.0)).astype(jnp.int32)
        # JAX wraps negative indices around; indices beyond the end are dropped.
        pixel = jnp.where(pixel < 0, size, pixel)
        rows = jnp.arange(len(image))[:, None]
        image = image.at[rows, pixel[..., 1], pixel[..., 0]].set(jnp.array(color), mode="drop")
    return image
