"""From a photograph to landmarks: a crop as the net was trained on, one answer, and where it helps a second crop.

The original's demo crops every model by its self-trained net's rule, whatever it was trained on (its issue 52). Here
the mean face says where in the crop a face lies, and a second crop puts the landmarks found where the mean face has
them. A net of square crops gets a second one only where the box was the detector's.
"""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import jax
import ml_collections
import numpy as np

from jaxface import photo
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.layouts import wflw_to_ibug
from jaxface.systems.pipnet import decoding, model

CROPS = ("square", "meanface")
# Of a box from hairline to chin, the part above the brows, and how much of its width the points of a layout span: those
# without a jaw line reach from brow to brow. Measured on the embedded head.
FOREHEAD = 0.2
SPANS = {"19": 0.76, "29": 0.76}
MAX_BATCH = 32

Answer = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


def bind(
    net: model.PIPNet, votes: decoding.Votes, config: ml_collections.ConfigDict, meanface: np.ndarray
) -> Callable[..., list[dict[str, Any]]]:
    """`System.predict` of a net and `config.model`; see `predict`. UserError for an unknown config.model.crop."""
    if config.crop not in CROPS:
        raise UserError(f"config.model.crop is {config.crop!r}; choose one of {', '.join(CROPS)}")
    compiled = jax.jit(functools.partial(model.answer, net))
    return functools.partial(predict, functools.partial(compiled, votes), config, meanface)


def predict(
    answer: Answer,
    config: ml_collections.ConfigDict,
    meanface: np.ndarray,
    params: Any,
    model_state: Any,
    pixels: np.ndarray,
    boxes: Any = None,
    layout: str | None = None,
) -> list[dict[str, Any]]:
    """The faces in `pixels` (H,W,3) uint8 RGB, the largest first, or those in `boxes` (4,) or (F,4), in their order.

    A face is a dict of box [4] (given or found), extent [4] (hairline to chin and side to side, by its landmarks),
    layout, points (L,2), sigma (L,) and scores (L,). sigma, in pixels and for each of x and y, is how far the own
    prediction and its neighbours' votes scatter: no calibrated error, but large where they disagree. With
    config.model.confidence also confidence (L,) in [0,1]. layout: the model's, or "68" of a model of 98. UserError:
    another layout, bad boxes, a network that gives no numbers.
    """
    if layout not in (None, config.layout) and (config.layout, layout) != ("98", "68"):
        raise UserError(f"the model knows the layout {config.layout!r} only, not {layout!r}")
    given = boxes is not None
    boxes = photo.check_boxes(boxes, pixels.shape[1], pixels.shape[0]) if given else photo.detect_faces(pixels)
    if len(boxes) == 0:
        return []
    ask = functools.partial(_ask, functools.partial(answer, {"params": params, **model_state}), pixels, config)
    if config.crop == "square":
        found = ask(_squares(boxes))
        if not given:
            found = ask(_squares(extents(found["points"], config.layout)))
    else:
        found = ask(inside(ask(face_rectangles(boxes, meanface, config.layout))["points"], meanface))
    found["extent"] = extents(found["points"], config.layout)
    if config.confidence:
        found["confidence"] = decoding.confidence(found["scores"])
    if layout not in (None, config.layout):
        found = {name: value if name == "extent" else _as_68(value) for name, value in found.items()}
    labels = {"layout": layout or config.layout}
    places = boxes if given else found["extent"]
    return [
        {"box": box, **labels, **{name: values[number] for name, values in found.items()}}
        for number, box in enumerate(places)
    ]


def _as_68(values: np.ndarray) -> np.ndarray:
    """Points (F,98,2), or one number of each (F,98), as those of 68 points."""
    if values.ndim == 3:
        return wflw_to_ibug(values)
    return wflw_to_ibug(np.stack([values, values], axis=-1))[..., 1]


def _squares(boxes: np.ndarray) -> np.ndarray:
    center, side = alignment.square_crop(boxes)
    return np.concatenate([center - side[:, None] / 2, center + side[:, None] / 2], axis=1).astype(np.float64)


