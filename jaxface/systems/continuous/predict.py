"""Landmarks of the faces in an image: crop, run the network, realign the crop by the predicted landmarks, repeat.

The paper aligns crops with a separate detector; here the network aligns them itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxface import crops, detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.heads.sources import EMBEDDED
from jaxface.results import FaceLandmarks
from jaxface.systems.continuous import crop_units

# Realignments before the final pass, for boxes of the detector and for boxes of the caller.
REALIGNMENTS_DETECTED, REALIGNMENTS_GIVEN = 2, 1
# A crop with a larger median sigma, in `crop_units`, is not realigned.
MAX_MEDIAN_SIGMA = 0.12
# Numbers of queries for which the predictor is compiled; fewer queries are padded, more are split.
QUERY_SIZES = (128, 512, 2048)
# In template units (100 mm); a larger coordinate means that the caller used another unit.
MAX_QUERY_COORDINATE = 10.0


def _no_layouts(params: Any) -> Mapping[str, np.ndarray]:
    del params
    return {}


@dataclasses.dataclass(frozen=True)
class Network:
    """The two compiled functions of a network.

    Attributes:
        encode: `(variables, image (B,S,S,3)) -> features`.
        query: `(variables, features, queries (B,N,3), valid (B,N)) -> points (B,N,2), sigma (B,N)`, both in
            `crop_units`.
        image_size: side S of the crops in pixels.
        named_layouts: `params -> {name: template points (N,3)}`, the model's own layouts.
        template: the template that the network was trained on, see `canonical.in_template`.
    """

    encode: Callable[..., jax.Array]
    query: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int
    template: str = EMBEDDED
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts


@dataclasses.dataclass(frozen=True)
class SquareCrops:
    """Square crops of F faces: center (F,2) and side (F,) in pixels of the image, angle_rad (F,) of the eye line."""

    center: np.ndarray
    side: np.ndarray
    angle_rad: np.ndarray


def bind(
    model: Any,
    image_size: int,
    template: str,
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts,
) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a model with the methods `encode` and `query`; see `predict`.

    `named_layouts` maps parameters to the model's own layouts, {name: template points (N,3)}.
    """
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    query = jax.jit(functools.partial(model.apply, method="query"))
    return functools.partial(predict, Network(encode, query, image_size, template, named_layouts))


def predict(
    network: Network, params: Any, model_state: Any, image: np.ndarray, boxes: Any = None, layout: Any = "68"
) -> list[FaceLandmarks]:
    """`System.predict`: landmarks of the faces in an image; `sigma` is the predicted standard deviation in pixels.

    Args:
        network: the compiled network.
        params: its parameters.
        model_state: its non-trained variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px, hairline to chin and side to side; None runs the face detector.
        layout: a layout such as "68", "dense", a region name, a data set of the model, or template points (N,3) in
            units of 100 mm.

    Returns:
        Faces in the order of `boxes`; detected faces are sorted by size, the largest first.

    Raises:
        UserError: unknown layout, malformed queries or boxes, or a network whose output is not finite.
    """
    own = network.named_layouts(params)
    queries = own[layout] if isinstance(layout, str) and layout in own else layout_queries(layout)
    variables = {"params": params, **model_state}
    initial_boxes = detection.check_or_detect(boxes, image)
    if len(initial_boxes) == 0:
        return []
    extents = initial_boxes
    squares = SquareCrops(*alignment.square_crop(initial_boxes), np.zeros(len(initial_boxes)))
    for _ in range(REALIGNMENTS_DETECTED if boxes is None else REALIGNMENTS_GIVEN):
        landmarks, sigma = _landmarks(network, variables, image, squares, canonical.queries("68"))
        squares, realigned = realign(squares, landmarks, sigma)
        extents = np.where(realigned[:, None], crops.extent_boxes(landmarks), extents)
    points, sigma = _landmarks(network, variables, image, squares, queries)
    face_boxes = extents if boxes is None else initial_boxes
    name = layout if isinstance(layout, str) else "custom"
    return [
        FaceLandmarks(box=box, extent=extent, layout=name, points=face_points, sigma=face_sigma)
        for box, extent, face_points, face_sigma in zip(face_boxes, extents, points, sigma, strict=True)
    ]


