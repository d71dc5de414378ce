"""Landmarks of the faces in an image: crop, run the network, realign the crop by the predicted landmarks, repeat.

The paper aligns crops with a separate detector; here the network aligns them itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxface import crops, detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.heads.sources import EMBEDDED
from jaxface.results import FaceLandmarks
from jaxface.systems.continuous import crop_units

# Realignments before the final pass of detected faces. A realignment that moves the crop by less than these (fractions
# of its side, log of the ratio of sides, roll) is the last one. Boxes of the caller are realigned once.
MAX_REALIGNMENTS = 3
SMALL_SHIFT, SMALL_RESIZE, SMALL_TURN_RAD = 0.08, 0.15, np.deg2rad(10)
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

    @classmethod
    def around(cls, faces: detection.Faces) -> Self:
        """The crops of faces as they are detected or given."""
        half = faces.size / 2
        upright = np.concatenate([faces.center - half, faces.center + half], axis=1)
        return cls(*alignment.square_crop(upright), faces.angle_rad)

    def __getitem__(self, index: np.ndarray) -> Self:
        """The crops of an index array."""
        return dataclasses.replace(self, **{name: value[index] for name, value in vars(self).items()})

    def replaced(self, index: np.ndarray, others: Self) -> Self:
        """A copy in which the crops of an index array are those of `others`."""
        values = {name: value.copy() for name, value in vars(self).items()}
        for name, value in values.items():
            value[index] = getattr(others, name)
        return dataclasses.replace(self, **values)


def bind(
    model: Any,
    image_size: int,
    template: str,
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts,
) -> dict[str, Callable[..., Any]]:
    """`predict` and `predict_batch` of a `System` whose model has the methods `encode` and `query`.

    `named_layouts` maps parameters to the model's own layouts, {name: template points (N,3)}.
    """
    encode = crops.Precompiled(functools.partial(model.apply, method="encode"))
    query = crops.Precompiled(functools.partial(model.apply, method="answer"))
    network = Network(encode, query, image_size, template, named_layouts)
    return {function.__name__: functools.partial(function, network) for function in (predict, predict_batch)}


def predict(
    network: Network,
    params: Any,
    model_state: Any,
    image: np.ndarray,
    boxes: Any = None,
    layout: Any = "68",
    min_score: float | None = None,
    max_faces: int | None = None,
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
        min_score, max_faces: see `detection.detect_faces`.

    Returns:
        Faces in the order of `boxes`; detected faces are sorted by size, the largest first.

    Raises:
        UserError: unknown layout, malformed queries or boxes, or a network whose output is not finite.
    """
    (faces,) = predict_batch(network, params, model_state, [image], [boxes], layout, min_score, max_faces)
    return faces


def predict_batch(
    network: Network,
    params: Any,
    model_state: Any,
    images: Sequence[np.ndarray],
    boxes: Sequence[Any],
    layout: Any = "68",
    min_score: float | None = None,
    max_faces: int | None = None,
) -> list[list[FaceLandmarks]]:
    """`System.predict_batch`: as `predict` for several images; their faces share the batches of the network."""
    own = network.named_layouts(params)
    queries = own[layout] if isinstance(layout, str) and layout in own else layout_queries(layout)
    variables = {"params": params, **model_state}
    pairs = zip(images, boxes, strict=True)
    per_image = [detection.check_or_detect(given, image, min_score, max_faces) for image, given in pairs]
    owners = np.repeat(np.arange(len(images)), [len(faces) for faces in per_image])
    if len(owners) == 0:
        return [[] for _ in images]
    initial_boxes = np.concatenate([faces.boxes for faces in per_image])
    is_given = np.array([boxes[owner] is not None for owner in owners])
    squares = SquareCrops.around(detection.joined(per_image))
    crop = functools.partial(_cut, [images[owner] for owner in owners], network.image_size)
    squares, extents = _align(network, variables, crop, squares, initial_boxes, is_given)
    points, sigma = _landmarks(network, variables, crop(squares), squares, queries, mirror=True)
    face_boxes = np.where(is_given[:, None], initial_boxes, extents)
    name = layout if isinstance(layout, str) else "custom"
    scores = [score for faces in per_image for score in faces.known_scores()]
    results: list[list[FaceLandmarks]] = [[] for _ in images]
    for index, owner in enumerate(owners):
        face = FaceLandmarks(
            box=face_boxes[index],
            extent=extents[index],
            layout=name,
            points=points[index],
            sigma=sigma[index],
            score=scores[index],
        )
        results[owner].append(face)
    return results


