"""How good 3D points are: the original's errors, the 3DFAW challenge's, and what of the depth is more than pose."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch, Tree
from jaxface.systems.jvcr import transforms
from jaxface.systems.jvcr.model import JVCR

LANDMARKS = transforms.LANDMARKS
YAW_DEG = ((0, 30), (30, 60), (60, 90))
# Rounds in which a mean shape and its poses settle.
ROUNDS = 4
DRAWN_TRUE, DRAWN_FOUND = (0.1, 0.9, 0.1), (1.0, 0.2, 0.2)


def score(net: JVCR, mode: str, size: int, params: Tree, model_state: Tree, batch: Batch, constants: Tree) -> dict:
    """`Evaluator.predict`: `nme` (B,) in the crop; `predicted` and `truth` (B,68,3) in the picture; `known` (B,68).

    As in inference, in mode "clean" the answer is the mean of the crop's and its mirror image's.
    """
    del constants

    def ask(image: jax.Array) -> jax.Array:
        return (size - 1) * net.apply({"params": params, **model_state}, image)[1][:, :LANDMARKS]

    points, known, true = ask(batch["image"]), batch["known"][:, :LANDMARKS], batch["coordinates"][:, :LANDMARKS]
    if mode == "clean":
        points = (points + transforms.mirrored(ask(batch["image"][:, :, ::-1]), size - 1)) / 2
    return {
        "nme": box_error(points, true, known),
        "predicted": transforms.to_picture(mode, points, batch["center"], batch["side"], size),
        "truth": batch["points"],
        "known": known,
        "picture": drawn(batch["image"], points, true),
    }


def _distance(points: jax.Array, truth: jax.Array, known: jax.Array) -> jax.Array:
    """Mean distance (…) over the known points (…,N) bool of points (…,N,3), their mean depth being the truth's."""
    xp = alignment.namespace(points, truth)
    weight = known / known.sum(-1, keepdims=True)
    gap = (weight * (truth - points)[..., 2]).sum(-1, keepdims=True)
    shifted = xp.concatenate([points[..., :2], points[..., 2:] + gap[..., None]], -1)
    return (weight * xp.sqrt(((shifted - truth) ** 2).sum(-1))).sum(-1)


def box_error(points: jax.Array, truth: jax.Array, known: jax.Array) -> jax.Array:
    """The original's validation error (…): mean 3D distance of (…,N,3), depths aligned by their means, over the square
    root of the area of the true points' box in x and y. bboxNormMeanError of its utils/evaluation.py."""
    xp = alignment.namespace(points, truth)
    plane, inside = truth[..., :2], known[..., None]
    sides = xp.where(inside, plane, -xp.inf).max(-2) - xp.where(inside, plane, xp.inf).min(-2)
    return _distance(points, truth, known) / xp.sqrt(sides.prod(-1))


def ground_truth_error(points: jax.Array, truth: jax.Array, known: jax.Array) -> jax.Array:
    """GTE (…) of (…,68,3) in the picture: as `box_error`, over the true 3D distance of the outer eye corners.

    p2pNormMeanError of the original's utils/evaluation.py, after the 3DFAW challenge (Jeni et al., ECCVW 2016).
    """
    xp = alignment.namespace(points, truth)
    return _distance(points, truth, known) / xp.sqrt(_eyes(truth))


def _eyes(truth: jax.Array) -> jax.Array:
    left, right = LAYOUT_68.eye_corners
    return ((truth[..., left, :] - truth[..., right, :]) ** 2).sum(-1)


def posed(shape: np.ndarray, target: np.ndarray) -> np.ndarray:
    """shape (N,3) or (B,N,3) under the similarity that brings it nearest to each target (B,N,3)."""
    scale, rotation, translation = alignment.similarity(np.broadcast_to(shape, target.shape), target)
    turned = np.einsum("bij,bnj->bni", rotation, np.broadcast_to(shape, target.shape))
    return scale[:, None, None] * turned + translation[:, None]


