"""Errors of a reconstructed head against its scan, over what is visible from outside, as functions of meshes.

Both surfaces are rendered from ten directions, back-projected, cut at the throat and sampled. The inside of the mouth
is excluded in this way. Source: scripts/evaluation/eval.py and src/NPHM/evaluation of
github.com/SimonGiebenhain/NPHM, with lengths in millimetres: it renders in FLAME's metres and selects the face in
NPHM's units of 250 mm.
"""

import dataclasses

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry import sampling, views
from jaxface.heads import flame
from jaxface.meshes import Mesh

VIEWS = 10
SAMPLES = 250_000
# The cameras: distance from the origin, (height, width) in pixels, focal length as a multiple of the height.
CAMERA_DISTANCE_MM, SIZE, FOCAL_PER_HEIGHT = 600.0, (1280, 960), 2440.0 / 1280
# A point belongs to the face if it is this close to its closest face vertex, in total and along the vertex normal: 0.04
# and 0.02 of NPHM's units of 250 mm (the official script samples in these, not in FLAME's metres).
FACE_DISTANCE_MM, FACE_NORMAL_DISTANCE_MM = 10.0, 5.0
THRESHOLDS_MM = (1.0, 5.0, 10.0, 20.0)


@dataclasses.dataclass(frozen=True)
class OrientedPoints:
    """Points (N,3) mm with unit normals (N,3)."""

    points: np.ndarray
    normals: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "OrientedPoints":
        return OrientedPoints(self.points[rows], self.normals[rows])


def visible_surface(mesh: Mesh, size: tuple[int, int] = SIZE) -> OrientedPoints:
    """Surface points of a mesh in mm that ten cameras around the origin see, one per pixel that faces its camera.

    `size`: (height, width) of the renderings. UserError if nothing is visible.
    """
    parts, focal_px = [], FOCAL_PER_HEIGHT * size[0]
    for direction in views.fibonacci_sphere(VIEWS):
        eye = CAMERA_DISTANCE_MM * direction
        view = views.render(mesh.vertices, mesh.triangles, eye, views.look_at(eye, np.zeros(3)), focal_px, size)
        parts.append(view.facing(eye))
    points, normals = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not len(points):
        raise UserError("nothing of the mesh is visible; it needs faces, millimetres and the origin inside the head")
    return OrientedPoints(points, normals)


def on_face(points: np.ndarray, face: OrientedPoints) -> np.ndarray:
    """Mask (N,) bool of points (N,3) mm near the face, given as vertices of a registered template."""
    distance, closest = scipy.spatial.cKDTree(face.points).query(points, workers=-1)
    along_normal = np.abs(((points - face.points[closest]) * face.normals[closest]).sum(1))
    return (distance < FACE_DISTANCE_MM) & (along_normal < FACE_NORMAL_DISTANCE_MM)


def face_vertices(vertices: np.ndarray, triangles: np.ndarray, mask: np.ndarray) -> OrientedPoints:
    """The vertices (V,3) mm of a mesh under `mask` (V,) bool, with normals: the face for `evaluate`."""
    return OrientedPoints(vertices[mask], sampling.vertex_normals(vertices, triangles)[mask])


def resample(surface: OrientedPoints, count: int = SAMPLES, seed: int = 0) -> OrientedPoints:
    """`count` of the points, sampled with replacement."""
    return surface[np.random.default_rng(seed).integers(0, len(surface.points), count)]


def scaled(surface: OrientedPoints, scale: float) -> OrientedPoints:
    """The surface in another unit."""
    return OrientedPoints(scale * surface.points, surface.normals)


def compare(reconstruction: OrientedPoints, scan: OrientedPoints) -> dict[str, float]:
    """Errors of a reconstruction.

    Returns:
        chamfer_l1 (mm) and chamfer_l2 (mm^2): mean distance and mean squared distance, averaged over both directions.
        normals: mean absolute cosine of the normals, averaged likewise.
        f_score_1, f_score_5, f_score_10, f_score_20: harmonic mean of the shares of points closer than so many mm.
    """
    directions = []
    for source, target in ((reconstruction, scan), (scan, reconstruction)):
        distance, closest = scipy.spatial.cKDTree(target.points).query(source.points, workers=-1)
        cosine = np.abs((source.normals * target.normals[closest]).sum(1)).mean()
        shares = np.array([(distance < threshold).mean() for threshold in THRESHOLDS_MM])
        directions.append((distance.mean(), (distance**2).mean(), cosine, shares))
    l1, l2, cosine, (precision, recall) = zip(*directions, strict=True)
    f_scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    errors = {"chamfer_l1": float(np.mean(l1)), "chamfer_l2": float(np.mean(l2)), "normals": float(np.mean(cosine))}
    for threshold, f_score in zip(THRESHOLDS_MM, f_scores, strict=True):
        errors[f"f_score_{threshold:g}"] = float(f_score)
    return errors


def evaluate(
    reconstruction: Mesh,
    scan: Mesh,
    face: OrientedPoints | None = None,
    throat: np.ndarray | None = None,
    samples: int = SAMPLES,
    size: tuple[int, int] = SIZE,
    scale: float = 1.0,
) -> dict[str, float]:
    """`compare` for the visible surfaces of two meshes in mm, and with `face` for the face alone (keys face_…).

    Args:
        reconstruction: in the scan's frame, with the origin inside the head.
        scan: the ground truth.
        face: vertices of the face, as from `face_vertices`.
        throat: (3,3), a plane as for `flame.above_throat`; points below it are excluded.
        samples: points sampled from each surface.
        size: (height, width) of the renderings.
        scale: true mm per mm of the meshes, by which all errors are measured.

    Raises:
        UserError: nothing is visible, or no visible point lies on the face.
    """
    surfaces = [visible_surface(mesh, size) for mesh in (reconstruction, scan)]
    if throat is not None:
        surfaces = [surface[flame.above_throat(surface.points, throat)] for surface in surfaces]
        if min(len(surface.points) for surface in surfaces) == 0:
            raise UserError("no visible point of the mesh or of the scan lies above the throat; use one frame for both")
    errors = compare(*(scaled(resample(surface, samples), scale) for surface in surfaces))
    if face is not None:
        faces = [surface[on_face(surface.points, face)] for surface in surfaces]
        if min(len(part.points) for part in faces) == 0:
            raise UserError("no visible point of the mesh or of the scan lies on the face; use one frame for both")
        face_errors = compare(*(scaled(resample(part, samples), scale) for part in faces))
        errors |= {f"face_{name}": value for name, value in face_errors.items()}
    return errors
