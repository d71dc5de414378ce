"""The 68 landmarks of a scan: a 2D detector on a frontal rendering, and back-projection to the surface.

Follows the registration of NPHM (Giebenhain et al., CVPR 2023, §3.1), whose code was not released.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import icp, views
from jaxface.meshes import Mesh

# Maps an image (S,S,3) uint8 to (landmarks (68,2) px, confidence), or None if it finds no face.
Detector = Callable[[np.ndarray], tuple[np.ndarray, float] | None]

SIZE = (512, 512)
# Distance of the farthest vertex from the camera while a scan is rendered.
FARTHEST_MM = 1000.0
# Distance of the camera as a multiple of the bounding radius, and bounding radius of the close-up as a multiple of the
# landmarks' extent.
CAMERA_DISTANCE, CLOSE_UP = 6.0, 1.1
# Direction to the light in an upright head's frame, and share of ambient light.
LIGHT = np.array([0.25, 0.45, 0.86])
AMBIENT = 0.25
# Grey values: the surface has DARKEST + RANGE * shading.
DARKEST, RANGE, BACKGROUND = 40, 200, 90
# A landmark is back-projected to the closest surface pixel within this distance in x and y.
SEARCH_RADIUS_PX = 3
MIN_LANDMARKS = 30


class Camera(NamedTuple):
    """A pinhole camera.

    Attributes:
        eye: position (3,).
        rotation: (3,3), as from `views.look_at`.
        focal_px: focal length.
    """

    eye: np.ndarray
    rotation: np.ndarray
    focal_px: float


def frontal_camera(center: np.ndarray, radius: float, axes: np.ndarray) -> Camera:
    """The camera that views a sphere along the third axis of a head whose axes, in the scan's frame, are rows (3,3)."""
    eye = center + CAMERA_DISTANCE * radius * axes[2]
    forward, right = -axes[2], axes[0]
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(eye, rotation, 0.5 * SIZE[0] * CAMERA_DISTANCE)


def render(scan: Mesh, camera: Camera) -> tuple[np.ndarray, views.View]:
    """Untextured Lambertian rendering.

    Returns:
        (image (S,S,3) uint8, surface points and normals of its pixels).
    """
    view = _render_view(scan, camera)
    # The winding of scans is not reliable: visible normals are turned to the camera.
    facing = (view.normals * (camera.eye - view.points)).sum(-1, keepdims=True)
    normals = view.normals * np.where(facing < 0, -1.0, 1.0)
    light = camera.rotation.T @ (LIGHT * [1, -1, -1] / np.linalg.norm(LIGHT))
    shading = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ light, 0)
    grey = np.where(view.hit, DARKEST + RANGE * shading, BACKGROUND)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8), view


def _render_view(scan: Mesh, camera: Camera) -> views.View:
    """`views.render` in millimetres from the camera, which float32 resolves for any unit and origin of the scan."""
    relative = scan.vertices - camera.eye
    scale = FARTHEST_MM / np.linalg.norm(relative, axis=1).max()
    view = views.render(scale * relative, scan.triangles, np.zeros(3), camera.rotation, camera.focal_px, SIZE)
    return view._replace(points=view.points.astype(np.float64) / scale + camera.eye)


def detect_landmarks(scan: Mesh, detector: Detector) -> np.ndarray:
    """The 68 landmarks (68,3) of a scan in its own frame and unit, NaN where the rendering shows no surface.

    The scan is expected upright and facing +z; if no face is found, the other 23 orientations are tried. A second
    rendering, a close-up of the landmarks, gives the result.

    Raises:
        UserError: the scan has no faces to render, or no face is found.
    """
    if not len(scan.triangles):
        raise UserError("the scan is a point cloud and cannot be rendered; use a mesh with faces, or give --landmarks")
    low, high = scan.vertices.min(0), scan.vertices.max(0)
    center, radius = (low + high) / 2, float(np.linalg.norm(high - low) / 2)
    points, axes = _search_orientations(scan, detector, center, radius)
    valid = points[np.isfinite(points).all(1)]
    center = (valid.min(0) + valid.max(0)) / 2
    radius = CLOSE_UP * float(np.ptp(valid, axis=0).max())
    close_up = _detect_in_view(scan, detector, frontal_camera(center, radius, axes))
    return points if close_up is None else close_up[0]


def _search_orientations(
    scan: Mesh, detector: Detector, center: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """(landmarks (68,3), the head's axes (3,3)): upright if a face is found, else the most confident orientation."""
    upright, *others = icp.axis_rotations()
    detection = _detect_in_view(scan, detector, frontal_camera(center, radius, upright))
    if detection is not None:
        return detection[0], upright
    candidates = []
    for axes in others:
        detection = _detect_in_view(scan, detector, frontal_camera(center, radius, axes))
        if detection is not None:
            candidates.append((*detection, axes))
    if not candidates:
        raise UserError("no face is found on the scan; rotate it upright and facing +z, or give --landmarks")
    points, _, axes = max(candidates, key=lambda candidate: candidate[1])
    return points, axes


def _detect_in_view(scan: Mesh, detector: Detector, camera: Camera) -> tuple[np.ndarray, float] | None:
    """(landmarks (68,3), confidence) of one view; None if there is no face or too few landmarks lie on the surface."""
    image, view = render(scan, camera)
    detection = detector(image)
    if detection is None:
        return None
    pixels, confidence = detection
    points = np.stack([_back_project(view, pixel) for pixel in pixels])
    return (points, confidence) if np.isfinite(points).all(1).sum() >= MIN_LANDMARKS else None


def _back_project(view: views.View, pixel: np.ndarray) -> np.ndarray:
    """Surface point (3,) of the closest surface pixel to a position (2,) px, NaN if there is none nearby."""
    column, row = np.round(pixel).astype(int)
    rows = slice(max(row - SEARCH_RADIUS_PX, 0), max(row + SEARCH_RADIUS_PX + 1, 0))
    columns = slice(max(column - SEARCH_RADIUS_PX, 0), max(column + SEARCH_RADIUS_PX + 1, 0))
    hit = view.hit[rows, columns]
    if not hit.any():
        return np.full(3, np.nan)
    offset = np.argwhere(hit) + [rows.start, columns.start] - pixel[::-1]
    return view.points[rows, columns][hit][(offset**2).sum(1).argmin()]
