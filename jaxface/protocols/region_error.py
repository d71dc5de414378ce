"""REALY's region-wise error of a predicted head (Chai et al., ECCV 2022, §3): align globally, align to a region of the
scan, deform the region onto the prediction to find correspondences, and measure them on the undeformed region.

Written from the paper and the parameters of github.com/czh-98/REALY (utils/gICP.py, rICP.py, NICP.py, eval.py): the
non-rigid step is optimal-step ICP with one affine transform per vertex (Amberg et al., CVPR 2007).
"""

import dataclasses

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import scipy.spatial

from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.surface import SurfaceQuery

# Rigid alignment to a region: it ends when the mean squared distance changes by less, or after so many steps.
RIGID_TOLERANCE, RIGID_STEPS = 1e-6, 100
# Stiffness of the deformation in its first stage (landmarks only) and in the others, where it decays.
FIRST_STIFFNESS, STIFFNESS, STIFFNESS_DECAY = 150.0, 50.0, 0.5
STAGES, STAGE_STEPS, STAGE_TOLERANCE = 3, 11, 1.0
# Weight of landmarks in the first stage; later it is LATER_LANDMARK_SHARE of it and decays with every step.
LANDMARK_WEIGHT, LATER_LANDMARK_SHARE, LANDMARK_DECAY = 50.0, 0.1, 0.9
# Weights of the columns of the affine transforms in the stiffness of the first stage.
FIRST_COLUMNS = (2.0, 2.0, 3.0, 2.0)
# Pairs farther apart than twice the mean distance, at least 1, are left out.
OUTLIER_FACTOR, LEAST_OUTLIER = 2.0, 1.0


@dataclasses.dataclass(frozen=True)
class Region:
    """A region of a scan: vertices (N,3), triangles (T,3), and true landmarks (K,3) for the rigid and (L,3) for the
    non-rigid alignment; L may be 0. `landmark_share`: total weight of the K landmarks in points of the region."""

    vertices: np.ndarray
    triangles: np.ndarray
    rigid_landmarks: np.ndarray
    landmarks: np.ndarray
    landmark_share: float = 1.0


def global_alignment(source: np.ndarray, target: np.ndarray) -> Similarity:
    """REALY's similarity of landmarks (K,3) onto (K,3): its scale is the ratio of the sums of absolute coordinates."""
    rotation = icp.procrustes(source, target, scale=False).rotation
    turned = (source - source.mean(0)) @ rotation.T
    scale = np.abs(target - target.mean(0)).sum() / np.abs(turned).sum()
    return Similarity(float(scale), rotation, target.mean(0) - scale * rotation @ source.mean(0))


def rigid_alignment(region: Region, vertices: np.ndarray, triangles: np.ndarray, landmarks: np.ndarray) -> Similarity:
    """The motion of a globally aligned head (V,3) with landmarks (K,3) onto a region, without scale.

    Each landmark counts as often as needed for all of them to weigh `landmark_share` of the region's points.
    """
    times = int(region.landmark_share * len(region.vertices) / len(landmarks))
    true = np.concatenate([region.vertices, *[region.rigid_landmarks] * times])
    surface, current, previous = SurfaceQuery(vertices, triangles), Similarity(1.0, np.eye(3), np.zeros(3)), 0.0
    for _ in range(RIGID_STEPS):
        closest = current(surface.closest(current.inverse(region.vertices))[0])
        moved = np.concatenate([closest, *[current(landmarks)] * times])
        motion = icp.procrustes(moved, true, scale=False)
        error = ((motion(moved) - true) ** 2).sum(1).mean()
        if abs(error - previous) < RIGID_TOLERANCE:
            break
        current, previous = icp.compose(motion, current), error
    return current


def error(region: Region, vertices: np.ndarray, triangles: np.ndarray, landmarks: np.ndarray) -> float:
    """The mean distance of a region's vertices from their correspondences on an aligned head, in the scan's unit.

    Args:
        region: the region.
        vertices: (V,3) of the head, aligned to the region.
        triangles: (T,3).
        landmarks: (L,3) of the head, corresponding to `region.landmarks`.
    """
    surface = SurfaceQuery(vertices, triangles)
    deformed = deform(region, surface.closest(region.vertices)[0], landmarks)
    return float(np.linalg.norm(surface.closest(deformed)[0] - region.vertices, axis=1).mean())


def deform(region: Region, targets: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The region's vertices (N,3), deformed onto the points (M,3) with its landmarks onto (L,3)."""
    tree, current, step = scipy.spatial.cKDTree(targets), np.asarray(region.vertices, np.float64), 0
    differences = _edge_differences(region.triangles, len(current))
    rows = scipy.spatial.cKDTree(current).query(region.landmarks)[1] if len(region.landmarks) else np.zeros(0, int)
    if len(rows):
        stiffness = FIRST_STIFFNESS * scipy.sparse.kron(differences, np.diag(FIRST_COLUMNS))
        landmark_weight = np.full(len(rows), LANDMARK_WEIGHT)
        current = _solve(stiffness, current, rows, landmarks, landmark_weight)[0]
        step = 1
    for stage in range(STAGES):
        stiffness = STIFFNESS * np.exp(-STIFFNESS_DECAY * stage) * scipy.sparse.kron(differences, np.eye(4))
        transforms = np.zeros((4 * len(current), 3))
        for _ in range(STAGE_STEPS):
            distance, nearest = tree.query(current)
            kept = np.flatnonzero(distance < max(OUTLIER_FACTOR * distance.mean(), LEAST_OUTLIER))
            weight = LANDMARK_WEIGHT * LATER_LANDMARK_SHARE * np.exp(-LANDMARK_DECAY * step)
            all_rows = np.concatenate([kept, rows])
            goals = np.concatenate([targets[nearest[kept]], landmarks[: len(rows)]])
            weights = np.concatenate([np.ones(len(kept)), np.full(len(rows), weight)])
            current, solved = _solve(stiffness, current, all_rows, goals, weights)
            step += 1
            change, transforms = np.linalg.norm(solved - transforms), solved
            if change <= STAGE_TOLERANCE * 0.5**stage:
                break
    return current


def _edge_differences(triangles: np.ndarray, count: int) -> scipy.sparse.csr_matrix:
    """Matrix (E,N) of the differences of values at the two ends of each edge."""
    edges = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1), axis=0
    )
    row = np.arange(len(edges)).repeat(2)
    return scipy.sparse.csr_matrix((np.tile([1.0, -1.0], len(edges)), (row, edges.ravel())), (len(edges), count))


def _solve(
    stiffness: scipy.sparse.spmatrix, vertices: np.ndarray, rows: np.ndarray, goals: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Affine transforms (4N,3) that take the vertices `rows` to their goals, stiffly; returns (moved (N,3), them).

    Equal transforms of connected vertices cost nothing, so that the system is singular for fewer than four goals; a
    small multiple of the identity then keeps it solvable.
    """
    count = len(vertices)
    homogeneous = np.concatenate([vertices, np.ones((count, 1))], 1)
    columns = np.arange(4 * count).reshape(count, 4)
    positions = scipy.sparse.csr_matrix((homogeneous.ravel(), (np.arange(count).repeat(4), columns.ravel())))
    data = scipy.sparse.diags(weights) @ positions[rows]
    system = (stiffness.T @ stiffness + data.T @ data + 1e-9 * scipy.sparse.eye(4 * count)).tocsc()
    solved = scipy.sparse.linalg.splu(system).solve(data.T @ (weights[:, None] * goals))
    return positions @ solved, solved
