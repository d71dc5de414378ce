"""Evaluation of 3D landmarks: errors of the original and of the 3DFAW challenge, and depth that pose does not explain.

Points are (…,68,3), z towards the viewer unless said otherwise; errors are fractions until `summarise`.
"""

import jax
import numpy as np

from jaxface import landmark_metrics
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch, Tree
from jaxface.systems.jvcr import transforms
from jaxface.systems.jvcr.model import JVCR

LANDMARKS = transforms.LANDMARKS
# Iterations of generalised Procrustes analysis, after which the mean shape and its poses have settled.
PROCRUSTES_ITERATIONS = 4


def score(net: JVCR, mode: str, size: int, params: Tree, model_state: Tree, batch: Batch, constants: Tree) -> dict:
    """`Evaluator.predict` of a network with crops of `size` pixels.

    In mode "clean" the prediction is averaged with that of the mirrored crop, as in inference.

    Returns:
        nme (B,) `box_error` in the crop; predicted, truth (B,68,3) px of the image; valid (B,68) bool; picture
        (B,S,S,3) in [0,1], the crops with both sets of landmarks.
    """
    del constants

    def run_network(image: jax.Array) -> jax.Array:
        return (size - 1) * net.apply({"params": params, **model_state}, image)[1][:, :LANDMARKS]

    valid, truth = batch["valid"][:, :LANDMARKS], batch["coordinates"][:, :LANDMARKS]
    points = run_network(batch["image"])
    if mode == "clean":
        points = (points + transforms.mirror(run_network(batch["image"][:, :, ::-1]), size - 1)) / 2
    return {
        "nme": box_error(points, truth, valid),
        "predicted": transforms.to_image(mode, points, batch["center"], batch["side"], size),
        "truth": batch["points"],
        "valid": valid,
        "picture": landmark_metrics.mark_landmarks(batch["image"], truth, points),
    }


