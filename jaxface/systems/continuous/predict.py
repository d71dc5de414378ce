"""From a photograph to points: crop, ask, realign the crop by the network's own landmarks, ask again.

Not in the paper, which leaves the alignment to another detector: here the network aligns itself.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxface import photo
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical

# How often the crop is realigned before the last answer: after the cascade's rough box, after a box that was given.
PASSES_DETECTED, PASSES_GIVEN = 2, 1
# Above this median sigma (1 = half a crop), or when it would move or resize more than so, a crop stays where it is.
UNSURE = 0.12
LARGEST_SHIFT, LARGEST_RESIZE = 0.5, 1.6
# The hairline lies above the brow points by this part of brows to chin: a face of 63 mm between the pupils then
# measures 181 mm from hairline to chin, as faces do on average.
FOREHEAD = 0.3
BROWS, CHIN = slice(17, 27), slice(7, 10)

# Shapes are padded to few sizes, so that a network is compiled a few times only.
MAX_BATCH = 32
QUERY_SIZES = (128, 512, 2048)
# Template units are 100 mm: what is farther out is in another unit.
LARGEST_QUERY = 10.0


@dataclasses.dataclass(frozen=True)
class Network:
    """The compiled halves of a network: encode(variables, image) and query(variables, features, queries, valid)."""

    encode: Callable[..., jax.Array]
    query: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int


@dataclasses.dataclass(frozen=True)
class Crops:
    """Squares of F faces: center (F,2) and side (F,) px, angle_rad (F,) of the eye line."""

    center: np.ndarray
    side: np.ndarray
    angle_rad: np.ndarray


def bind(model: Any, image_size: int) -> Callable[..., list[dict[str, Any]]]:
    """`System.predict` of a model with the methods `encode` and `query`; see `predict`."""
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    query = jax.jit(functools.partial(model.apply, method="query"))
    return functools.partial(predict, Network(encode, query, image_size))


def predict(
    network: Network, params: Any, model_state: Any, pixels: np.ndarray, boxes: Any = None, layout: Any = "68"
) -> list[dict[str, Any]]:
    """The faces in `pixels` (H,W,3) uint8 RGB, the largest first, or those in `boxes` (4,) or (F,4), in their order.

    layout: "68", "98", "dense", a region name, or template points (N,3) in units of 100 mm. A face is a dict of box [4]
    (given or found), extent [4] (hairline to chin and side to side, by its own landmarks), layout, points (N,2) and
    sigma (N,), in pixels. UserError: unknown layout, bad queries, bad boxes, a network that gives no numbers.
    """
    queries = layout_queries(layout)
    given = boxes is not None
    boxes = photo.check_boxes(boxes, pixels.shape[1], pixels.shape[0]) if given else photo.detect_faces(pixels)
    if len(boxes) == 0:
        return []
    variables = {"params": params, **model_state}
    extents = boxes
    crops = Crops(*alignment.square_crop(boxes), np.zeros(len(boxes)))
    for _ in range(PASSES_GIVEN if given else PASSES_DETECTED):
        landmarks, sigma = _answer(network, variables, pixels, crops, canonical.queries("68"))
        crops, trusted = realign(crops, landmarks, sigma)
        extents = np.where(trusted[:, None], extent_boxes(landmarks), extents)
    points, sigma = _answer(network, variables, pixels, crops, queries)
    label = layout if isinstance(layout, str) else "custom"
    found = zip(boxes if given else extents, extents, points, sigma, strict=True)
    return [{"box": box, "extent": extent, "layout": label, "points": p, "sigma": s} for box, extent, p, s in found]


def layout_queries(layout: Any) -> np.ndarray:
    """The template points (N,3) float32 of a layout's name or of an array. UserError: unknown, wrong shape, NaN."""
    if isinstance(layout, str):
        return canonical.queries(layout)
    try:
        queries = np.asarray(layout, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"a layout is a name or an array of numbers (N,3), not {type(layout).__name__}") from error
    if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) == 0:
        raise UserError(f"queries have the shape (N,3), not {queries.shape}")
    if not np.isfinite(queries).all():
        bad = int((~np.isfinite(queries)).any(axis=1).sum())
        raise UserError(f"{bad} of {len(queries)} queries are NaN or infinite")
    if np.abs(queries).max() > LARGEST_QUERY:
        raise UserError(f"queries are in units of 100 mm; {np.abs(queries).max():g} is far outside the head")
    return queries