def face_rectangles(boxes: np.ndarray, meanface: np.ndarray, layout: str) -> np.ndarray:
    """Crops (F,4) px in which the faces of boxes (F,4), hairline to chin, lie as the mean face (L,2) does."""
    low, high = np.asarray(boxes[:, :2], np.float64), np.asarray(boxes[:, 2:], np.float64)
    margin = (high - low) * [(1 - SPANS.get(layout, 1.0)) / 2, 0]
    low = low + margin + (high - low) * [0, FOREHEAD]
    return inside(np.stack([low, high - margin], axis=1), meanface)


def extents(points: np.ndarray, layout: str) -> np.ndarray:
    """Boxes (F,4) px from hairline to chin and from side to side of points (F,N,2) that begin at the brows."""
    low, high = points.min(axis=1), points.max(axis=1)
    margin = (high - low) * [(1 / SPANS.get(layout, 1.0) - 1) / 2, 0]
    forehead = (high - low) * [0, FOREHEAD / (1 - FOREHEAD)]
    return np.concatenate([low - margin - forehead, high + margin], axis=1)


def inside(points: np.ndarray, meanface: np.ndarray) -> np.ndarray:
    """Crops (F,4) px in which the extents of points (F,N,2) are those of the mean face (L,2) in crop units."""
    low, high = points.min(axis=1), points.max(axis=1)
    mean_low, mean_high = meanface.min(axis=0), meanface.max(axis=0)
    size = np.maximum(high - low, 1.0) / (mean_high - mean_low)
    corner = (low + high) / 2 - (mean_low + mean_high) / 2 * size
    return np.concatenate([corner, corner + size], axis=1)


def _ask(
    answer: Callable[[np.ndarray], dict[str, np.ndarray]],
    pixels: np.ndarray,
    config: ml_collections.ConfigDict,
    crops: np.ndarray,
) -> dict[str, np.ndarray]:
    """points (F,L,2), sigma, scores (F,L) for rectangles (F,4) px, measured between pixel centres."""
    # Pixel 0 is centred on 0 in the house; the original's labels have its edge there.
    edges = crops + 0.5 if config.crop == "square" else crops
    images = np.stack([cut(pixels, crop, config.image_size) for crop in edges]).astype(np.float32) / 255
    parts = []
    for chunk in np.split(images, range(MAX_BATCH, len(images), MAX_BATCH)):
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], _padding(len(chunk)), axis=0)])
        parts.append({name: np.asarray(value)[: len(chunk)] for name, value in answer(padded).items()})
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not all(np.isfinite(found[name]).all() for name in ("landmarks", "scores")):
        raise UserError("the network gives numbers that are not finite: its parameters are damaged")
    low, extent = crops[:, None, :2], (crops[:, 2:] - crops[:, :2])[:, None]
    return {
        "points": low + found["landmarks"].astype(np.float64) * extent,
        "sigma": found["spread"] * np.sqrt(extent.prod(-1) / 2),
        "scores": found["scores"],
    }


def _padding(count: int) -> int:
    """What is missing to the next power of two, so that a network is compiled for few sizes."""
    return (1 << (count - 1).bit_length()) - count


def cut(pixels: np.ndarray, crop: np.ndarray, size: int) -> np.ndarray:
    """The crop (size,size,3) uint8 of a rectangle x0, y0, x1, y1 px, measured between pixel edges.

    Where it leaves the picture, the picture is continued; a large one is first averaged, so that detail does not alias.
    UserError where it does not touch the picture.
    """
    low, extent = crop[:2], crop[2:] - crop[:2]
    limit = np.array(pixels.shape[1::-1])
    first = np.maximum(np.floor(low - extent / 4), 0).astype(int)
    last = np.minimum(np.ceil(low + 1.25 * extent), limit).astype(int)
    if (first >= last).any():
        raise UserError(f"there is no picture at {np.round(low).tolist()}; it measures {limit[0]} x {limit[1]}")
    step = np.clip(np.round(extent / size).astype(int), 1, last - first)
    columns, rows = (last - first) // step
    around = pixels[first[1] : first[1] + rows * step[1], first[0] : first[0] + columns * step[0]]
    if step.max() > 1:
        around = cv2.resize(around, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    scale = size * step / extent
    offset = (0.5 - (low - first) / step) * scale - 0.5
    matrix = np.float64([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
    return cv2.warpAffine(around, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