def layout_queries(layout: Any) -> np.ndarray:
    """Template points (N,3) float32 of a layout name or an array.

    Raises UserError for an unknown name, a wrong shape, NaN, or coordinates in another unit.
    """
    if isinstance(layout, str):
        return canonical.queries(layout)
    try:
        queries = np.asarray(layout, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"layout: {type(layout).__name__} is not a layout; give a name or numbers (N,3)") from error
    if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) == 0:
        raise UserError(f"layout: the template points have shape {queries.shape}; they must be (N,3)")
    if not np.isfinite(queries).all():
        bad = int((~np.isfinite(queries)).any(axis=1).sum())
        raise UserError(f"layout: {bad} of {len(queries)} template points are NaN or infinite; remove them")
    if np.abs(queries).max() > MAX_QUERY_COORDINATE:
        largest = f"{np.abs(queries).max():g}"
        raise UserError(f"layout: a template coordinate is {largest}, far outside the head; use units of 100 mm")
    return queries


def realign(squares: SquareCrops, landmarks: np.ndarray, sigma: np.ndarray) -> tuple[SquareCrops, np.ndarray]:
    """Crops around landmarks, rotated with the eye line; uncertain or implausibly moved faces keep their crop.

    Args:
        squares: the crops from which the landmarks were predicted.
        landmarks: (F,68,2) px.
        sigma: (F,68) px.

    Returns:
        The new crops and whether each was realigned, (F,) bool.
    """
    template = canonical.queries("68")[:, :2] * [1, -1]
    _, rotation, _ = alignment.similarity(template, landmarks)
    angle = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    upright = crops.extent_boxes(_rotate(landmarks, -angle))
    center, side = alignment.square_crop(upright)
    center = _rotate(center[:, None], angle)[:, 0]
    accepted = crops.is_plausible_move(center, side, squares.center, squares.side)
    accepted &= np.median(sigma, axis=1) < MAX_MEDIAN_SIGMA * squares.side / 2
    realigned = SquareCrops(
        np.where(accepted[:, None], center, squares.center),
        np.where(accepted, side, squares.side),
        np.where(accepted, angle, squares.angle_rad),
    )
    return realigned, accepted


def _rotate(points: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Points (F,N,2) rotated about the image origin by angles (F,)."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return points @ np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def _landmarks(
    network: Network, variables: Any, image: np.ndarray, squares: SquareCrops, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (F,N,2) and sigma (F,N) of the queries in every crop, in pixels of the image."""
    size, queries = network.image_size, canonical.in_template(queries, network.template)
    regions = zip(squares.center, squares.side, squares.angle_rad, strict=True)
    images = np.stack([crops.cut(image, center, side, angle, size) for center, side, angle in regions])
    points, sigma = run_mirrored(network, variables, images.astype(np.float32) / 255, queries)
    crops.check_finite(points, sigma)
    matrices = alignment.crop_matrix(squares.center, squares.side, size, squares.angle_rad)
    crop_px = crop_units.to_pixels(points, size)
    image_px = alignment.apply_affine(alignment.invert_affine(matrices), crop_px)
    return image_px, sigma * squares.side[:, None] / 2


def run_mirrored(
    network: Network, variables: Any, images: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`run_network` with mirror test-time augmentation: the mean of the crops' and the mirrored crops' output.

    Queries of a mirrored crop have x negated.
    """
    points, sigma = run_network(network, variables, images, queries)
    mirrored_queries = queries * np.float32([-1, 1, 1])
    mirrored, mirrored_sigma = run_network(network, variables, images[:, :, ::-1], mirrored_queries)
    return (points + mirrored * [-1, 1]) / 2, (sigma + mirrored_sigma) / 2


def run_network(
    network: Network, variables: Any, images: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (F,N,2) and sigma (F,N) in `crop_units` for images (F,S,S,3) in [0,1] and queries (N,3).

    Features are computed once per image. More than 2048 queries are split into groups: with a predictor whose queries
    attend to each other, a point then depends only on the queries of its group.
    """
    groups = np.split(queries, range(QUERY_SIZES[-1], len(queries), QUERY_SIZES[-1]))

    def run(batch: np.ndarray) -> list[np.ndarray]:
        features = network.encode(variables, batch)
        outputs = [_run_group(network, variables, features, group) for group in groups]
        return [np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True)]

    points, sigma = crops.run_in_batches(run, images)
    return points, sigma


def _run_group(network: Network, variables: Any, features: jax.Array, queries: np.ndarray) -> list[np.ndarray]:
    """[points (B,N,2), sigma (B,N)] float64 of queries (N,3), which are padded to one of QUERY_SIZES."""
    count, batch = len(queries), len(features)
    size = next(size for size in QUERY_SIZES if size >= count)
    padded = np.broadcast_to(crops.pad_rows(queries, size), (batch, size, 3))
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    outputs = network.query(variables, features, padded, valid)
    return [np.asarray(output, np.float64)[:, :count] for output in outputs]
