"""From a photograph to 3D landmarks: crop, ask the crop and its mirror image, map back.

The original's demo crops by given landmarks or takes the middle of the picture; here a box of the face does it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxface import photo
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.system import Tree
from jaxface.systems.jvcr import crops, transforms, visualize

Ask = Callable[[Tree, np.ndarray], np.ndarray]

# A detector's rough box is replaced by that of the first answer, unless it would move or resize more than so.
LARGEST_SHIFT, LARGEST_RESIZE = 0.5, 1.6
MAX_BATCH = 32
# The least standard deviation of a point, in pixels of the crop: a cell of the volume is four.
LEAST_SIGMA = 0.5


def bind(model: Any, mode: str, size: int) -> Callable[..., list[dict[str, Any]]]:
    """`System.predict` of a network; see `predict`."""

    @jax.jit
    def ask(variables: Tree, images: jax.Array) -> jax.Array:
        return (size - 1) * model.apply(variables, images)[1][:, : transforms.LANDMARKS]

    return functools.partial(predict, ask, mode, size)


def predict(
    ask: Ask,
    mode: str,
    size: int,
    params: Tree,
    model_state: Tree,
    pixels: np.ndarray,
    boxes: Any = None,
    layout: str = "68",
) -> list[dict[str, Any]]:
    """The faces in `pixels` (H,W,3) uint8 RGB, the largest first, or those in `boxes` (4,) or (F,4), in their order.

    A face is a dict of box [4] (given or found), extent [4] (hairline to chin and side to side, by its own landmarks),
    layout, points (68,2) and sigma (68,) px, and points_3d (68,3): x and y as in `points`, z towards the viewer in the
    same pixels, of mean 0; files: a turntable as PNG and the points as GLB. sigma is half of what the crop and its
    mirror image disagree by. In mode "reference" the answer is the crop's alone, as the original's, else the mean of
    both. UserError: another layout than "68", bad boxes, a network that gives no numbers.
    """
    if layout != "68":
        raise UserError(f"jvcr finds the layout 68, not {layout!r}")
    given = boxes is not None
    boxes = photo.check_boxes(boxes, pixels.shape[1], pixels.shape[0]) if given else photo.detect_faces(pixels)
    if len(boxes) == 0:
        return []
    variables = {"params": params, **model_state}
    frames = boxes
    for _ in range(0 if given else 1):
        points, _ = _answer(ask, mode, size, variables, pixels, frames)
        frames = realigned(frames, points)
    points, sigma = _answer(ask, mode, size, variables, pixels, frames)
    extents = np.stack([crops.face_box(one) for one in points])
    return [
        {
            "box": box,
            "extent": extent,
            "layout": "68",
            "points": one[:, :2],
            "sigma": spread,
            "points_3d": one,
            "files": visualize.files(one),
        }
        for box, extent, one, spread in zip(boxes if given else extents, extents, points, sigma, strict=True)
    ]


def realigned(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The boxes (F,4) of the points (F,68,3) found in `boxes`; where one would move or resize too much, it stays."""
    own = np.stack([crops.face_box(one) for one in points])
    (center, side), (before, side_before) = alignment.square_crop(own), alignment.square_crop(boxes)
    shift = np.linalg.norm(center - before, axis=1) / side_before
    resize = np.abs(np.log(np.maximum(side, 1e-6) / side_before))
    trusted = (shift < LARGEST_SHIFT) & (resize < math.log(LARGEST_RESIZE))
    return np.where(trusted[:, None], own, boxes)


def _answer(
    ask: Ask, mode: str, size: int, variables: Tree, pixels: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """points (F,68,3) in the picture, z towards the viewer, and sigma (F,68) px."""
    if mode == "reference":
        frames = [crops.landmark_frame(crops.landmark_box(box).reshape(2, 2)) for box in boxes]
        images = [crops.reference_crop(pixels, center, scale, size) for center, scale in frames]
        frames = [(center, scale * transforms.SCALE_PX) for center, scale in frames]
    else:
        frames = [alignment.square_crop(np.float64(box)) for box in boxes]
        images = [photo.cut(pixels, center, side, 0.0, size).astype(np.float32) / 255 for center, side in frames]
    images = np.stack(images)
    points, mirrored = (_asked(ask, variables, batch) for batch in (images, images[:, :, ::-1]))
    mirrored = transforms.mirrored(mirrored, size - 1)
    if not (np.isfinite(points).all() and np.isfinite(mirrored).all()):
        raise UserError("the network gives numbers that are not finite: its parameters are damaged")
    sigma = np.maximum(np.linalg.norm((points - mirrored)[..., :2], axis=-1) / 2, LEAST_SIGMA)
    if mode != "reference":
        points = (points + mirrored) / 2
    centers, sides = (np.stack(values) for values in zip(*frames, strict=True))
    return transforms.to_picture(mode, points, centers, sides, size), sigma * sides[:, None] / size


def _asked(ask: Ask, variables: Tree, images: np.ndarray) -> np.ndarray:
    """Points (F,68,3) of the crops (F,S,S,3), asked in batches of few sizes."""
    parts = []
    for chunk in np.split(images, range(MAX_BATCH, len(images), MAX_BATCH)):
        count = 2 ** math.ceil(math.log2(len(chunk)))
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], count - len(chunk), axis=0)])
        parts.append(np.asarray(ask(variables, filled), np.float64)[: len(chunk)])
    return np.concatenate(parts)