def realign(crops: Crops, landmarks: np.ndarray, sigma: np.ndarray) -> tuple[Crops, np.ndarray]:
    """Upright crops around the faces of landmarks (F,68,2) with sigma (F,68) px, and which (F,) bool were believed."""
    flat = canonical.queries("68")[:, :2] * [1, -1]
    _, rotation, _ = alignment.similarity(flat, landmarks)
    angle = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    upright = extent_boxes(_turned(landmarks, -angle))
    center, side = alignment.square_crop(upright)
    center = _turned(center[:, None], angle)[:, 0]
    shift = np.linalg.norm(center - crops.center, axis=1) / crops.side
    resize = np.abs(np.log(np.maximum(side, 1e-6) / crops.side))
    trusted = (np.median(sigma, axis=1) < UNSURE * crops.side / 2) & (shift < LARGEST_SHIFT)
    trusted &= resize < math.log(LARGEST_RESIZE)
    choose = functools.partial(np.where, trusted)
    return Crops(
        np.where(trusted[:, None], center, crops.center),
        choose(side, crops.side),
        choose(angle, crops.angle_rad),
    ), trusted


def extent_boxes(landmarks: np.ndarray) -> np.ndarray:
    """Boxes (F,4) from hairline to chin and from side to side of landmarks (F,68,2): brows are continued upwards."""
    brows, chin = landmarks[:, BROWS], landmarks[:, CHIN].mean(axis=1, keepdims=True)
    hairline = brows + FOREHEAD * (brows.mean(axis=1, keepdims=True) - chin)
    outline = np.concatenate([landmarks, hairline], axis=1)
    return np.concatenate([outline.min(axis=1), outline.max(axis=1)], axis=1)


def _turned(points: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Points (F,N,2) turned about the picture's origin by angles (F,)."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return points @ np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def _answer(
    network: Network, variables: Any, pixels: np.ndarray, crops: Crops, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """points (F,N,2) and sigma (F,N) in pixels of the picture."""
    size = network.image_size
    frames = list(zip(crops.center, crops.side, crops.angle_rad, strict=True))
    images = np.stack([photo.cut(pixels, center, side, angle, size) for center, side, angle in frames])
    images = images.astype(np.float32) / 255
    points, sigma = ask_mirrored(network, variables, images, queries)
    if not (np.isfinite(points).all() and np.isfinite(sigma).all()):
        raise UserError("the network gives numbers that are not finite: its parameters are damaged")
    matrices = alignment.crop_matrix(crops.center, crops.side, size, crops.angle_rad)
    inside = (points + 1) * size / 2 - 0.5
    return alignment.apply_affine(alignment.invert_affine(matrices), inside), sigma * crops.side[:, None] / 2


def ask_mirrored(
    network: Network, variables: Any, images: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`ask`, averaged with the answer for the mirrored crops, whose queries have x negated."""
    points, sigma = ask(network, variables, images, queries)
    other, other_sigma = ask(network, variables, images[:, :, ::-1], queries * np.float32([-1, 1, 1]))
    return (points + other * [-1, 1]) / 2, (sigma + other_sigma) / 2


def ask(network: Network, variables: Any, images: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """points (F,N,2) in [-1,1] of the crops and sigma (F,N) for images (F,S,S,3) in [0,1] and queries (N,3).

    Features are computed once per image. More than 2048 queries are asked in several sets: with a predictor whose
    queries see each other an answer then depends on its own set only.
    """
    parts = np.split(queries, range(QUERY_SIZES[-1], len(queries), QUERY_SIZES[-1]))
    answers = []
    for chunk in np.split(images, range(MAX_BATCH, len(images), MAX_BATCH)):
        features = network.encode(variables, _padded(chunk, 2 ** math.ceil(math.log2(len(chunk)))))
        sets = [_ask_set(network, variables, features, part) for part in parts]
        answers.append([np.concatenate(answer, axis=1)[: len(chunk)] for answer in zip(*sets, strict=True)])
    points, sigma = (np.concatenate(answer) for answer in zip(*answers, strict=True))
    return points, sigma


def _ask_set(network: Network, variables: Any, features: jax.Array, queries: np.ndarray) -> list[np.ndarray]:
    count, batch = len(queries), len(features)
    size = next(size for size in QUERY_SIZES if size >= count)
    filled = np.broadcast_to(_padded(queries, size), (batch, size, 3))
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    return [np.asarray(part, np.float64)[:, :count] for part in network.query(variables, features, filled, valid)]


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """`values` with its last row repeated until there are `count`."""
    return np.concatenate([values, np.repeat(values[-1:], count - len(values), axis=0)])
