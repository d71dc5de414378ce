"""Landmarks of the faces in an image: a crop as in training, one network pass, and where it helps a second crop.

The original's demo crops for every model by the rule of its self-trained net, whatever the training data (its issue
52). Here the mean face tells where in the crop a face lies, and the second crop puts the landmarks where the mean face
has them. A net of square crops gets a second crop only if the box was detected.
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
# Width that the points of a layout span, in widths of the box: layouts without a jaw line reach from brow to brow.
SPANS = {"19": 0.76, "29": 0.76}

Outputs = dict[str, np.ndarray]
RunNetwork = Callable[[Any, np.ndarray], Outputs]


def bind(
    net: model.PIPNet, votes: decoding.Votes, config: ml_collections.ConfigDict, meanface: np.ndarray
) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a net and `config.model`; see `predict`. Raises UserError for an unknown `config.crop`."""
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
) -> list[FaceLandmarks]:
    """Landmarks of the faces in an image.

    `sigma`, for each of x and y, is the spread of a landmark's own prediction and its neighbours' votes: not a
    calibrated error, but large where they disagree. `confidence` is present with config.model.confidence.

    Args:
        run_network: `(variables, image (B,S,S,3)) -> landmarks (B,L,2) in crop units, scores and spread (B,L)`.
        config: `config.model`.
        meanface: (L,2), in crop units.
        params: parameters of the network.
        model_state: its further variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px; None detects faces.
        layout: the model's layout, or "68" for a model of layout "98".

    Returns:
        Faces in the order of `boxes`, or the largest first.

    Raises:
        UserError: another layout, malformed boxes, or a network whose output is not finite.
    """
    if layout not in (None, config.layout) and (config.layout, layout) != ("98", "68"):
        raise UserError(f"layout: the model has the layout {config.layout!r} only, not {layout!r}")
    start = detection.given_or_detected(boxes, image)
    if len(start) == 0:
        return []
    run = functools.partial(_run, functools.partial(run_network, {"params": params, **model_state}), image, config)
    if config.crop == "square":
        fields = run(_squares(start))
        if boxes is None:
            fields = run(_squares(extents(fields["points"], config.layout)))
    else:
        first = run(face_rectangles(start, meanface, config.layout))
        fields = run(meanface_crops(first["points"], meanface))
    extent = extents(fields["points"], config.layout)
    if config.confidence:
        fields["confidence"] = decoding.confidence(fields["scores"])
    if layout not in (None, config.layout):
        fields = {name: _as_68(values) for name, values in fields.items()}
    face_boxes = extent if boxes is None else start
    faces = []
    for i, box in enumerate(face_boxes):
        own = {name: values[i] for name, values in fields.items()}
        faces.append(FaceLandmarks(box=box, extent=extent[i], layout=layout or config.layout, **own))
    return faces


def _as_68(values: np.ndarray) -> np.ndarray:
    """Points (F,98,2), or one number of each (F,98), converted to the layout 68."""
    if values.ndim == 3:
        return wflw_to_ibug(values)
    return wflw_to_ibug(np.stack([values, values], axis=-1))[..., 1]


def _squares(boxes: np.ndarray) -> np.ndarray:
    center, side = alignment.square_crop(boxes)
    return np.concatenate([center - side[:, None] / 2, center + side[:, None] / 2], axis=1).astype(np.float64)


def face_rectangles(boxes: np.ndarray, meanface: np.ndarray, layout: str) -> np.ndarray:
    """Crops (F,4) px in which faces with boxes (F,4), from hairline to chin, lie as the mean face (L,2) does."""
    low, high = np.asarray(boxes[:, :2], np.float64), np.asarray(boxes[:, 2:], np.float64)
    margin = (high - low) * [(1 - SPANS.get(layout, 1.0)) / 2, 0]
    low = low + margin + (high - low) * [0, FOREHEAD]
    return meanface_crops(np.stack([low, high - margin], axis=1), meanface)


def extents(points: np.ndarray, layout: str) -> np.ndarray:
    """Boxes (F,4) px from hairline to chin and from side to side of points (F,N,2) that begin at the brows."""
    low, high = points.min(axis=1), points.max(axis=1)
    margin = (high - low) * [(1 / SPANS.get(layout, 1.0) - 1) / 2, 0]
    forehead = (high - low) * [0, FOREHEAD / (1 - FOREHEAD)]
    return np.concatenate([low - margin - forehead, high + margin], axis=1)


def meanface_crops(points: np.ndarray, meanface: np.ndarray) -> np.ndarray:
    """Crops (F,4) px in which the bounds of points (F,N,2) are those of the mean face (L,2) in crop units."""
    low, high = points.min(axis=1), points.max(axis=1)
    mean_low, mean_high = meanface.min(axis=0), meanface.max(axis=0)
    size = np.maximum(high - low, 1.0) / (mean_high - mean_low)
    corner = (low + high) / 2 - (mean_low + mean_high) / 2 * size
    return np.concatenate([corner, corner + size], axis=1)


def _run(
    run_network: Callable[[np.ndarray], Outputs],
    image: np.ndarray,
    config: ml_collections.ConfigDict,
    rectangles: np.ndarray,
) -> Outputs:
    """points (F,L,2), sigma, scores (F,L) for rectangles (F,4) px, measured between pixel centres."""
    # Here pixel 0 is centred on coordinate 0; in the original's labels its edge lies there.
    edges = rectangles + 0.5 if config.crop == "square" else rectangles
    images = np.stack([cut(image, rectangle, config.image_size) for rectangle in edges]).astype(np.float32) / 255
    outputs = crops.run_in_batches(run_network, images)
    crops.check_finite(outputs["landmarks"], outputs["scores"])
    low, extent = rectangles[:, None, :2], (rectangles[:, 2:] - rectangles[:, :2])[:, None]
    return {
        "points": low + outputs["landmarks"].astype(np.float64) * extent,
        "sigma": outputs["spread"] * np.sqrt(extent.prod(-1) / 2),
        "scores": outputs["scores"],
    }


def cut(image: np.ndarray, rectangle: np.ndarray, size: int) -> np.ndarray:
    """The crop (size,size,3) uint8 of a rectangle x0, y0, x1, y1 px, measured between pixel edges.

    As `crops.cut`, but axis-aligned and scaled by its own factor along x and y. Raises UserError if the rectangle does
    not touch the image.
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
