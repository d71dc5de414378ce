"""How far a reconstructed head is from its scan, by the official protocol: only what can be seen from outside counts.

Both surfaces are rendered from ten directions, back-projected, cut at the throat and sampled; distances are in
millimetres. Source: scripts/evaluation of github.com/SimonGiebenhain/NPHM. Its renders miss the inside of the mouth by
design. Lengths here are millimetres, where the official code has FLAME's metres.
"""

import dataclasses

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry import sampling, views
from jaxface.meshes import Mesh

VIEWS = 10
SAMPLES = 250_000
# The cameras: away from the origin, (height, width) in pixels, and focal length in heights.
EYE_MM, SIZE, FOCAL_PER_HEIGHT = 600.0, (1280, 960), 2440.0 / 1280
# Where a point belongs to the face: so near to its nearest face vertex, and so near along that vertex's normal.
FACE_WITHIN_MM, FACE_ALONG_MM = 40.0, 20.0
THRESHOLDS_MM = (1.0, 5.0, 10.0, 20.0)


@dataclasses.dataclass(frozen=True)
class Surface:
    """Points (N,3) mm with unit normals (N,3)."""

    points: np.ndarray
    normals: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Surface":
        return Surface(self.points[rows], self.normals[rows])


def visible_surface(mesh: Mesh, size: tuple[int, int] = SIZE) -> Surface:
    """What ten cameras around the origin see of a mesh in mm: a point for each pixel that faces one.

    `size` (height, width) of the pictures. UserError where nothing is seen: a cloud of points, another unit, or an
    origin that is not in the head.
    """
    parts, focal_px = [], FOCAL_PER_HEIGHT * size[0]
    for direction in views.fibonacci(VIEWS):
        eye = EYE_MM * direction
        seen = views.see(mesh.vertices, mesh.triangles, eye, views.looking(eye, np.zeros(3)), focal_px, size)
        parts.append(seen.facing(eye))
    points, normals = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not len(points):
        raise UserError("nothing of the mesh is seen: it needs faces, millimetres, and the origin inside the head")
    return Surface(points, normals)


def above(points: np.ndarray, plane: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points (N,) bool lie above the throat, a plane through three points (3,3), by more than `margin`.

    The official test, whose normal is not of length one: `margin` is in the cube of the points' unit.
    """
    return (points - plane[0]) @ np.cross(plane[1] - plane[0], plane[2] - plane[0]) > margin


def on_face(points: np.ndarray, face: Surface) -> np.ndarray:
    """Which points (N,) bool belong to the face, given as vertices of a fitted template."""
    distance, nearest = scipy.spatial.cKDTree(face.points).query(points, workers=-1)
    along = np.abs(((points - face.points[nearest]) * face.normals[nearest]).sum(1))
    return (distance < FACE_WITHIN_MM) & (along < FACE_ALONG_MM)


def sampled(surface: Surface, count: int = SAMPLES, seed: int = 0) -> Surface:
    """`count` of the points, drawn with replacement."""
    return surface[np.random.default_rng(seed).integers(0, len(surface.points), count)]


def compare(made: Surface, scan: Surface) -> dict[str, float]:
    """Errors of a reconstruction against a scan.

    chamfer_l1 (mm) and chamfer_l2 (mm^2): the mean of both directions' mean distance and mean square. normals: the mean
    absolute cosine, both ways. f_score_1 … f_score_20: harmonic mean of the shares nearer than so many mm.
    """
    results = []
    for one, other in ((made, scan), (scan, made)):
        distance, nearest = scipy.spatial.cKDTree(other.points).query(one.points, workers=-1)
        cosine = np.abs((one.normals * other.normals[nearest]).sum(1)).mean()
        shares = np.array([(distance < threshold).mean() for threshold in THRESHOLDS_MM])
        results.append((distance.mean(), (distance**2).mean(), cosine, shares))
    l1, l2, cosine, shares = zip(*results, strict=True)
    precision, recall = shares
    f_scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    named = {f"f_score_{threshold:g}": float(f) for threshold, f in zip(THRESHOLDS_MM, f_scores, strict=True)}
    means = {"chamfer_l1": l1, "chamfer_l2": l2, "normals": cosine}
    return {name: float(np.mean(values)) for name, values in means.items()} | named


def evaluate(
    made: Mesh,
    scan: Mesh,
    face: Surface | None = None,
    throat: np.ndarray | None = None,
    samples: int = SAMPLES,
    size: tuple[int, int] = SIZE,
) -> dict[str, float]:
    """`compare` of what is visible of two meshes in mm; with `face` the same of the face alone, named face_….

    `throat` (3,3) are three points of the plane below which nothing counts.
    """
    surfaces = [visible_surface(mesh, size) for mesh in (made, scan)]
    if throat is not None:
        surfaces = [surface[above(surface.points, throat)] for surface in surfaces]
    errors = compare(*(sampled(surface, samples) for surface in surfaces))
    if face is not None:
        faces = [surface[on_face(surface.points, face)] for surface in surfaces]
        if min(len(part.points) for part in faces) == 0:
            raise UserError("no point of the mesh or of the scan lies on the face: they are not in one frame")
        parts = compare(*(sampled(part, samples) for part in faces))
        errors |= {f"face_{name}": value for name, value in parts.items()}
    return errors


def face_of(vertices: np.ndarray, triangles: np.ndarray, chosen: np.ndarray) -> Surface:
    """The chosen vertices (V,) bool of a mesh (V,3) mm as the face that `evaluate` wants."""
    return Surface(vertices[chosen], sampling.vertex_normals(vertices, triangles)[chosen])
