"""Landmarks of the faces in an image: crop, run the network, realign the crop by the predicted landmarks, repeat.

The paper aligns crops with a separate detector; here the network aligns them itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxface import crops, detection, pipeline
from jaxface.deferred import Deferred
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.results import FaceLandmarks, LayoutPoints
from jaxface.systems.continuous import applications, asked_layouts, depth_test, template_surface
from jaxface.systems.continuous.network import Answer, Encoded, Network, SquareCrops, encode
from jaxface.systems.continuous.painting import Surface

# Passes of the network over a detected face, and over a face in a box of the caller, whose crop is better. A pass whose
# landmarks move the crop by less than these (fractions of its side, log of the ratio of sides, roll) is the last one.
MAX_PASSES, MAX_PASSES_GIVEN = 4, 2
SMALL_SHIFT, SMALL_RESIZE, SMALL_TURN_RAD = 0.08, 0.15, np.deg2rad(10)
# A crop with a larger median sigma, in `crop_units`, is not realigned.
MAX_MEDIAN_SIGMA = 0.12


def bind(
    model: Any,
    config: Any,
    regions: tuple[str, ...],
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """`predict`, `predict_batch` and `applications` of a `System` whose model has the methods `encode` and `answer`.

    Args:
        model: the network.
        config: `config.model`.
        regions: those of the head that the network was trained on.
        named_layouts: maps parameters to the model's own layouts, {name: template points (N,3)}.
    """
    network = Network(
        encode=crops.Precompiled(functools.partial(model.apply, method="encode")),
        query=crops.Precompiled(functools.partial(model.apply, method="answer")),
        image_size=config.image_size,
        template=config.template,
        named_layouts=named_layouts,
        regions=regions,
        mirror=config.mirror,
        sigma_scale=config.sigma_scale,
    )
    functions = {function.__name__: functools.partial(function, network) for function in (predict, predict_batch)}
    return {**functions, "applications": applications.NAMES}


def predict(
    network: Network, params: Any, model_state: Any, image: np.ndarray, boxes: Any = None, *options: Any, **named: Any
) -> list[FaceLandmarks]:
    """`System.predict`: landmarks of the faces in an image; `sigma` is the predicted standard deviation in pixels.

    Args:
        network: the compiled network.
        params: its parameters.
        model_state: its non-trained variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px, hairline to chin and side to side; None runs the face detector.
        options, named: the further arguments of `predict_batch`.

    Returns:
        Faces in the order of `boxes`; detected faces are sorted by size, the largest first.

    Raises:
        UserError: see `predict_batch`.
    """
    (faces,) = predict_batch(network, params, model_state, [image], [boxes], *options, **named)
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
    fit: bool = False,
    masks: Any = (),
    texture: bool = False,
    paint: np.ndarray | None = None,
) -> list[list[FaceLandmarks]]:
    """`System.predict_batch`: as `predict` for several images; their faces share the batches of the network.

    Args:
        network, params, model_state: see `predict`.
        images: (H,W,3) uint8 RGB each.
        boxes: see `predict`, for each image.
        layout: a layout such as "68", "dense", a region name, a data set of the model, template points (N,3) in units
            of 100 mm or an .npy file of them; or several of these, in a list or separated by commas.
        min_score, max_faces: see `detection.detect_faces`.
        fit, masks, texture, paint: see `applications.Applications`.

    Raises:
        UserError: unknown layout or region, one that the model was not trained on, malformed queries or boxes, or a
            network whose output is not finite.
    """
    asked = asked_layouts.parse(layout, network.named_layouts(params), network.regions)
    wanted = applications.Applications.parse(fit, masks, texture, paint, network.regions)
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
    face_images = [images[owner] for owner in owners]
    squares = SquareCrops.around(detection.joined(per_image))
    queries = [*(one.queries for one in asked), *asked_layouts.line_queries(asked)]
    queries += [template_surface.surface(network.regions).queries] if wanted else []
    answers, extents, encoded = _locate(network, variables, face_images, squares, initial_boxes, is_given, queries)
    face_boxes = np.where(is_given[:, None], initial_boxes, extents)
    scores = [score for faces in per_image for score in faces.known_scores()]
    results: list[list[FaceLandmarks]] = [[] for _ in images]
    for index, owner in enumerate(owners):
        own = [(points[index], sigma[index] * network.sigma_scale) for points, sigma in answers]
        fields = _fields(encoded[np.array([index])], *asked_layouts.on_outlines(asked, own), wanted, images[owner])
        results[owner].append(
            FaceLandmarks(box=face_boxes[index], extent=extents[index], score=scores[index], **fields)
        )
    return results


def _fields(
    encoded: Encoded,
    asked: Sequence[asked_layouts.AskedLayout],
    answers: Sequence[Answer],
    wanted: applications.Applications,
    image: np.ndarray,
) -> dict[str, Any]:
    """The fields of `FaceLandmarks` that come from the network, for one face.

    Args:
        encoded: the crop of the face.
        asked: the layouts.
        answers: points (N,2) and sigma (N,) px of the layouts, and of the surface if there are applications.
        wanted: the applications.
        image: (H,W,3) in which the face is.
    """
    regions = encoded.network.regions
    layouts = {one.name: LayoutPoints(*answers[number], edges=one.edges) for number, one in enumerate(asked)}
    if regions:
        layouts = _with_visibility(encoded, layouts, asked, (image.shape[0], image.shape[1]))
    first, *_ = layouts.values()
    fields: dict[str, Any] = {"layout": asked[0].name, **vars(first)}
    if len(asked) > 1:
        fields["layouts"] = layouts
    if wanted:
        surface = Surface.predicted(template_surface.surface(regions), *answers[len(asked)])
        fields |= applications.fields(wanted, surface, image)
    return fields


def _with_visibility(
    encoded: Encoded,
    layouts: Mapping[str, LayoutPoints],
    asked: Sequence[asked_layouts.AskedLayout],
    size: tuple[int, int],
) -> dict[str, LayoutPoints]:
    """The layouts of one face with `visible`, by the depth test against the predicted coarse surface.

    Predicting and drawing the surface takes a fifth of the time of a photo and is deferred until it is needed.
    """
    queries, points = [one.queries for one in asked], [one.points for one in layouts.values()]

    def visible() -> list[np.ndarray]:
        coarse = template_surface.coarse_surface(encoded.network.regions)
        ((surface_points, surface_sigma),) = encoded.answers([coarse.queries])
        surface_sigma = surface_sigma * encoded.network.sigma_scale
        shown = depth_test.visible(
            coarse, surface_points[0], surface_sigma[0], np.concatenate(queries), np.concatenate(points), size
        )
        return np.split(shown, np.cumsum([len(one) for one in queries])[:-1])

    parts = Deferred(visible)
    return {
        name: dataclasses.replace(one, visible=Deferred(functools.partial(_part, parts, number)))
        for number, (name, one) in enumerate(layouts.items())
    }


def _part(parts: Deferred, number: int) -> np.ndarray:
    return parts()[number]


def _locate(
    network: Network,
    variables: Any,
    images: Sequence[np.ndarray],
    squares: SquareCrops,
    extents: np.ndarray,
    is_given: np.ndarray,
    queries: Sequence[np.ndarray],
) -> tuple[list[Answer], np.ndarray, Encoded]:
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
        queries: sets of template points (N,3).

    Returns:
        The answers in pixels to each set of `queries`, extents (F,4) px, and the last crop of each face.
    """
    landmark_queries = canonical.queries("68")
    is_68 = np.array_equal(queries[0], landmark_queries)
    sets = [*([] if is_68 else [landmark_queries]), *queries]
    found = [(np.zeros((len(images), len(one), 2)), np.zeros((len(images), len(one)))) for one in sets]
    moving, extents = np.arange(len(images)), extents.copy()
    encoded = newest = encode(network, variables, images, squares)
    for number in range(1, MAX_PASSES + 1):
        before, answers = newest.squares, newest.answers(sets)
        for (points, sigma), (new_points, new_sigma) in zip(found, answers, strict=True):
            points[moving], sigma[moving] = new_points, new_sigma
        landmarks, landmark_sigma = answers[0]
        after, accepted = realign(before, landmarks, landmark_sigma)
        squares = squares.replaced(moving, after)
        extents[moving[accepted]] = crops.extent_boxes(landmarks[accepted])
        moving = moving[_is_large_move(before, after)]
        if number == MAX_PASSES_GIVEN:
            moving = moving[~is_given[moving]]
        if number == MAX_PASSES or not len(moving):
            break
        newest = encode(network, variables, [images[index] for index in moving], squares[moving])
        encoded = encoded.replaced(moving, newest)
    found = found if is_68 else found[1:]
    if not network.mirror:
        return found, extents, encoded
    mirrored = encode(network, variables, images, squares, mirror=True)
    pairs = zip(found, mirrored.answers(queries), strict=True)
    means = [((points + other) / 2, (sigma + other_sigma) / 2) for (points, sigma), (other, other_sigma) in pairs]
    return means, extents, mirrored


def _is_large_move(before: SquareCrops, after: SquareCrops) -> np.ndarray:
    """Whether crops moved so much that the landmarks of a second look are better, (F,) bool."""
    shift = np.linalg.norm(after.center - before.center, axis=1) / before.side
    resize = np.abs(np.log(after.side / before.side))
    turn_rad = np.abs(np.angle(np.exp(1j * (after.angle_rad - before.angle_rad))))
    return (shift > SMALL_SHIFT) | (resize > SMALL_RESIZE) | (turn_rad > SMALL_TURN_RAD)


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
    return points @ np.stack([cos, sin, -sin, cos], -1).reshape(-1, 2, 2)