def cross_view_error(points: np.ndarray, other: np.ndarray, known: np.ndarray) -> np.ndarray:
    """CVGTCE (B,) of points (B,68,3) against the truth (B,68,3) of the same face seen from another side.

    The mean distance that the best similarity leaves, over the outer eye corners' distance of that truth. Named by
    the 3DFAW challenge (Jeni et al., ECCV 2016 workshops), whose text was not at hand: the definition is written from
    its common description. Where a data set has one view of a face, its own truth does: it differs from that of
    another view by a similarity.
    """
    laid = np.stack([_posed_by(one, truth, seen) for one, truth, seen in zip(points, other, known, strict=True)])
    distance = np.linalg.norm(laid - other, axis=-1)
    return (distance * known).sum(-1) / known.sum(-1) / np.sqrt(_eyes(other))


def _posed_by(points: np.ndarray, target: np.ndarray, known: np.ndarray) -> np.ndarray:
    scale, rotation, translation = alignment.similarity(points[known], target[known])
    return scale * points @ rotation.T + translation


def mean_shape(shapes: np.ndarray) -> np.ndarray:
    """The mean (N,3) of shapes (B,N,3) freed of their similarities: generalised Procrustes analysis."""
    mean = canonical.queries("68") * np.array([1, -1, 1])
    for _ in range(ROUNDS):
        mean = posed(shapes, np.broadcast_to(mean, shapes.shape)).mean(0)
    return mean


def beyond_pose(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What of the depth is learned and not only posed, of predictions and truths (B,68,3) in the picture.

    The mean shape of the truths is laid onto each truth by its best similarity. Returns `gte_mean_shape`, its GTE in
    percent: what a perfect pose alone would have; and `depth_correlation`, between the depths that predictions and
    truths have beyond that posed mean (mean depths aligned), over all points. `depth_correlation_own_pose` lays the
    mean onto the predictions by their own pose.
    """
    mean = mean_shape(truth)
    base, own = posed(mean, truth), posed(mean, predicted)
    aligned = predicted[..., 2] + (truth - predicted)[..., 2].mean(-1, keepdims=True)
    remainder = truth[..., 2] - base[..., 2]
    known = np.ones(truth.shape[:2], bool)
    return {
        "gte_mean_shape": 100 * ground_truth_error(base, truth, known).mean(),
        "depth_correlation": _correlation(aligned - base[..., 2], remainder),
        "depth_correlation_own_pose": _correlation(predicted[..., 2] - own[..., 2], remainder),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over everything; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-12))


def yaw_deg(truth: np.ndarray) -> np.ndarray:
    """How far (B,) the heads of points (B,68,3) are turned to a side: of the template laid onto them."""
    template = np.broadcast_to(canonical.queries("68") * np.array([1, -1, 1]), truth.shape)
    _, rotation, _ = alignment.similarity(template, truth)
    return np.abs(np.rad2deg(np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2])))


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means in percent: `nme` (of the box), `gte`, both by yaw, `cvgtce`, and where all are known `beyond_pose`."""
    predicted, truth, known = (np.asarray(arrays[name], np.float64) for name in ("predicted", "truth", "known"))
    nme, gte = np.asarray(arrays["nme"], np.float64), ground_truth_error(predicted, truth, known)
    cross = cross_view_error(predicted, truth, np.asarray(arrays["known"], bool))
    result = {"nme": 100 * nme.mean(), "gte": 100 * gte.mean(), "cvgtce": 100 * cross.mean()}
    if known.all() and len(truth) > 1:
        result |= beyond_pose(predicted, truth)
    yaw = yaw_deg(truth)
    for low, high in YAW_DEG:
        inside = (yaw >= low) & (yaw < high)
        if inside.any():
            result |= {f"nme_yaw_{low}_{high}": 100 * nme[inside].mean()}
            result |= {f"gte_yaw_{low}_{high}": 100 * gte[inside].mean()}
    return {name: float(value) for name, value in result.items()}


def drawn(image: jax.Array, points: jax.Array, truth: jax.Array) -> jax.Array:
    """Pictures (B,S,S,3) with the true points as green and the found ones as red pixels; both (B,N,3) in the crop."""
    size = image.shape[1]
    for places, color in ((truth, DRAWN_TRUE), (points, DRAWN_FOUND)):
        at = jnp.round(places[..., :2]).astype(jnp.int32)
        at = jnp.where(at < 0, size, at)  # negative places would count from the end; beyond the end they are dropped
        image = image.at[jnp.arange(len(image))[:, None], at[..., 1], at[..., 0]].set(jnp.array(color), mode="drop")
    return image
