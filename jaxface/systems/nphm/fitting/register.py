"""A scan to a head template: similarity, coefficients of a `MorphableHead`, and an as-rigid-as-possible refinement.

The data set of NPHM was registered so (Giebenhain et al., CVPR 2023, §3.1, with FLAME); the code was never released and
the weights are not known, so these are ours. Lengths are millimetres of the head's frame unless said.
"""

import dataclasses

import numpy as np
import scipy.spatial
import scipy.spatial.transform
import trimesh

from jaxface.errors import UserError
from jaxface.geometry import alignment, sampling
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.arap import Arap
from jaxface.heads.closed import ClosedHead
from jaxface.meshes import Mesh

# Contour landmarks slide along the jaw with the view: they do not count.
CONTOUR = 17
LEAST_LANDMARKS = 12
# Standard deviations: of a landmark, of a surface point (wide, as neighbours err alike), of an expression's weight.
LANDMARK_MM, SURFACE_MM, EXPRESSION = 2.0, 8.0, 0.4
# Rounds of the fit: how far a surface point may lie from its vertex.
GATES_MM = (40.0, 25.0, 15.0, 10.0, 8.0, 6.0, 5.0, 4.0, 4.0, 4.0)
SAME_SIDE = 0.5
VERTICES = 5000
REFINE_GATES_MM = (6.0, 5.0, 4.0, 4.0)
PULL = 0.6


@dataclasses.dataclass(frozen=True)
class Registration:
    """The template on the scan: `mesh` in the scan's frame, its first W vertices those of the closed head; `fitted`
    (W,3) mm before refinement; coefficients identity (I,) and expression (E,); the similarity, from head mm to the
    scan; error_mm, the median distance of the head's face to the scan, before and after refinement."""

    mesh: Mesh
    fitted: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    similarity: Similarity
    error_mm: tuple[float, float]


def register(scan: Mesh, closed: ClosedHead, landmarks: np.ndarray, subdivisions: int = 1) -> Registration:
    """Registers a closed head to a scan with the 68 points `landmarks` (68,3) in its frame, NaN for unknown ones.

    A scan may be a cloud of points, in any unit. Triangles are cut into four `subdivisions` times before the
    refinement. UserError where too few landmarks are known or the head ends nowhere near the scan.
    """
    known = np.isfinite(landmarks).all(1) & (np.arange(len(landmarks)) >= CONTOUR)
    if known.sum() < LEAST_LANDMARKS:
        raise UserError(f"only {known.sum()} landmarks inside the face are known; {LEAST_LANDMARKS} are needed")
    places = closed.head.landmark_points(np.asarray(closed.head.template), "68")
    start = Similarity(*alignment.similarity(places[known].astype(np.float64), landmarks[known].astype(np.float64)))
    surface = _Scan(scan, start.scale)
    fit = _Fit(closed, surface, start, landmarks, known)
    for gate in GATES_MM:
        fit.improve(gate)
    fitted = closed.posed(fit.identity, fit.expression)
    vertices, triangles = fitted.astype(np.float64), closed.triangles
    face = np.unique(triangles[closed.face])
    for _ in range(subdivisions):
        vertices, triangles = trimesh.remesh.subdivide(vertices, triangles)
    refined = _refined(vertices, triangles, surface, fit.similarity)
    errors = tuple(surface.median_distance(fit.similarity, shape[face]) for shape in (fitted, refined))
    if errors[0] > GATES_MM[0]:
        raise UserError(f"the head ends {errors[0]:.0f} mm from the scan: look at its landmarks")
    mesh = Mesh(fit.similarity(refined).astype(np.float32), triangles.astype(np.int32))
    return Registration(mesh, fitted, fit.identity, fit.expression, fit.similarity, errors)


class _Scan:
    """Points of a scan with normals, to be asked for nearest neighbours."""

    def __init__(self, scan: Mesh, unit: float):
        self.points = scan.vertices.astype(np.float64)
        self.normals = scan.normals
        if self.normals is None and len(scan.triangles):
            self.normals = sampling.vertex_normals(scan.vertices / unit, scan.triangles)
        self.tree = scipy.spatial.cKDTree(self.points)

    def matches(self, similarity: Similarity, vertices: np.ndarray, normals: np.ndarray, gate: float):
        """(rows (M,), points (M,3) mm, normals (M,3)): vertices (N,3) that have a scan point near, and that point."""
        distance, near = self.tree.query(similarity(vertices), workers=-1)
        matched = distance < gate * similarity.scale
        if self.normals is None:
            towards = normals
        else:
            towards = self.normals[near] @ similarity.rotation
            matched &= (towards * normals).sum(1) > SAME_SIDE
        rows = np.flatnonzero(matched)
        return rows, similarity.inverse(self.points[near[rows]]), towards[rows]

    def median_distance(self, similarity: Similarity, vertices: np.ndarray) -> float:
        """Median distance in mm from head points (N,3) mm to the scan's points."""
        return float(np.median(self.tree.query(similarity(vertices), workers=-1)[0]) / similarity.scale)


