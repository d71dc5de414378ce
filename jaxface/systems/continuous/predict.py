"""Landmarks of the faces in an image: crop, run the network, realign the crop by the predicted landmarks, repeat.

The paper aligns crops with a separate detector; here the network aligns them itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxface import crops, detection, pipeline
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.heads.sources import EMBEDDED
from jaxface.results import FaceLandmarks
from jaxface.systems.continuous import crop_units

# Passes of the network over a detected face, and over a face in a box of the caller, whose crop is better. A pass whose
# landmarks move the crop by less than these (fractions of its side, log of the ratio of sides, roll) is the last one.
MAX_PASSES, MAX_PASSES_GIVEN = 4, 2
SMALL_SHIFT, SMALL_RESIZE, SMALL_TURN_RAD = 0.08, 0.15, np.deg2rad(10)
# A crop with a larger median sigma, in `crop_units`, is not realigned.
MAX_MEDIAN_SIGMA = 0.12
# Numbers of queries for which the predictor is compiled; fewer queries are padded, more are split.
QUERY_SIZES = (72, 128, 512, 2048)
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
        mirror: whether predictions are averaged with those of the realigned and mirrored crop, which takes one more
            pass and lowers the error on photographs by 2 %.
        sigma_scale: factor on the predicted standard deviations, see `config.model.sigma_scale`.
    """

    encode: Callable[..., jax.Array]
    query: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int
    template: str = EMBEDDED
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts
    mirror: bool = True
    sigma_scale: float = 1.0


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
    config: Any,
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts,
) -> dict[str, Callable[..., Any]]:
    """`predict` and `predict_batch` of a `System` whose model has the methods `encode` and `query`.

    Args:
        model: the network.
        config: `config.model`.
        named_layouts: maps parameters to the model's own layouts, {name: template points (N,3)}.
    """
    network = Network(
        encode=crops.Precompiled(functools.partial(model.apply, method="encode")),
        query=crops.Precompiled(functools.partial(model.apply, method="answer")),
        image_size=config.image_size,
        template=config.template,
        named_layouts=named_layouts,
        mirror=config.mirror,
        sigma_scale=config.sigma_scale,
    )
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
    is_own = isinstance(layout, str) and layout in own
    queries = np.asarray(own[layout]) if is_own else layout_queries(layout)
    variables = {"params": params, **model_state}

    def detect(pair: tuple[np.ndarray, Any]) -> detection.Faces:
        image, given = pair
        return detection.check_or_detect(given, image, min_score, max_faces)

    per_image = pipeline.in_threads(detect, zip(images, boxes, strict=True))
    owners = np.repeat(np.arange(len(images)), [len(faces) for faces in per_image])
    if len(owners) == 0:
        return [[] for _ in images]
    initial_boxes = np.concatenate([faces.boxes for faces in per_image])
    is_given = np.array([boxes[owner] is not None for owner in owners])
    squares = SquareCrops.around(detection.joined(per_image))
    face_images = [images[owner] for owner in owners]
    points, sigma, extents = _locate(network, variables, face_images, squares, initial_boxes, is_given, queries)
    sigma *= network.sigma_scale
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


def _locate(
    network: Network,
    variables: Any,
    images: Sequence[np.ndarray],
    squares: SquareCrops,
    extents: np.ndarray,
    is_given: np.ndarray,
    queries: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs the network on the crops of faces, and again on realigned crops, until they hardly move.

    The answers are those of a face's last pass, with `network.mirror` their mean with those of the crop that its
    landmarks give, mirrored: two crops that differ in more than their sides.

    Args:
        network: the compiled network.
        variables: its variables.
        images: F images, one for each face.
        squares: the first crops of the faces.
        extents: (F,4) px, returned for faces that are not realigned.
        is_given: (F,), whether the caller gave the box.
        queries: (N,3) template points.

    Returns:
        Points (F,N,2) px, sigma (F,N) px and extents (F,4) px.
    """
    count, landmark_queries = len(is_given), canonical.queries("68")
    is_68 = np.array_equal(queries, landmark_queries)
    query_sets = [landmark_queries] if is_68 else [landmark_queries, queries]
    points, sigma, extents = np.zeros((count, len(queries), 2)), np.zeros((count, len(queries))), extents.copy()
    moving = np.arange(count)
    for number in range(MAX_PASSES):
        if number == MAX_PASSES_GIVEN:
            moving = moving[~is_given[moving]]
        if not len(moving):
            break
        before = squares[moving]
        answers = _landmarks(network, variables, [images[index] for index in moving], before, query_sets)
        points[moving], sigma[moving] = answers[-1]
        landmarks, landmark_sigma = answers[0]
        after, accepted = realign(before, landmarks, landmark_sigma)
        squares = squares.replaced(moving, after)
        extents[moving[accepted]] = crops.extent_boxes(landmarks[accepted])
        moving = moving[_is_large_move(before, after)]
    if not network.mirror:
        return points, sigma, extents
    ((mirrored, mirrored_sigma),) = _landmarks(network, variables, images, squares, [queries], mirror=True)
    return (points + mirrored) / 2, (sigma + mirrored_sigma) / 2, extents


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
    images: Sequence[np.ndarray],
    squares: SquareCrops,
    query_sets: Sequence[np.ndarray],
    mirror: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points (F,N,2) and sigma (F,N) in pixels of the images for each set of queries (N,3), one crop an image.

    With `mirror` the network sees mirrored crops. Their queries have x negated.
    """
    crop, side = _cut(images, network.image_size, squares), np.float32([-1, 1, 1] if mirror else [1, 1, 1])
    asked = [canonical.in_template(queries, network.template) * side for queries in query_sets]
    outputs = run_network(network, variables, crop[:, :, ::-1] if mirror else crop, asked)
    to_image = alignment.invert_affine(
        alignment.crop_matrix(squares.center, squares.side, network.image_size, squares.angle_rad)
    )
    results = []
    for points, sigma in outputs:
        crops.check_finite(points, sigma)
        crop_px = crop_units.to_pixels(points * side[:2], network.image_size)
        results.append((alignment.apply_affine(to_image, crop_px), sigma * squares.side[:, None] / 2))
    return results


def run_network(
    network: Network, variables: Any, images: np.ndarray, query_sets: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points (F,N,2) and sigma (F,N) in `crop_units` for images (F,S,S,3) in [0,1] and each set of queries (N,3).

    Features are computed once per image. More than 2048 queries are split into groups: with a predictor whose queries
    attend to each other, a point then depends only on the queries of its group.
    """

    def run(batch: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        features = network.encode(variables, batch)
        return [_answers(network, variables, features, queries) for queries in query_sets]

    return crops.run_in_batches(run, images)


def _answers(
    network: Network, variables: Any, features: jax.Array, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (B,N,2) and sigma (B,N) in `crop_units` of the queries (N,3) in the images with these features."""
    groups = np.split(queries, range(QUERY_SIZES[-1], len(queries), QUERY_SIZES[-1]))
    outputs = [_run_group(network, variables, features, group) for group in groups]
    points, sigma = (np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True))
    return points, sigma


def _run_group(network: Network, variables: Any, features: jax.Array, queries: np.ndarray) -> list[np.ndarray]:
    """[points (B,N,2), sigma (B,N)] float64 of queries (N,3), which are padded to one of QUERY_SIZES."""
    batch, count = len(features), len(queries)
    size = next(size for size in QUERY_SIZES if size >= count)
    padded = np.broadcast_to(crops.pad_rows(queries, size), (batch, size, 3))
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    outputs = network.query(variables, features, padded, valid)
    return [np.asarray(output, np.float64)[:, :count] for output in outputs]
