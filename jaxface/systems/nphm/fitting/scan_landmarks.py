"""The 68 points on a scan: it is photographed from the front, a detector looks, and what it finds is put back.

After the registration of NPHM (Giebenhain et al., CVPR 2023, §3.1), whose code was never released.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import views
from jaxface.meshes import Mesh

# A picture (S,S,3) uint8 in, (points (68,2) px, confidence) out, None where no face is seen.
Detector = Callable[[np.ndarray], tuple[np.ndarray, float] | None]

SIZE = (512, 512)
# The camera stands so many radii away; the face fills so much of the second picture.
AWAY, CLOSE_UP = 6.0, 1.1
LIGHT = np.array([0.25, 0.45, 0.86])
AMBIENT = 0.25
# Landmarks look for the surface within so many pixels.
REACH_PX = 3
LEAST_FOUND = 30


class Camera(NamedTuple):
    """eye (3,), rotation (3,3) of `views.looking`, focal length in pixels."""

    eye: np.ndarray
    rotation: np.ndarray
    focal_px: float


def frontal(center: np.ndarray, radius: float, turn: np.ndarray) -> Camera:
    """The camera that sees a ball from +z of a frame whose axes, in the scan's, are the rows of `turn` (3,3)."""
    eye = center + AWAY * radius * turn[2]
    forward, right = -turn[2], turn[0]
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(eye, rotation, 0.5 * SIZE[0] * AWAY)


def orientations() -> list[np.ndarray]:
    """The 24 ways to name a scan's axes x, y, z as rotations (3,3), the upright one first."""
    made = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)):
        turn = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(turn) > 0:
            made.append(turn)
    return made


def photograph(scan: Mesh, camera: Camera) -> tuple[np.ndarray, views.View]:
    """A picture (S,S,3) uint8 of the scan as a statue of plaster, and what its pixels see."""
    view = views.see(scan.vertices, scan.triangles, camera.eye, camera.rotation, camera.focal_px, SIZE)
    # Scans are often wound either way: what is seen faces the camera.
    towards = (view.normals * (camera.eye - view.points)).sum(-1, keepdims=True)
    normals = view.normals * np.where(towards < 0, -1.0, 1.0)
    light = camera.rotation.T @ (LIGHT * [1, -1, -1] / np.linalg.norm(LIGHT))
    shade = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ light, 0)
    grey = np.where(view.hit, 40 + 200 * shade, 90)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8), view


def find(scan: Mesh, detect: Detector) -> np.ndarray:
    """The 68 points (68,3) of a scan in its own frame and unit, NaN where the picture shows no surface.

    The scan should stand upright and look along +z; where no face is seen so, all other axes are tried. UserError: the
    scan has no faces to photograph, or no face is seen.
    """
    if not len(scan.triangles):
        raise UserError("the scan is a cloud of points: give its landmarks, or a mesh with faces to find them on")
    low, high = scan.vertices.min(0), scan.vertices.max(0)
    center, radius = (low + high) / 2, float(np.linalg.norm(high - low) / 2)
    upright, *others = orientations()
    found = _found(scan, detect, frontal(center, radius, upright))
    turn = upright
    if found is None:
        seen = [(_found(scan, detect, frontal(center, radius, turn)), turn) for turn in others]
        seen = [(one, turn) for one, turn in seen if one is not None]
        if not seen:
            raise UserError("no face is seen on the scan: turn it upright to look along +z, or give its landmarks")
        found, turn = max(seen, key=lambda one: one[0][1])
    points = found[0]
    own = points[np.isfinite(points).all(1)]
    middle = (own.min(0) + own.max(0)) / 2
    closer = _found(scan, detect, frontal(middle, CLOSE_UP * float(np.ptp(own, axis=0).max()), turn))
    return points if closer is None else closer[0]


def _found(scan: Mesh, detect: Detector, camera: Camera) -> tuple[np.ndarray, float] | None:
    """The points (68,3) that one camera gives, with the detector's confidence."""
    picture, view = photograph(scan, camera)
    answer = detect(picture)
    if answer is None:
        return None
    pixels, confidence = answer
    points = np.stack([_surface_at(view, pixel) for pixel in pixels])
    return (points, confidence) if np.isfinite(points).all(1).sum() >= LEAST_FOUND else None


def _surface_at(view: views.View, pixel: np.ndarray) -> np.ndarray:
    """The surface point (3,) nearest to a pixel (2,), NaN where there is none around."""
    column, row = np.round(pixel).astype(int)
    rows = slice(max(row - REACH_PX, 0), max(row + REACH_PX + 1, 0))
    columns = slice(max(column - REACH_PX, 0), max(column + REACH_PX + 1, 0))
    hit = view.hit[rows, columns]
    if not hit.any():
        return np.full(3, np.nan)
    offset = np.argwhere(hit) + [rows.start, columns.start] - pixel[::-1]
    return view.points[rows, columns][hit][(offset**2).sum(1).argmin()]
