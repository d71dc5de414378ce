"""Scan-to-mesh errors of MICC and NoW, as functions of meshes.

Both align the reconstructed head to each scan by a similarity, first from landmarks and then by ICP, and measure
distances from scan points to the head's surface, in millimetres.

MICC, as its author describes it (Deep3DFaceReconstruction, issue 23): point-to-plane RMSE within 95 mm of the nose tip,
without the forehead. NoW (Sanyal et al., CVPR 2019): distances of all points of the face to the surface; median, mean
and standard deviation over the points of all scans. The alignment minimises squared distances, as NoW's does; its
optimiser differs (Gauss-Newton here, dogleg there). None of the benchmarks' code is used.
"""

import functools
from collections.abc import Iterable

import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.surface import SurfaceQuery

MICC_RADIUS_MM = 95.0
# The author does not say where the forehead begins; the brows of the mean head lie this far above the nose tip.
FOREHEAD_MM = 55.0
# ICP ends when no closest point moves farther than this, or after this many steps.
CONVERGED_MM, ICP_STEPS = 1e-4, 40
# ICP uses about this many of the scan's points, evenly strided; errors are measured at all of them.
ICP_POINTS = 5000
# iBUG numbers of NoW's seven landmarks: outer and inner corners of both eyes, base of the nose, corners of the mouth.
SEVEN = (36, 39, 42, 45, 33, 48, 54)
# NoW's face: its centre, as a share of the way from the base of the nose to between the eyes, and its radius in units
# of half the sum of the outer eye distance and that way.
CENTER_SHARE, RADIUS_FACTOR = 0.3, 1.4


def align_landmarks(source: np.ndarray, target: np.ndarray, scale: bool = True) -> Similarity:
    """Least-squares similarity of landmarks (K,3) onto corresponding ones; without `scale` a rigid motion.

    Raises UserError if there are fewer than three, the shapes differ or a number is not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise UserError(
            f"landmarks: shapes {source.shape} and {target.shape}; use at least 3 points (K,3), the same on both"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise UserError("landmarks: some are NaN or infinite; use finite points")
    return icp.procrustes(source, target, scale)


def align_surface(
    points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, start: Similarity, scale: bool = True
) -> Similarity:
    """Registers a mesh to scan points by point-to-plane ICP, which minimises their squared distances.

    Correspondences are the closest mesh points of the scan points. The scan is never scaled, so the mesh cannot shrink
    onto it.

    Args:
        points: scan points (N,3).
        vertices: mesh vertices (V,3) in any unit.
        triangles: (T,3).
        start: initial similarity from the mesh to the scan.
        scale: whether the size is estimated too; otherwise that of `start` is kept.

    Returns:
        The similarity from the mesh to the scan.
    """
    used = np.asarray(points, np.float64)[:: max(1, len(points) // ICP_POINTS)]
    surface = SurfaceQuery(vertices, triangles)

    def match(current: Similarity) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        closest, normals = surface.closest(current.inverse(used))
        return current(closest), used, normals @ current.rotation.T

    update = functools.partial(icp.point_to_plane_update, scale=scale, least_scale=np.inf)
    return icp.icp(start, match, update, ICP_STEPS, CONVERGED_MM)


def micc_region(points: np.ndarray, nose_tip: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Mask (N,) bool of the points (N,3) mm that MICC evaluates.

    They lie within 95 mm of the nose tip (3,) and, along the direction `up` (3,), not above the brows.
    """
    offset = np.asarray(points, np.float64) - nose_tip
    height = offset @ (np.asarray(up, np.float64) / np.linalg.norm(up))
    return (np.linalg.norm(offset, axis=1) <= MICC_RADIUS_MM) & (height <= FOREHEAD_MM)


def micc_error(
    scan: np.ndarray,
    nose_tip: np.ndarray,
    up: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    start: Similarity,
) -> float:
    """Point-to-plane RMSE in mm of a head against a scan, after ICP with scale.

    Args:
        scan: points (N,3) mm.
        nose_tip: the scan's nose tip (3,).
        up: the scan's upward direction (3,).
        vertices: vertices (V,3) of the head in any unit.
        triangles: (T,3).
        start: initial similarity from the head to the scan, e.g. from `align_landmarks`.

    Raises:
        UserError: no scan point lies near the nose tip.
    """
    near = scan[micc_region(scan, nose_tip, up)]
    if len(near) == 0:
        raise UserError(
            f"scan: no point lies within {MICC_RADIUS_MM:g} mm of the nose tip; check its unit (mm) and the nose tip"
        )
    aligned = align_surface(near, vertices, triangles, start)
    closest, normals = SurfaceQuery(aligned(np.asarray(vertices, np.float64)), triangles).closest(near)
    return float(np.sqrt((((near - closest) * normals).sum(1) ** 2).mean()))


def now_region(points: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Mask (N,) bool of the points (N,3) that NoW evaluates, from its seven landmarks (7,3) in the same unit."""
    landmarks = np.asarray(landmarks, np.float64)
    nose_base, between_eyes = landmarks[4], (landmarks[1] + landmarks[2]) / 2
    nose = between_eyes - nose_base
    radius = RADIUS_FACTOR * (np.linalg.norm(landmarks[0] - landmarks[3]) + np.linalg.norm(nose)) / 2
    return np.linalg.norm(np.asarray(points, np.float64) - (nose_base + CENTER_SHARE * nose), axis=1) <= radius


def now_distances(
    scan: np.ndarray,
    mask: np.ndarray,
    scan_landmarks: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    landmarks: np.ndarray,
    metric: bool = False,
) -> np.ndarray:
    """NoW's distances in mm for one scan: from each masked scan point to the aligned head.

    Args:
        scan: points (N,3) mm.
        mask: (N,) bool, the evaluated points.
        scan_landmarks: landmarks (K,3) of the scan; seven in the benchmark.
        vertices: vertices (V,3) of the head in any unit.
        triangles: (T,3).
        landmarks: landmarks (K,3) of the head.
        metric: the metric protocol: the size is not estimated, and the head's unit is mm.

    Returns:
        Distances (M,) of the M masked points.

    Raises:
        UserError: the mask is empty, or landmarks are malformed (see `align_landmarks`).
    """
    scan = np.asarray(scan, np.float64)
    if not np.any(mask):
        raise UserError("the mask of the scan is empty; mark at least one point")
    masked = scan[np.asarray(mask, bool)]
    start = align_landmarks(landmarks, scan_landmarks, scale=not metric)
    aligned = align_surface(masked, vertices, triangles, start, scale=not metric)
    closest, _ = SurfaceQuery(aligned(np.asarray(vertices, np.float64)), triangles).closest(masked)
    return np.linalg.norm(masked - closest, axis=1)


def now_summary(distances: Iterable[np.ndarray]) -> dict[str, float]:
    """Median, mean and standard deviation (mm) over all points of all scans, as NoW reports them."""
    pooled = np.concatenate([np.ravel(one) for one in distances])
    return {"median": float(np.median(pooled)), "mean": float(pooled.mean()), "std": float(pooled.std())}
