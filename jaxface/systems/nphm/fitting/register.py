"""Registration of a head template to a scan: similarity and morphable-model coefficients, then ARAP refinement.

The NPHM data set was registered in this way (Giebenhain et al., CVPR 2023, §3.1, with FLAME). That code was not
released and its weights are unknown; the constants here are chosen by us. Lengths are in millimetres in the head's
frame unless stated.
"""

import dataclasses

import numpy as np
import scipy.spatial
import trimesh

from jaxface.errors import UserError
from jaxface.geometry import icp, sampling
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.arap import Arap
from jaxface.geometry.surface import closest_on_triangles
from jaxface.heads.closed import ClosedHead
from jaxface.meshes import Mesh

# The first landmarks are the contour, whose position on the jaw depends on the view; they are not used.
CONTOUR_LANDMARKS = 17
MIN_LANDMARKS = 12
# Standard deviations: of a landmark, of a surface point (large, because neighbouring errors are correlated), and of a
# blend-shape weight.
LANDMARK_STD_MM, SURFACE_STD_MM, EXPRESSION_STD = 2.0, 8.0, 0.4
# Largest distance of a correspondence in each Gauss-Newton iteration.
GATES_MM = (40.0, 25.0, 15.0, 10.0, 8.0, 6.0, 5.0, 4.0, 4.0, 4.0)
# Minimum cosine between the normals of a correspondence.
MIN_NORMAL_COSINE = 0.5
# Maximum number of face vertices in the Gauss-Newton iterations.
MAX_VERTICES = 5000
# Range of the weights of blend shapes, and of the coefficients of statistical expression modes.
BLEND_SHAPE_RANGE, MODE_RANGE = (0.0, 1.0), (-3.0, 3.0)
DAMPING = 1e-9
# ARAP refinement: largest distance of a correspondence in each iteration, weight of a correspondence, and weight by
# which every vertex is attached to its current position, so that parts without correspondences do not drift.
REFINE_GATES_MM = (6.0, 5.0, 4.0, 4.0)
TARGET_WEIGHT, HOLD_WEIGHT = 0.6, 1e-6


@dataclasses.dataclass(frozen=True)
class Registration:
    """A template registered to a scan.

    Attributes:
        mesh: the refined template in the scan's frame; its first W vertices are those of the closed head.
        fitted: (W,3) mm, the closed head before refinement, in the head's frame.
        identity: (I,) coefficients.
        expression: (E,) coefficients.
        similarity: from head mm to the scan.
        error_mm: median distance from the head's face to the scan's surface (to the points of a point cloud), before
            and after refinement.
    """

    mesh: Mesh
    fitted: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    similarity: Similarity
    error_mm: tuple[float, float]


def register(scan: Mesh, closed: ClosedHead, landmarks: np.ndarray, subdivisions: int = 1) -> Registration:
    """Registers a closed head to a scan.

    Args:
        scan: a mesh or point cloud in any unit.
        closed: the head template.
        landmarks: 68 landmarks (68,3) in the scan's frame, NaN for missing ones.
        subdivisions: how often triangles are split into four before the refinement.

    Raises:
        UserError: too few landmarks are finite, or the fitted head is far from the scan.
    """
    valid = np.isfinite(landmarks).all(1) & (np.arange(len(landmarks)) >= CONTOUR_LANDMARKS)
    if valid.sum() < MIN_LANDMARKS:
        raise UserError(
            f"only {valid.sum()} landmarks inside the face lie on the scan, {MIN_LANDMARKS} are needed; "
            "use a scan that covers the face"
        )
    template = closed.head.landmark_points(np.asarray(closed.head.template), "68")
    start = icp.procrustes(template[valid].astype(np.float64), landmarks[valid].astype(np.float64))
    target = _Target(scan, start.scale)
    fit = _CoefficientFit(closed, target, start, landmarks, valid)
    target.orient(start, *fit.face(), GATES_MM[0])
    for gate_mm in GATES_MM:
        fit.step(gate_mm)
    fitted = closed.posed(fit.identity, fit.expression)
    vertices, triangles = fitted.astype(np.float64), closed.triangles
    face = np.unique(triangles[closed.face])
    for _ in range(subdivisions):
        vertices, triangles = trimesh.remesh.subdivide(vertices, triangles)
    refined = _refine(vertices, triangles, target, fit.similarity)
    errors = tuple(target.median_distance(fit.similarity, shape[face]) for shape in (fitted, refined))
    if errors[0] > GATES_MM[0]:
        raise UserError(f"the fitted head is {errors[0]:.0f} mm from the scan; rotate the scan upright and facing +z")
    mesh = Mesh(fit.similarity(refined), triangles.astype(np.int32))
    return Registration(mesh, fitted, fit.identity, fit.expression, fit.similarity, errors)


