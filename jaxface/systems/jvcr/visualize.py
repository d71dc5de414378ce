"""3D landmarks to look at: a strip of views around the face, and the points as a GLB."""

import cv2
import numpy as np

from jaxface import meshes
from jaxface.overlay import CONTOURS

VIEWS_DEG = (-90, -60, -30, 0, 30, 60, 90)
VIEW_PX, MARGIN = 240, 0.1
NEAR_COLOR, FAR_COLOR = np.array([40, 80, 220]), np.array([200, 200, 205])
SUBPIXEL_BITS = 4


def files(points: np.ndarray) -> dict[str, bytes]:
    """What is written beside the overlay for points (68,3) px, z towards the viewer: {ending: bytes}."""
    _, png = cv2.imencode(".png", turntable(points)[..., ::-1])
    return {"_turntable.png": png.tobytes(), ".glb": meshes.encode(cloud(points), ".glb")}


def cloud(points: np.ndarray) -> meshes.Mesh:
    """The points as a cloud in their order: x to the subject's left, y up, z towards the viewer, pixels, centred."""
    centered = (points - points.mean(0)) * [1, -1, 1]
    return meshes.Mesh(centered.astype(np.float32), np.zeros((0, 3), np.int32), colors=_colors(centered[:, 2]) / 255)


def turntable(points: np.ndarray) -> np.ndarray:
    """A strip (VIEW_PX, len(VIEWS_DEG) * VIEW_PX, 3) uint8 of the points (68,3) from one side to the other.

    Near points are blue, far ones grey; all views have one scale.
    """
    centered = points - points.mean(0)
    reach = max(np.linalg.norm(centered, axis=1).max(), 1e-6)
    centered = centered * (0.5 - MARGIN) * VIEW_PX / reach
    return np.concatenate([_view(centered, np.deg2rad(angle)) for angle in VIEWS_DEG], axis=1)


def _view(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T
    places = np.rint((turned[:, :2] + (VIEW_PX - 1) / 2) * 2**SUBPIXEL_BITS).astype(np.int32)
    canvas = np.full((VIEW_PX, VIEW_PX, 3), 255, np.uint8)
    for first, last, closed in CONTOURS["68"]:
        line = [places[first : last + 1]]
        cv2.polylines(canvas, line, bool(closed), (150, 150, 150), 1, cv2.LINE_AA, SUBPIXEL_BITS)
    colors = _colors(turned[:, 2])
    for index in np.argsort(turned[:, 2]):
        color = tuple(int(value) for value in colors[index])
        radius = int(2.5 * 2**SUBPIXEL_BITS)
        cv2.circle(canvas, places[index].tolist(), radius, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _colors(depth: np.ndarray) -> np.ndarray:
    """Colours (N,3) in 0..255 by how near the points are."""
    share = (depth - depth.min()) / max(np.ptp(depth), 1e-6)
    return FAR_COLOR + share[:, None] * (NEAR_COLOR - FAR_COLOR)
