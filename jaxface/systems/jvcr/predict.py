"""3D landmarks of the faces in an image: crop, run the network on the crop and its mirror image, map to the image.

The original's demo crops by given landmarks or takes the centre of the image; here a face box defines the crop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxface import crops, detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.results import FaceLandmarks
from jaxface.system import Tree
from jaxface.systems.jvcr import framing, transforms, visualize
from jaxface.systems.jvcr.model import JVCR

RunNetwork = Callable[[Tree, np.ndarray], np.ndarray]

# Lower bound of sigma in pixels of the crop. A cell of the volume is 4 px wide.
MIN_SIGMA_PX = 0.5
# Landmarks whose median sigma exceeds this fraction of the face's size are not those of a face.
MAX_RELATIVE_SIGMA = 0.06


def bind(net: JVCR, mode: str, size: int) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a network: `predict` with its first three arguments bound."""

    @jax.jit
    def run_network(variables: Tree, images: jax.Array) -> jax.Array:
        return (size - 1) * net.apply(variables, images)[1][:, : transforms.LANDMARKS]

    return functools.partial(predict, run_network, mode, size)


def predict(
    run_network: RunNetwork,
    mode: str,
    size: int,
    params: Tree,
    model_state: Tree,
    image: np.ndarray,
    boxes: Any = None,
    layout: str = "68",
    min_score: float | None = None,
    max_faces: int | None = None,
) -> list[FaceLandmarks]:
    """3D landmarks of the faces in an image.

    `points_3d` (68,3) has x and y of `points`, and z towards the viewer in the same pixels with mean 0. `sigma` is half
    the distance in x and y between the outputs of the crop and of its mirror image. `files` are a turntable PNG and the
    points as GLB. Faces that were detected are cropped a second time, by the landmarks of the first pass.

    Args:
        run_network: `(variables, images (B,S,S,3) in [0,1]) -> (B,68,3)` px of the crop, z away from the viewer.
        mode: "reference" uses the output of the crop alone, as the original does; "clean" the mean of both outputs.
        size: S, side of the crop in pixels.
        params: parameters of the network.
        model_state: its further variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px; None detects faces.
        layout: "68".
        min_score, max_faces: see `detection.detect_faces`.

    Returns:
        Faces in the order of `boxes`, or the largest first. A detection whose landmarks are uncertain is left out.

    Raises:
        UserError: another layout, malformed boxes, or a network whose output is not finite.
    """
    if layout != "68":
        raise UserError(f"layout: jvcr has the layout '68' only, not {layout!r}; leave it out")
    detected = detection.check_or_detect(boxes, image, min_score, max_faces)
    if len(detected) == 0:
        return []
    crop_boxes, scores = detected.boxes, detected.known_scores()
    variables = {"params": params, **model_state}
    if boxes is None:
        points, _ = _landmarks(run_network, mode, size, variables, image, crop_boxes)
        crop_boxes = realign(crop_boxes, points)
    points, sigma = _landmarks(run_network, mode, size, variables, image, crop_boxes)
    extents = _face_boxes(points)
    face_boxes = extents if boxes is None else crop_boxes
    kept = np.flatnonzero(crops.is_face(sigma, extents, MAX_RELATIVE_SIGMA)) if boxes is None else range(len(points))
    return [
        FaceLandmarks(
            box=face_boxes[i],
            extent=extents[i],
            layout="68",
            points=points[i, :, :2],
            sigma=sigma[i],
            score=scores[i],
            points_3d=points[i],
            files=visualize.files(points[i]),
        )
        for i in kept
    ]


def realign(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Boxes (F,4) of the points (F,68,3) that were predicted from crops by `boxes`; implausible moves are rejected."""
    realigned = _face_boxes(points)
    accepted = crops.is_plausible_move(*alignment.square_crop(realigned), *alignment.square_crop(boxes))
    return np.where(accepted[:, None], realigned, boxes)


def _face_boxes(points: np.ndarray) -> np.ndarray:
    """`framing.face_box` (F,4) of each face of points (F,68,3)."""
    return np.stack([framing.face_box(face_points) for face_points in points])


def _landmarks(
    run_network: RunNetwork, mode: str, size: int, variables: Tree, image: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """points (F,68,3) px of the image, z towards the viewer, and sigma (F,68) px."""
    if mode == "reference":
        frames = [framing.landmark_frame(framing.landmark_box(box).reshape(2, 2)) for box in boxes]
        images = [framing.reference_crop(image, center, scale, size) for center, scale in frames]
        squares = [(center, scale * transforms.SCALE_PX) for center, scale in frames]
    else:
        squares = [alignment.square_crop(np.float64(box)) for box in boxes]
        images = [crops.cut(image, center, side, 0.0, size).astype(np.float32) / 255 for center, side in squares]
    images = np.stack(images)
    points = _run(run_network, variables, images)
    mirrored = transforms.mirror(_run(run_network, variables, images[:, :, ::-1]), size - 1)
    crops.check_finite(points, mirrored)
    sigma = np.maximum(np.linalg.norm((points - mirrored)[..., :2], axis=-1) / 2, MIN_SIGMA_PX)
    if mode != "reference":
        points = (points + mirrored) / 2
    centers, sides = (np.stack(values) for values in zip(*squares, strict=True))
    return transforms.to_image(mode, points, centers, sides, size), sigma * sides[:, None] / size


def _run(run_network: RunNetwork, variables: Tree, images: np.ndarray) -> np.ndarray:
    """Points (F,68,3) float64 of crops (F,S,S,3)."""
    return crops.run_in_batches(lambda batch: np.asarray(run_network(variables, batch), np.float64), images)