def _align(
    network: Network,
    variables: Any,
    crop: Callable[[SquareCrops], np.ndarray],
    squares: SquareCrops,
    extents: np.ndarray,
    is_given: np.ndarray,
) -> tuple[SquareCrops, np.ndarray]:
    """Realigns crops by their landmarks, those of boxes that were given once, others until they hardly move.

    Args:
        network: the compiled network.
        variables: its variables.
        crop: cuts the crops (F,S,S,3) of the faces.
        squares: the first crops.
        extents: (F,4) px, returned for faces that are not realigned.
        is_given: (F,), whether the caller gave the box.

    Returns:
        The crops and the extents of the faces.
    """
    moving = np.ones(len(is_given), bool)
    for round_number in range(MAX_REALIGNMENTS):
        moving &= ~is_given | (round_number == 0)
        if not moving.any():
            break
        before = squares[moving]
        landmarks, sigma = _landmarks(network, variables, crop(squares)[moving], before, canonical.queries("68"))
        after, accepted = realign(before, landmarks, sigma)
        squares = squares.replaced(moving, after)
        extents = extents.copy()
        extents[moving] = np.where(accepted[:, None], crops.extent_boxes(landmarks), extents[moving])
        moving[moving] = _is_large_move(before, after)
    return squares, extents


def _is_large_move(before: SquareCrops, after: SquareCrops) -> np.ndarray:
    """Whether crops moved so much that the landmarks of a second look are better, (F,) bool."""
    shift = np.linalg.norm(after.center - before.center, axis=1) / before.side
    resize = np.abs(np.log(after.side / before.side))
    turn_rad = np.abs(np.angle(np.exp(1j * (after.angle_rad - before.angle_rad))))
    return (shift > SMALL_SHIFT) | (resize > SMALL_RESIZE) | (turn_rad > SMALL_TURN_RAD)


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


def _cut(images: Sequence[np.ndarray], size: int, squares: SquareCrops) -> np.ndarray:
    """Crops (F,S,S,3) float32 in [0,1], each from its own image."""
    regions = zip(images, squares.center, squares.side, squares.angle_rad, strict=True)
    cut = [crops.cut(image, center, side, angle, size) for image, center, side, angle in regions]
    return np.stack(cut).astype(np.float32) / 255


def _landmarks(
    network: Network,
    variables: Any,
    images: np.ndarray,
    squares: SquareCrops,
    queries: np.ndarray,
    mirror: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Points (F,N,2) and sigma (F,N) of the queries in crops (F,S,S,3), in pixels of the image."""
    queries = canonical.in_template(queries, network.template)
    points, sigma = (run_mirrored if mirror else run_network)(network, variables, images, queries)
    crops.check_finite(points, sigma)
    matrices = alignment.crop_matrix(squares.center, squares.side, network.image_size, squares.angle_rad)
    crop_px = crop_units.to_pixels(points, network.image_size)
    image_px = alignment.apply_affine(alignment.invert_affine(matrices), crop_px)
    return image_px, sigma * squares.side[:, None] / 2


def run_mirrored(
    network: Network, variables: Any, images: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`run_network` with mirror test-time augmentation: the mean of the crops' and the mirrored crops' output.

    Queries of a mirrored crop have x negated.
    """
    both = np.concatenate([images, images[:, :, ::-1]])
    sides = np.repeat(np.float32([1, -1]), len(images))[:, None, None] * np.float32([1, 0, 0]) + np.float32([0, 1, 1])
    points, sigma = run_network(network, variables, both, queries * sides)
    (own, mirrored), (own_sigma, mirrored_sigma) = np.split(points, 2), np.split(sigma, 2)
    return (own + mirrored * [-1, 1]) / 2, (own_sigma + mirrored_sigma) / 2


def run_network(
    network: Network, variables: Any, images: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (F,N,2) and sigma (F,N) in `crop_units` for images (F,S,S,3) in [0,1] and queries (N,3) or (F,N,3).

    Features are computed once per image. More than 2048 queries are split into groups: with a predictor whose queries
    attend to each other, a point then depends only on the queries of its group.
    """
    queries = np.broadcast_to(queries, (len(images), *queries.shape[-2:]))
    count = queries.shape[1]

    def run(batch: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        images, queries = batch
        features = network.encode(variables, images)
        groups = np.split(queries, range(QUERY_SIZES[-1], count, QUERY_SIZES[-1]), axis=1)
        outputs = [_run_group(network, variables, features, group) for group in groups]
        return [np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True)]

    points, sigma = crops.run_in_batches(run, (images, queries))
    return points, sigma


def _run_group(network: Network, variables: Any, features: jax.Array, queries: np.ndarray) -> list[np.ndarray]:
    """[points (B,N,2), sigma (B,N)] float64 of queries (B,N,3), which are padded to one of QUERY_SIZES."""
    batch, count = queries.shape[:2]
    size = next(size for size in QUERY_SIZES if size >= count)
    padded = np.concatenate([queries, np.repeat(queries[:, -1:], size - count, axis=1)], axis=1)
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    outputs = network.query(variables, features, padded, valid)
    return [np.asarray(output, np.float64)[:, :count] for output in outputs]