class _Target:
    """Points of a scan with normals, and their KD-tree."""

    def __init__(self, scan: Mesh, scale: float):
        """`scale`: units of the scan per mm."""
        self.points = scan.vertices.astype(np.float64)
        self.normals = scan.normals
        if self.normals is None and len(scan.triangles):
            # About the first vertex, because area vectors far from the origin cancel.
            self.normals = sampling.vertex_normals((self.points - self.points[0]) / scale, scan.triangles)
        self.tree = scipy.spatial.cKDTree(self.points)
        self._triangles = scan.triangles

    def orient(self, similarity: Similarity, vertices: np.ndarray, normals: np.ndarray, gate_mm: float) -> None:
        """Turns the scan's normals if most of them point into the head: scans may have their winding inwards.

        Args:
            similarity: from head mm to the scan.
            vertices: (N,3) mm, on the head's face.
            normals: (N,3) of the vertices.
            gate_mm: largest distance of a correspondence.
        """
        if self.normals is None:
            return
        distance, nearest = self.tree.query(similarity(vertices), workers=-1)
        cosine = ((self.normals[nearest] @ similarity.rotation) * normals).sum(1)[distance < gate_mm * similarity.scale]
        if len(cosine) and np.median(cosine) < 0:
            self.normals = -self.normals

    def match(
        self, similarity: Similarity, vertices: np.ndarray, normals: np.ndarray, gate_mm: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Closest scan points of head vertices, within a distance and with compatible normals.

        Args:
            similarity: from head mm to the scan.
            vertices: (N,3) mm.
            normals: (N,3), normals of the vertices; also returned as target normals if the scan has none.
            gate_mm: largest distance.

        Returns:
            (rows (M,) of the vertices, scan points (M,3) and their normals (M,3) in the head's frame, mm).
        """
        distance, nearest = self.tree.query(similarity(vertices), workers=-1)
        matched = distance < gate_mm * similarity.scale
        if self.normals is None:
            target_normals = normals
        else:
            target_normals = self.normals[nearest] @ similarity.rotation
            matched &= (target_normals * normals).sum(1) > MIN_NORMAL_COSINE
        rows = np.flatnonzero(matched)
        return rows, similarity.inverse(self.points[nearest[rows]]), target_normals[rows]

    def median_distance(self, similarity: Similarity, vertices: np.ndarray) -> float:
        """Median distance in mm from head points (N,3) mm to the scan's surface, or to the points of a point cloud.

        Of the surface, the triangles at the nearest vertex count: a mesh's vertices can be farther apart than the head
        is from it.
        """
        points = similarity(vertices)
        distance, nearest = self.tree.query(points, workers=-1)
        if len(self._triangles):
            corners = self._triangles.ravel()
            counts = np.bincount(corners, minlength=len(self.points))
            by_vertex, first = np.argsort(corners, kind="stable") // 3, np.cumsum(counts) - counts
            rows = np.repeat(np.arange(len(points)), counts[nearest])
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts[nearest]) - counts[nearest], counts[nearest])
            triangles = self._triangles[by_vertex[first[nearest[rows]] + offsets]]
            # About the first vertex, because products of far coordinates cancel.
            origin = self.points[0]
            shifted = points[rows] - origin
            closest = closest_on_triangles(shifted, self.points[triangles] - origin)
            np.minimum.at(distance, rows, np.linalg.norm(closest - shifted, axis=1))
        return float(np.median(distance) / similarity.scale)


class _CoefficientFit:
    """MAP estimate of similarity and coefficients by Gauss-Newton.

    Residuals are point-to-plane distances of ICP correspondences and landmark offsets; the prior of the coefficients is
    Gaussian.
    """

    def __init__(
        self, closed: ClosedHead, target: _Target, start: Similarity, landmarks: np.ndarray, valid: np.ndarray
    ):
        head = closed.head
        self._closed, self._target, self.similarity = closed, target, start
        self._landmarks, self._valid = landmarks[valid], valid
        self.identity = np.zeros(len(head.identity_names))
        self.expression = np.zeros(len(head.expression_names))
        basis = np.concatenate([head.identity, head.expression])
        self._rows = _face_vertices(closed)
        self._basis = basis[:, closed.skin[self._rows]].astype(np.float64)
        self._landmark_basis = np.moveaxis(head.landmark_points(basis, "68")[:, valid], 0, -1).astype(np.float64)
        # Statistical modes (FLAME) are named expressionNNN; all other modes are blend shapes with weights in [0, 1].
        blend_shape = np.array([not name.startswith("expression") for name in head.expression_names])
        self._limits = [np.where(blend_shape, *pair) for pair in zip(BLEND_SHAPE_RANGE, MODE_RANGE, strict=True)]
        self._std = np.concatenate([np.ones(len(self.identity)), np.where(blend_shape, EXPRESSION_STD, 1.0)])

    def step(self, gate_mm: float) -> None:
        """One Gauss-Newton step with correspondences within `gate_mm`."""
        planes, plane_residual = self._plane_rows(gate_mm)
        landmarks, landmark_residual = self._landmark_rows()
        jacobian = np.concatenate([planes / SURFACE_STD_MM, landmarks / LANDMARK_STD_MM])
        residual = np.concatenate([plane_residual / SURFACE_STD_MM, landmark_residual / LANDMARK_STD_MM])
        precision = np.concatenate([np.zeros(7), 1 / self._std**2])
        current = np.concatenate([np.zeros(7), self.identity, self.expression])
        normal_matrix = jacobian.T @ jacobian + np.diag(precision + DAMPING)
        self._update(np.linalg.solve(normal_matrix, jacobian.T @ residual - precision * current))

    def face(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (N,3) mm and normals (N,3) of the face with the current coefficients."""
        surface = self._closed.posed(self.identity, self.expression)
        normals = sampling.vertex_normals(surface, self._closed.triangles)
        return surface[self._rows].astype(np.float64), normals[self._rows].astype(np.float64)

    def _plane_rows(self, gate_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Jacobian (M,7+I+E) and residuals (M,) of point-to-plane correspondences."""
        vertices, normals = self.face()
        matched, points, _ = self._target.match(self.similarity, vertices, normals, gate_mm)
        n, v = normals[matched], vertices[matched]
        by_similarity = icp.point_to_plane_jacobian(v, n)
        by_coefficients = np.einsum("md,kmd->mk", n, self._basis[:, matched])
        return np.concatenate([by_similarity, by_coefficients], axis=1), (n * (points - v)).sum(1)

    def _landmark_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Jacobian (3K,7+I+E) and residuals (3K,) of K landmarks."""
        head = self._closed.head
        skin = np.asarray(head.shape(self.identity, self.expression))
        points = head.landmark_points(skin, "68")[self._valid].astype(np.float64)
        axes = np.broadcast_to(np.eye(3), (len(points), 3, 3))
        by_similarity = [icp.point_to_plane_jacobian(points, axes[:, axis]) for axis in range(3)]
        jacobian = np.concatenate([np.stack(by_similarity, axis=1), self._landmark_basis], axis=2)
        residual = self.similarity.inverse(self._landmarks) - points
        return jacobian.reshape(3 * len(points), -1), residual.ravel()

    def _update(self, step: np.ndarray) -> None:
        """Applies a step (7+I+E,): rotation vector, translation, log scale, coefficients."""
        motion = Similarity(float(np.exp(step[6])), icp.rotation_from_vector(step[:3]), step[3:6])
        self.similarity = icp.compose(self.similarity, motion)
        identity_end = 7 + len(self.identity)
        self.identity = self.identity + step[7:identity_end]
        self.expression = np.clip(self.expression + step[identity_end:], *self._limits)


def _face_vertices(closed: ClosedHead) -> np.ndarray:
    """At most MAX_VERTICES random vertices of the face that lie on the skin.

    The skin comes first among the closed head's vertices and is linear in the coefficients.
    """
    on_face = np.zeros(len(closed.skin), bool)
    on_face[np.unique(closed.triangles[closed.face & (closed.triangles < len(closed.skin)).all(1)])] = True
    return np.random.default_rng(0).permutation(np.flatnonzero(on_face))[:MAX_VERTICES]


def face_vertices(closed: ClosedHead, subdivisions: int = 1) -> np.ndarray:
    """Mask (V,) bool of the vertices of `Registration.mesh` on the face.

    `subdivisions` as for `register`; a new vertex belongs to the face if both ends of its edge do.
    """
    vertices, triangles = closed.surface(closed.head.template), closed.triangles
    on_face = np.zeros((len(vertices), 1))
    on_face[np.unique(triangles[closed.face])] = 1
    for _ in range(subdivisions):
        vertices, triangles, attributes = trimesh.remesh.subdivide(
            vertices, triangles, vertex_attributes={"face": on_face}
        )
        on_face = attributes["face"]
    return on_face[:, 0] == 1


def _refine(vertices: np.ndarray, triangles: np.ndarray, target: _Target, similarity: Similarity) -> np.ndarray:
    """Non-rigid ICP: moves vertices (V,3) mm onto the scan along its normals, regularised by ARAP."""
    arap, current = Arap(vertices, triangles), vertices
    for gate_mm in REFINE_GATES_MM:
        normals = sampling.vertex_normals(current, triangles).astype(np.float64)
        rows, points, target_normals = target.match(similarity, current, normals, gate_mm)
        targets, weights = current.copy(), np.zeros(len(current))
        distance = ((points - current[rows]) * target_normals).sum(1, keepdims=True)
        targets[rows] = current[rows] + distance * target_normals
        weights[rows] = TARGET_WEIGHT
        weights += HOLD_WEIGHT
        current = arap.deform(current, targets, weights)
    return current
