"""Landmarks of the faces in an image: crop as in training, run the network, and crop again by the predicted landmarks.

The original's demo crops for every model by the rule of its self-trained net, whatever the training data (its issue
52). Here the crop is computed from the mean face: the first crop aligns the face box with the bounds of the mean face,
the second one the predicted landmarks. With square crops (`config.crop`) the second one is made for detected boxes
only.
"""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import jax
import ml_collections
import numpy as np

from jaxface import crops, detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.layouts import wflw_to_ibug
from jaxface.results import FaceLandmarks
from jaxface.systems.pipnet import decoding, model

CROPS = ("square", "meanface")
# Fraction of a box from hairline to chin that lies above the brows. Measured on the embedded head.
FOREHEAD = 0.2
# Extent of the landmarks in widths of the box and heights of its part below the forehead (default: 1, 1): layouts
# without a jaw line span the brows only.
SPANS = {"19": (0.76, 1.0), "29": (0.76, 1.0)}
# Landmarks of the user's own, if they are so few, are taken for eyes, nose and mouth.
OWN_LAYOUT, FEW_LANDMARKS, FEW_SPAN = "own", 10, (0.5, 0.55)
# Height of a face box in its widths.
BOX_RATIO = 1.3

Outputs = dict[str, np.ndarray]
RunNetwork = Callable[[Any, np.ndarray], Outputs]


def bind(
    net: model.PIPNet, votes: decoding.Votes, config: ml_collections.ConfigDict, meanface: np.ndarray
) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a net: `predict` with its first three arguments bound.

    `config` is `config.model`. Raises UserError for an unknown `config.crop`.
    """
    if config.crop not in CROPS:
        raise UserError(f"config.model.crop: unknown {config.crop!r}; choose one of {', '.join(CROPS)}")
    compiled = jax.jit(functools.partial(model.predict_landmarks, net))
    return functools.partial(predict, functools.partial(compiled, votes), config, meanface)


def predict(
    run_network: RunNetwork,
    config: ml_collections.ConfigDict,
    meanface: np.ndarray,
    params: Any,
    model_state: Any,
    image: np.ndarray,
    boxes: Any = None,
    layout: str | None = None,
    min_score: float | None = None,
    max_faces: int | None = None,
) -> list[FaceLandmarks]:
    """Landmarks of the faces in an image.

    `sigma` is the root mean square distance, per coordinate, of a landmark's own prediction and its neighbours' votes
    from their mean: not a calibrated error, but large where they disagree. `scores` are the highest values of the score
    maps, unbounded. `confidence` is None unless config.model.confidence.

    Args:
        run_network: `(variables, images (B,S,S,3) in [0,1]) -> landmarks (B,L,2) in crop units, scores and spread
            (B,L)`, see `decoding.decode`.
        config: `config.model`.
        meanface: (L,2) in crop units.
        params: parameters of the network.
        model_state: its further variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px; None detects faces.
        layout: the model's layout, or "68" for a model of layout "98".

        min_score, max_faces: see `detection.detect_faces`.

    Returns:
        Faces in the order of `boxes`, or the largest first.

    Raises:
        UserError: another layout, malformed boxes, or a network whose output is not finite.
    """
    if layout not in (None, config.layout) and (config.layout, layout) != ("98", "68"):
        raise UserError(f"layout: the model has the layout {config.layout!r} only, not {layout!r}; leave it out")
    detected = detection.check_or_detect(boxes, image, min_score, max_faces)
    if len(detected) == 0:
        return []
    initial_boxes, face_scores = detected.boxes, detected.known_scores()
    run = functools.partial(_run, functools.partial(run_network, {"params": params, **model_state}), image, config)
    if config.crop == "square":
        points, sigma, scores = run(_squares(initial_boxes))
        if boxes is None:
            points, sigma, scores = run(_squares(extents(points, config.layout)))
    else:
        points, _, _ = run(face_rectangles(initial_boxes, meanface, config.layout))
        points, sigma, scores = run(meanface_crops(points, meanface))
    face_extents = extents(points, config.layout)
    face_boxes = face_extents if boxes is None else initial_boxes
    confidence = decoding.confidence(scores)
    if layout not in (None, config.layout):
        points, sigma, scores, confidence = map(_as_68, (points, sigma, scores, confidence))
    return [
        FaceLandmarks(
            box=face_boxes[i],
            extent=face_extents[i],
            layout=layout or config.layout,
            points=points[i],
            sigma=sigma[i],
            score=face_scores[i],
            scores=scores[i],
            confidence=confidence[i] if config.confidence else None,
        )
        for i in range(len(points))
    ]


def _as_68(values: np.ndarray) -> np.ndarray:
    """Points (F,98,2), or one number per point (F,98), converted from the layout 98 to 68."""
    if values.ndim == 3:
        return wflw_to_ibug(values)
    # The converter takes points: each number becomes x and y. Column y is taken, as brows average y of two points.
    return wflw_to_ibug(np.stack([values, values], axis=-1))[..., 1]


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Square crops (F,4) px around boxes (F,4), as corners; see `alignment.square_crop`."""
    center, side = alignment.square_crop(boxes)
    return np.concatenate([center - side[:, None] / 2, center + side[:, None] / 2], axis=1).astype(np.float64)


