"""3D landmarks of the faces in an image: crop, run the network on the crop and its mirror image, map back.

The original's demo crops by given landmarks or takes the centre of the image; here a face box defines the crop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxface import crops as face_crops
from jaxface import detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.results import FaceLandmarks
from jaxface.system import Tree
from jaxface.systems.jvcr import crops, transforms, visualize

RunNetwork = Callable[[Tree, np.ndarray], np.ndarray]

# Lower bound of sigma, in pixels of the crop; a cell of the volume is four wide.
MIN_SIGMA_PX = 0.5


def bind(model: Any, mode: str, size: int) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a network; see `predict`."""

    @jax.jit
    def run_network(variables: Tree, images: jax.Array) -> jax.Array:
        return (size - 1) * model.apply(variables, images)[1][:, : transforms.LANDMARKS]

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
) -> list[FaceLandmarks]:
    """3D landmarks of the faces in an image.

    `points_3d` (68,3) has x and y of `points`, and z towards the viewer in the same pixels with mean 0. `sigma` is half
    the distance between the outputs of the crop and of its mirror image. `files`: a turntable PNG, the points as GLB.

    Args:
        run_network: `(variables, images (B,S,S,3)) -> (B,68,3)` px of the crop.
        mode: "reference" takes the output of the crop alone, as the original does; otherwise the mean of both.
        size: S px.
        params: parameters of the network.
        model_state: its further variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px; None detects faces.
        layout: "68".

    Returns:
        Faces in the order of `boxes`, or the largest first.

    Raises:
        UserError: another layout, malformed boxes, or a network whose output is not finite.
    """
    if layout != "68":
        raise UserError(f"layout: jvcr has the layout '68' only, not {layout!r}")
    start = detection.given_or_detected(boxes, image)
    if len(start) == 0:
        return []
    variables = {"params": params, **model_state}
    frames = start
    if boxes is None:
        rough, _ = _landmarks(run_network, mode, size, variables, image, frames)
        frames = realign(frames, rough)
    points, sigma = _landmarks(run_network, mode, size, variables, image, frames)
    extents = np.stack([crops.face_box(face_points) for face_points in points])
    face_boxes = extents if boxes is None else start
    return [
        FaceLandmarks(
            box=face_boxes[i],
            extent=extents[i],
            layout="68",
            points=points[i, :, :2],
            sigma=sigma[i],
            points_3d=points[i],
            files=visualize.files(points[i]),
        )
        for i in range(len(points))
    ]


def realign(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The boxes (F,4) of the points (F,68,3) found in `boxes`; a box that would move too far is kept."""
    own = np.stack([crops.face_box(face_points) for face_points in points])
    accepted = face_crops.is_plausible_move(*alignment.square_crop(own), *alignment.square_crop(boxes))
    return np.where(accepted[:, None], own, boxes)


def _landmarks(
    run_network: RunNetwork, mode: str, size: int, variables: Tree, image: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """points (F,68,3) px of the image, z towards the viewer, and sigma (F,68) px."""
    if mode == "reference":
        frames = [crops.landmark_frame(crops.landmark_box(box).reshape(2, 2)) for box in boxes]
        cut = [crops.reference_crop(image, center, scale, size) for center, scale in frames]
        frames = [(center, scale * transforms.SCALE_PX) for center, scale in frames]
    else:
        frames = [alignment.square_crop(np.float64(box)) for box in boxes]
        cut = [face_crops.cut(image, center, side, 0.0, size).astype(np.float32) / 255 for center, side in frames]
    images = np.stack(cut)
    points = _run(run_network, variables, images)
    mirrored = transforms.mirror(_run(run_network, variables, images[:, :, ::-1]), size - 1)
    face_crops.check_finite(points, mirrored)
    sigma = np.maximum(np.linalg.norm((points - mirrored)[..., :2], axis=-1) / 2, MIN_SIGMA_PX)
    if mode != "reference":
        points = (points + mirrored) / 2
    centers, sides = (np.stack(values) for values in zip(*frames, strict=True))
    return transforms.to_image(mode, points, centers, sides, size), sigma * sides[:, None] / size


def _run(run_network: RunNetwork, variables: Tree, images: np.ndarray) -> np.ndarray:
    """Points (F,68,3) float64 of crops (F,S,S,3)."""
    return face_crops.run_in_batches(lambda batch: np.asarray(run_network(variables, batch), np.float64), images)
