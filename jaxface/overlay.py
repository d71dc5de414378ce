"""Overlays: landmarks, boxes and rendered layers drawn on an image."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from jaxface.results import FaceLandmarks, LayoutPoints

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
UNCERTAIN_SIGMA = 0.13
# Radius of dots in units of the face's size and of the inverse square root of their number, where they are many.
CROWDED = 0.15
MESH_ALPHA = 0.45
SUBPIXEL_BITS = 4


def draw_overlay(image: np.ndarray, faces: Sequence[FaceLandmarks], step: int = 1) -> np.ndarray:
    """A copy of an image with boxes, points (green to red by sigma), contours or meshes, and sigmas (circles).

    The layers of the faces are drawn first, below all of these; they may extend beyond the image. Of layouts that are
    a mesh, hidden points are left out; all points are where `FaceLandmarks.points_drawn` is false.

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
        box = _reduced(face.box, step)
        _draw_box(canvas, box)
        if not face.points_drawn:
            continue
        first = LayoutPoints(face.points, face.sigma, face.visible, face.edges)
        for name, one in (face.layouts or {face.layout: first}).items():
            points, sigma = _reduced(one.points, step), np.asarray(one.sigma) / step
            if one.edges is None:
                _draw_points(canvas, box, points, sigma, name)
            else:
                visible = np.ones(len(points), bool) if one.visible is None else np.asarray(one.visible) > 0.5
                _draw_mesh(canvas, box, points, sigma, visible, one.edges)
    return canvas


def draw_paint(image: np.ndarray, faces: Sequence[FaceLandmarks]) -> np.ndarray:
    """A copy of an image (h,w,3) uint8 with the painted maps of the faces, `FaceLandmarks.paint`."""
    canvas = np.ascontiguousarray(image).copy()
    for face in faces:
        if face.paint is not None:
            _blend(canvas, *face.paint)
    return canvas


def _reduced(full_px: Any, step: int) -> np.ndarray:
    """Positions in the drawn image of positions (any shape) in the full image."""
    return (np.asarray(full_px) + 0.5) / step - 0.5


def encode_png(image: np.ndarray) -> bytes:
    """The PNG file of an image (H,W,3) RGB or (H,W), uint8."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image)
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
    """Dots, the contours of known layouts, and for these a circle of large sigmas."""
    side = _side(box)
    thickness = max(1, round(side / 300))
    for first, last, closed in CONTOURS.get(layout, ()):
        _draw_line(canvas, points[first : last + 1], bool(closed), LINE_COLOR, thickness)
    radius = _radius(side, len(points))
    centers, radii, dot = _fixed_point(points).tolist(), _fixed_point(sigma).tolist(), int(_fixed_point(radius))
    is_shown = (sigma > radius).tolist() if layout in CONTOURS else [False] * len(points)
    for center, sigma_radius, color, shown in zip(centers, radii, _colors(sigma / side), is_shown, strict=True):
        _draw_circle(canvas, center, dot, color, cv2.FILLED)
        if shown:
            _draw_circle(canvas, center, sigma_radius, color, thickness)


def _draw_mesh(
    canvas: np.ndarray, box: np.ndarray, points: np.ndarray, sigma: np.ndarray, visible: np.ndarray, edges: np.ndarray
) -> None:
    """A thin, half transparent mesh of the edges between visible points, and these points."""
    side = _side(box)
    lines = canvas.copy()
    ends = _fixed_point(points[edges[visible[edges].all(axis=1)]])
    cv2.polylines(lines, list(ends), False, LINE_COLOR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    canvas[:] = cv2.addWeighted(lines, MESH_ALPHA, canvas, 1 - MESH_ALPHA, 0)
    centers, dot = _fixed_point(points[visible]).tolist(), int(_fixed_point(_radius(side, len(points))))
    for center, color in zip(centers, _colors(sigma[visible] / side), strict=True):
        _draw_circle(canvas, center, dot, color, cv2.FILLED)


def _radius(side: float, count: int) -> float:
    """The radius of a dot in pixels: a hundredth of the face, less where many points would cover it."""
    return side * min(0.01, CROWDED / math.sqrt(max(count, 1)))


def _colors(relative_sigma: np.ndarray) -> list[list[int]]:
    """The colours of points with sigmas (N,) relative to the face's size."""
    blend = np.minimum(1.0, relative_sigma / UNCERTAIN_SIGMA)[:, None]
    return (CERTAIN_COLOR * (1 - blend) + UNCERTAIN_COLOR * blend).astype(int).tolist()


def _fixed_point(values: Any) -> np.ndarray:
    """Pixels as OpenCV's fixed-point integers, clipped far outside the image so that they do not overflow."""
    return np.rint(np.clip(values, -1e6, 1e6) * 2**SUBPIXEL_BITS).astype(np.int32)


def _draw_line(canvas: np.ndarray, points: Any, closed: bool, color: tuple[int, ...], thickness: int) -> None:
    cv2.polylines(canvas, [_fixed_point(np.array(points))], closed, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_circle(canvas: np.ndarray, center: list[int], radius: int, color: list[int], thickness: int) -> None:
    """A circle with centre and radius in fixed-point pixels."""
    cv2.circle(canvas, center, radius, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