def face_rectangles(boxes: np.ndarray, meanface: np.ndarray, layout: str) -> np.ndarray:
    """First crops (F,4) px, in which boxes (F,4) without their foreheads have the bounds of the mean face (L,2)."""
    low, high = np.asarray(boxes[:, :2], np.float64), np.asarray(boxes[:, 2:], np.float64)
    low = low + (high - low) * [0, FOREHEAD]
    span = _span(layout, len(meanface))
    if crops.is_elongated(meanface):
        center, half = (low + high) / 2, (high - low) * [span[0] / 2, 0]
        return meanface_crops(np.stack([center - half, center + half], axis=1), meanface)
    margin = (high - low) * (1 - np.array(span)) / 2
    return meanface_crops(np.stack([low + margin, high - margin], axis=1), meanface)


def _span(layout: str, count: int) -> tuple[float, float]:
    """Extent of `count` landmarks in the face box, see SPANS."""
    return SPANS.get(layout, FEW_SPAN if _is_few(layout, count) else (1.0, 1.0))


def _is_few(layout: str, count: int) -> bool:
    """Whether a layout is the user's own and has at most FEW_LANDMARKS."""
    return layout == OWN_LAYOUT and count <= FEW_LANDMARKS


def extents(points: np.ndarray, layout: str) -> np.ndarray:
    """Boxes (F,4) px from hairline to chin and from side to side of points (F,N,2).

    The highest points are the brows, but for sets of few points, see FEW_LANDMARKS. Points that are nearly on a line
    are taken for a horizontal line through the middle of the face.
    """
    low, high = points.min(axis=1), points.max(axis=1)
    span = _span(layout, points.shape[1])
    size = (high - low) / span
    if _is_few(layout, points.shape[1]):
        elongated = np.array([crops.is_elongated(face) for face in points])[:, None]
        width = crops.diameter(points)[:, None] / span[0]
        size = np.where(elongated, width * [1, BOX_RATIO * (1 - FOREHEAD)], size)
    center = (low + high) / 2
    forehead = size * [0, FOREHEAD / (1 - FOREHEAD)]
    return np.concatenate([center - size / 2 - forehead, center + size / 2], axis=1)


def meanface_crops(points: np.ndarray, meanface: np.ndarray) -> np.ndarray:
    """Crops (F,4) px in which the bounds of points (F,N,2) are those of the mean face (L,2) in crop units.

    If the points of the mean face are nearly on a line, the crops are squares in which the largest distance of two
    points is that of the mean face.
    """
    low, high = points.min(axis=1), points.max(axis=1)
    mean_low, mean_high = meanface.min(axis=0), meanface.max(axis=0)
    if crops.is_elongated(meanface):
        size = np.maximum(crops.diameter(points), 1.0)[:, None] / np.repeat(crops.diameter(meanface), 2)
    else:
        size = np.maximum(high - low, 1.0) / (mean_high - mean_low)
    corner = (low + high) / 2 - (mean_low + mean_high) / 2 * size
    return np.concatenate([corner, corner + size], axis=1)


def _run(
    run_network: Callable[[np.ndarray], Outputs],
    image: np.ndarray,
    config: ml_collections.ConfigDict,
    rectangles: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs the network on crops.

    Args:
        run_network: `predict`'s with its variables bound.
        image: (H,W,3) uint8 RGB.
        config: `config.model`.
        rectangles: (F,4) px x0, y0, x1, y1 of the crops, pixel centres at integers.

    Returns:
        points (F,L,2) px, sigma (F,L) px and scores (F,L).
    """
    # Coordinate 0 is the centre of pixel 0, but in the original's labels, used with mean-face crops, its edge.
    edges = rectangles + 0.5 if config.crop == "square" else rectangles
    images = np.stack([cut(image, rectangle, config.image_size) for rectangle in edges]).astype(np.float32) / 255
    outputs = crops.run_in_batches(run_network, images)
    crops.check_finite(outputs["landmarks"], outputs["scores"])
    corner, size = rectangles[:, None, :2], (rectangles[:, 2:] - rectangles[:, :2])[:, None]
    points = corner + outputs["landmarks"].astype(np.float64) * size
    return points, outputs["spread"] * np.sqrt(size.prod(-1) / 2), outputs["scores"]


def cut(image: np.ndarray, rectangle: np.ndarray, size: int) -> np.ndarray:
    """The crop (size,size,3) uint8 of a rectangle x0, y0, x1, y1 px, measured between pixel edges.

    As `crops.cut`, but axis-aligned and with different scales along x and y. Raises UserError if the rectangle does not
    touch the image.
    """
    low, extent = rectangle[:2], rectangle[2:] - rectangle[:2]
    limit = np.array(image.shape[1::-1])
    first = np.maximum(np.floor(low - extent / 4), 0).astype(int)
    last = np.minimum(np.ceil(low + 1.25 * extent), limit).astype(int)
    if (first >= last).any():
        where, size_px = np.round(low).tolist(), f"{limit[0]} x {limit[1]}"
        raise UserError(f"crop: no image content at {where}; the image is {size_px} px")
    step = np.clip(np.round(extent / size).astype(int), 1, last - first)
    columns, rows = (last - first) // step
    region = image[first[1] : first[1] + rows * step[1], first[0] : first[0] + columns * step[0]]
    if step.max() > 1:
        region = cv2.resize(region, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    scale = size * step / extent
    offset = (0.5 - (low - first) / step) * scale - 0.5
    matrix = np.float64([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
    return cv2.warpAffine(region, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
