"""Overlays: landmarks, boxes and rendered layers drawn on an image."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from jaxface.results import FaceLandmarks

# Polylines by layout: first point, last point, whether it is closed.
CONTOURS = {
    "68": ((0, 16, 0), (17, 21, 0), (22, 26, 0), (27, 30, 0), (31, 35, 0), (36, 41, 1), (42, 47, 1), (48, 59, 1))
    + ((60, 67, 1),),
    "98": ((0, 32, 0), (33, 41, 1), (42, 50, 1), (51, 54, 0), (55, 59, 0), (60, 67, 1), (68, 75, 1), (76, 87, 1))
    + ((88, 95, 1),),
}
BOX_COLOR, LINE_COLOR = (255, 200, 0), (255, 255, 255)
CERTAIN_COLOR, UNCERTAIN_COLOR = np.array([40, 220, 60]), np.array([240, 40, 40])
# Sigma, in units of the mean side of the face box, from which a point has UNCERTAIN_COLOR.
UNCERTAIN_SIGMA = 0.08
# From this number of points on, they are drawn smaller.
MANY_POINTS = 200
SUBPIXEL_BITS = 4


def draw_overlay(image: np.ndarray, faces: Sequence[FaceLandmarks], step: int = 1) -> np.ndarray:
    """A copy of an image with boxes, points (green to red by sigma), contours and sigmas (circles).

    The layers of the faces are drawn first, below all of these; they may extend beyond the image. Points are left out
    where `FaceLandmarks.points_drawn` is false.

    Args:
        image: (h,w,3) uint8 RGB.
        faces: in pixels of the full image.
        step: a pixel of `image` covers step x step pixels of the full image; see `photo.Photo`.
    """
    canvas = np.ascontiguousarray(image).copy()
    for face in faces:
        if face.layer is not None:
            _blend(canvas, *face.layer)
    for face in faces:
        box, points = ((np.asarray(full_px) + 0.5) / step - 0.5 for full_px in (face.box, face.points))
        _draw_box(canvas, box)
        if face.points_drawn:
            _draw_points(canvas, box, points, np.asarray(face.sigma) / step, face.layout)
    return canvas


def encode_png(image: np.ndarray) -> bytes:
    """The PNG file of an image (H,W,3) uint8 RGB."""
    _, encoded = cv2.imencode(".png", image[..., ::-1])
    return encoded.tobytes()


def _blend(canvas: np.ndarray, layer: np.ndarray, corner: tuple[int, int]) -> None:
    """Alpha-blends an RGBA layer into the canvas, in place."""
    x, y = corner
    height, width = canvas.shape[:2]
    visible = layer[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    below = canvas[max(0, y) : max(0, y + len(layer)), max(0, x) : max(0, x + layer.shape[1])]
    alpha = visible[..., 3:].astype(np.float32) / 255
    below[:] = (below + alpha * (visible[..., :3].astype(np.float32) - below) + 0.5).astype(np.uint8)


def _side(box: np.ndarray) -> float:
    """The size of a face in pixels, by which everything drawn on it is scaled."""
    return max(1.0, float((box[2:] - box[:2]).mean()))


def _draw_box(canvas: np.ndarray, box: np.ndarray) -> None:
    corners = [box[[0, 1]], box[[2, 1]], box[[2, 3]], box[[0, 3]]]
    _draw_line(canvas, corners, True, BOX_COLOR, max(1, round(_side(box) / 300)))


def _draw_points(canvas: np.ndarray, box: np.ndarray, points: np.ndarray, sigma: np.ndarray, layout: str) -> None:
    side = _side(box)
    thickness = max(1, round(side / 300))
    for first, last, closed in CONTOURS.get(layout, ()):
        _draw_line(canvas, points[first : last + 1], bool(closed), LINE_COLOR, thickness)
    radius = side / (100 if len(points) < MANY_POINTS else 250)
    for point, point_sigma in zip(points, sigma, strict=True):
        blend = min(1.0, point_sigma / side / UNCERTAIN_SIGMA)
        color = tuple(int(value) for value in CERTAIN_COLOR * (1 - blend) + UNCERTAIN_COLOR * blend)
        _draw_circle(canvas, point, radius, color, cv2.FILLED)
        if point_sigma > radius and layout in CONTOURS:
            _draw_circle(canvas, point, point_sigma, color, thickness)


def _fixed_point(values: Any) -> np.ndarray:
    """Pixels as OpenCV's fixed-point integers, clipped far outside the image so that they do not overflow."""
    return np.rint(np.clip(values, -1e6, 1e6) * 2**SUBPIXEL_BITS).astype(np.int32)


def _draw_line(canvas: np.ndarray, points: Any, closed: bool, color: tuple[int, ...], thickness: int) -> None:
    cv2.polylines(canvas, [_fixed_point(np.array(points))], closed, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_circle(canvas: np.ndarray, point: np.ndarray, radius: float, color: tuple[int, ...], thickness: int) -> None:
    center = _fixed_point(point).tolist()
    cv2.circle(canvas, center, int(_fixed_point(radius)), color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
