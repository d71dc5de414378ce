"""Output files of 3D landmarks: a turntable of views, and the points as a GLB."""

import cv2
import numpy as np

from jaxface import meshes
from jaxface.overlay import CONTOURS, SUBPIXEL_BITS, encode_png

VIEWS_DEG = (-90, -60, -30, 0, 30, 60, 90)
VIEW_PX, MARGIN = 240, 0.1
POINT_RADIUS_PX = 2.5
NEAR_COLOR, FAR_COLOR = np.array([40, 80, 220]), np.array([200, 200, 205])
LINE_COLOR = (150, 150, 150)


def files(points: np.ndarray) -> dict[str, bytes]:
    """Files `{ending: bytes}` that show points (68,3) px, z towards the viewer."""
    return {"_turntable.png": encode_png(turntable(points)), ".glb": meshes.encode(cloud(points), ".glb")}


def cloud(points: np.ndarray) -> meshes.Mesh:
    """The points as a centred cloud in pixels: x to the subject's left, y up, z towards the viewer."""
    centered = (points - points.mean(0)) * [1, -1, 1]
    return meshes.Mesh(centered.astype(np.float32), np.zeros((0, 3), np.int32), colors=_colors(centered[:, 2]) / 255)


def turntable(points: np.ndarray) -> np.ndarray:
    """A strip (VIEW_PX, len(VIEWS_DEG) * VIEW_PX, 3) uint8 of the points (68,3) from one side to the other.

    Near points are blue, far ones grey; all views have the same scale.
    """
    centered = points - points.mean(0)
    radius = max(np.linalg.norm(centered, axis=1).max(), 1e-6)
    centered = centered * (0.5 - MARGIN) * VIEW_PX / radius
    return np.concatenate([_view(centered, np.deg2rad(angle)) for angle in VIEWS_DEG], axis=1)


def _view(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    rotated = points @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T
    pixels = np.rint((rotated[:, :2] + (VIEW_PX - 1) / 2) * 2**SUBPIXEL_BITS).astype(np.int32)
    canvas = np.full((VIEW_PX, VIEW_PX, 3), 255, np.uint8)
    for first, last, closed in CONTOURS["68"]:
        line = [pixels[first : last + 1]]
        cv2.polylines(canvas, line, bool(closed), LINE_COLOR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    colors = _colors(rotated[:, 2])
    radius = int(POINT_RADIUS_PX * 2**SUBPIXEL_BITS)
    for index in np.argsort(rotated[:, 2]):  # painter's algorithm: far points first
        color = tuple(int(value) for value in colors[index])
        cv2.circle(canvas, pixels[index].tolist(), radius, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _colors(depth: np.ndarray) -> np.ndarray:
    """Colours (N,3) in 0..255, linear in depth (N,)."""
    share = (depth - depth.min()) / max(np.ptp(depth), 1e-6)
    return FAR_COLOR + share[:, None] * (NEAR_COLOR - FAR_COLOR)