class _Fit:
    """Gauss-Newton on similarity and coefficients, point to plane, with landmarks and a normal prior."""

    def __init__(self, closed: ClosedHead, scan: _Scan, start: Similarity, landmarks: np.ndarray, known: np.ndarray):
        head = closed.head
        self._closed, self._scan, self.similarity = closed, scan, start
        self._landmarks, self._known = landmarks[known], known
        self.identity = np.zeros(len(head.identity_names))
        self.expression = np.zeros(len(head.expression_names))
        basis = np.concatenate([head.identity, head.expression])
        # The skin comes first among the closed head's vertices, and is linear in the coefficients.
        on_face = np.zeros(len(closed.skin), bool)
        on_face[np.unique(closed.triangles[closed.face & (closed.triangles < len(closed.skin)).all(1)])] = True
        rows = np.random.default_rng(0).permutation(np.flatnonzero(on_face))[:VERTICES]
        self._rows, self._basis = rows, basis[:, closed.skin[rows]].astype(np.float64)
        self._mark_basis = np.moveaxis(head.landmark_points(basis, "68")[:, known], 0, -1).astype(np.float64)
        # Statistical modes (FLAME's) are told by their names: their weights have either sign.
        named = np.array([not name.startswith("expression") for name in head.expression_names])
        self._limits = np.where(named, 0.0, -3.0), np.where(named, 1.0, 3.0)
        self._spread = np.concatenate([np.ones(len(self.identity)), np.where(named, EXPRESSION, 1.0)])

    def improve(self, gate: float) -> None:
        """One step, with scan points within `gate` mm."""
        closed, head = self._closed, self._closed.head
        surface = closed.posed(self.identity, self.expression)
        normals = sampling.vertex_normals(surface, closed.triangles)[self._rows].astype(np.float64)
        vertices = surface[self._rows].astype(np.float64)
        found, points, _ = self._scan.matches(self.similarity, vertices, normals, gate)
        moved = np.asarray(head.shape(self.identity, self.expression))
        marks = head.landmark_points(moved, "68")[self._known].astype(np.float64)
        n, v = normals[found], vertices[found]
        planes = np.concatenate([_motion(v, n), np.einsum("md,kmd->mk", n, self._basis[:, found])], axis=1)
        places = np.concatenate([_motions(marks), self._mark_basis], axis=2).reshape(3 * len(marks), -1)
        missing = (n * (points - v)).sum(1), (self.similarity.inverse(self._landmarks) - marks).ravel()
        rows = np.concatenate([planes / SURFACE_MM, places / LANDMARK_MM])
        wanted = np.concatenate([missing[0] / SURFACE_MM, missing[1] / LANDMARK_MM])
        prior = np.concatenate([np.zeros(7), 1 / self._spread**2])
        now = np.concatenate([np.zeros(7), self.identity, self.expression])
        normal = rows.T @ rows + np.diag(prior + 1e-9)
        self._move(np.linalg.solve(normal, rows.T @ wanted - prior * now))

    def _move(self, step: np.ndarray) -> None:
        turn, shift, growth = step[:3], step[3:6], step[6]
        old, count = self.similarity, 7 + len(self.identity)
        rotation = old.rotation @ scipy.spatial.transform.Rotation.from_rotvec(turn).as_matrix()
        translation = old.translation + old.scale * old.rotation @ shift
        self.similarity = Similarity(old.scale * float(np.exp(growth)), rotation, translation)
        self.identity = self.identity + step[7:count]
        self.expression = np.clip(self.expression + step[count:], *self._limits)


def _motion(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """How turn, shift and growth (M,7) move points (M,3) along normals (M,3)."""
    return np.concatenate([np.cross(points, normals), normals, (points * normals).sum(1, keepdims=True)], axis=1)


def _motions(points: np.ndarray) -> np.ndarray:
    """How turn, shift and growth move points (M,3) along each axis: (M,3,7)."""
    axes = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    return np.stack([_motion(points, axes[:, axis]) for axis in range(3)], axis=1)


def _refined(vertices: np.ndarray, triangles: np.ndarray, scan: _Scan, similarity: Similarity) -> np.ndarray:
    """Vertices (V,3) mm pulled onto the scan along its normals, as rigidly as possible where it has no points."""
    shape, current = Arap(vertices, triangles), vertices
    for gate in REFINE_GATES_MM:
        normals = sampling.vertex_normals(current, triangles).astype(np.float64)
        rows, points, towards = scan.matches(similarity, current, normals, gate)
        targets, weights = current.copy(), np.zeros(len(current))
        away = ((points - current[rows]) * towards).sum(1, keepdims=True)
        targets[rows] = current[rows] + away * towards
        weights[rows] = PULL
        # Nothing may drift where nothing is known.
        weights += 1e-6
        current = shape.pulled(current, targets, weights)
    return current