def _depth_aligned(points: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """Points (…,N,3) shifted in z so that the mean depth of their valid (…,N) landmarks is the truth's."""
    xp = alignment.namespace(points, truth)
    weight = valid / valid.sum(-1, keepdims=True)
    gap = (weight * (truth - points)[..., 2]).sum(-1, keepdims=True)
    return xp.concatenate([points[..., :2], points[..., 2:] + gap[..., None]], -1)


def box_error(points: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """The original's validation error (…): mean 3D distance over the size of the truth's bounding box in x and y.

    Mean depths are aligned first. Source: bboxNormMeanError of the original's utils/evaluation.py.
    """
    norm = landmark_metrics.box_size(landmark_metrics.landmark_extent(truth, valid))
    return landmark_metrics.nme(_depth_aligned(points, truth, valid), truth, norm, valid)


def ground_truth_error(points: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """Ground truth error, GTE (…): mean 3D distance over the true 3D distance of the outer eye corners.

    Mean depths are aligned first. Source: p2pNormMeanError of the original's utils/evaluation.py, after the 3DFAW
    challenge (Jeni et al., ECCVW 2016).
    """
    norm = landmark_metrics.interocular_distance(truth, LAYOUT_68.eye_corners)
    return landmark_metrics.nme(_depth_aligned(points, truth, valid), truth, norm, valid)


def align_shape(shape: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Shape (N,3) or (B,N,3) under the least-squares similarity to each target (B,N,3)."""
    shape = np.broadcast_to(shape, target.shape)
    scale, rotation, translation = alignment.similarity(shape, target)
    rotated = np.einsum("bij,bnj->bni", rotation, shape)
    return scale[:, None, None] * rotated + translation[:, None]


def cross_view_error(points: np.ndarray, other_truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Cross-view ground truth consistency error, CVGTCE (B,), against the truth of the same face in another view.

    The mean residual of the least-squares similarity, divided by the inter-ocular distance of that truth. The metric is
    that of the 3DFAW challenge (Jeni et al., ECCVW 2016), whose text was not available; this follows the common
    description. A data set with one view per face uses the truth of the same view: the truths of two views differ by a
    similarity.

    Args:
        points: (B,68,3) predictions.
        other_truth: (B,68,3) truth of the other view.
        valid: (B,68) bool.
    """
    aligned = np.stack([_align_valid(*face) for face in zip(points, other_truth, valid, strict=True)])
    norm = landmark_metrics.interocular_distance(other_truth, LAYOUT_68.eye_corners)
    return landmark_metrics.nme(aligned, other_truth, norm, valid)


def _align_valid(points: np.ndarray, target: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Points (68,3) under the similarity that aligns the valid (68,) ones to the target (68,3)."""
    scale, rotation, translation = alignment.similarity(points[valid], target[valid])
    return scale * points @ rotation.T + translation


def _template() -> np.ndarray:
    """The template's landmarks (68,3) with y down as in images."""
    return canonical.queries("68") * np.array([1, -1, 1])


def mean_shape(shapes: np.ndarray) -> np.ndarray:
    """Mean (N,3) of shapes (B,N,3) up to similarity: generalised Procrustes analysis."""
    mean = _template()
    for _ in range(PROCRUSTES_ITERATIONS):
        mean = align_shape(shapes, np.broadcast_to(mean, shapes.shape)).mean(0)
    return mean


def beyond_pose(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How well the prediction explains depth that the pose of a mean face does not.

    The baseline is the mean shape of the truths, aligned to each truth: the prediction of a perfect pose alone.

    Args:
        predicted: (B,68,3) px of the image.
        truth: (B,68,3) px.

    Returns:
        gte_mean_shape: GTE of the aligned mean shape, in percent.
        depth_correlation: Pearson correlation, over all points, between the depth residuals of predictions and truths
            from the aligned mean shape; mean depths are aligned first.
        depth_correlation_own_pose: the same with the prediction's residual from the mean shape aligned to the
            prediction.
    """
    mean = mean_shape(truth)
    in_true_pose, in_predicted_pose = align_shape(mean, truth), align_shape(mean, predicted)
    aligned_depth = predicted[..., 2] + (truth - predicted)[..., 2].mean(-1, keepdims=True)
    residual = truth[..., 2] - in_true_pose[..., 2]
    valid = np.ones(truth.shape[:2], bool)
    return {
        "gte_mean_shape": 100 * ground_truth_error(in_true_pose, truth, valid).mean(),
        "depth_correlation": _correlation(aligned_depth - in_true_pose[..., 2], residual),
        "depth_correlation_own_pose": _correlation(predicted[..., 2] - in_predicted_pose[..., 2], residual),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation over all elements; 0 where one of the arrays is constant."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-12))


def yaw_deg(truth: np.ndarray) -> np.ndarray:
    """|Yaw| (B,) of heads with landmarks (B,68,3), from the similarity of the template to them."""
    _, rotation, _ = alignment.similarity(np.broadcast_to(_template(), truth.shape), truth)
    return np.abs(np.rad2deg(np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2])))


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means in percent: `nme` (box norm), `gte`, both also by yaw, `cvgtce`; `beyond_pose` if all points are valid."""
    predicted, truth, valid = (np.asarray(arrays[name], np.float64) for name in ("predicted", "truth", "valid"))
    nme, gte = np.asarray(arrays["nme"], np.float64), ground_truth_error(predicted, truth, valid)
    cvgtce = cross_view_error(predicted, truth, np.asarray(arrays["valid"], bool))
    result = {"nme": 100 * nme.mean(), "gte": 100 * gte.mean(), "cvgtce": 100 * cvgtce.mean()}
    if valid.all() and len(truth) > 1:
        result |= beyond_pose(predicted, truth)
    yaw = yaw_deg(truth)
    by_yaw = landmark_metrics.means_by_yaw("nme", nme, yaw) | landmark_metrics.means_by_yaw("gte", gte, yaw)
    result |= {name: 100 * value for name, value in by_yaw.items()}
    return {name: float(value) for name, value in result.items()}
