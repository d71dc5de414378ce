"""How far a reconstructed head lies from a scan: the protocols of MICC and NoW, as functions of meshes.

Both put the head onto the scan by a similarity of its own, from landmarks and then by the surfaces, and measure from
the scan's points to the head's surface, in the scan's unit, millimetres. MICC as the author told it (issue 23 of
Deep3DFaceReconstruction): RMSE along the normals, within 95 mm of the nose tip, without the forehead. NoW: Sanyal et
al., CVPR 2019: distances to the surface of all points of a mask; median, mean and deviation over all scans' points.
The released benchmarks fit by other optimisers; none of their code is used here.
"""

from collections.abc import Iterable

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.geometry.alignment import Similarity

RADIUS_MM = 95.0
# The author does not say where the forehead begins; so far above the nose tip lie the brows of the mean head.
FOREHEAD_MM = 55.0
# The fit ends where no place of the surface moves farther than so, or after so many steps.
CONVERGED_MM, STEPS = 1e-4, 40
# Surfaces are fitted to every so many-th point, so that about so many are used; all of them are measured.
FITTED_POINTS = 5000
# Points farther away than so many median distances hardly count while surfaces are fitted (Geman-McClure).
ROBUST, FINEST_MM = 3.0, 0.05
NEIGHBOURS = 12


def by_landmarks(source: np.ndarray, target: np.ndarray, scale: bool = True) -> Similarity:
    """The least-squares similarity of landmarks (K,3) onto others, without `scale` a rigid motion.

    UserError: fewer than three, other shapes, NaN.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise UserError(f"landmarks are at least 3 points (K,3), the same on both; not {source.shape}, {target.shape}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise UserError("landmarks must be finite numbers")
    factor, rotation, shift = alignment.similarity(source, target)
    if not scale:
        factor, shift = 1.0, target.mean(0) - rotation @ source.mean(0)
    return Similarity(float(factor), rotation, shift)


def _closest_on_segments(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = (along**2).sum(-1)
    share = ((points - start) * along).sum(-1) / np.where(length > 0, length, 1)
    return start + np.clip(share, 0, 1)[..., None] * along


def _closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The nearest places (…,3) of triangles (…,3,3) to points (…,3); triangles without area are their edges."""
    a, b, c = np.moveaxis(corners, -2, 0)
    normal = np.cross(b - a, c - a)
    squared = (normal**2).sum(-1)
    safe = np.where(squared > 0, squared, 1)
    offset = ((points - a) * normal).sum(-1) / safe
    flat = points - offset[..., None] * normal
    inside = squared > 0
    for first, second in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(second - first, flat - first) * normal).sum(-1) >= 0
    edges = np.stack([_closest_on_segments(points, *ends) for ends in ((a, b), (b, c), (c, a))])
    nearest = ((edges - points) ** 2).sum(-1).argmin(0)
    best = np.take_along_axis(edges, nearest[None, ..., None], 0)[0]
    return np.where(inside[..., None], flat, best)


class Surface:
    """A mesh, vertices (V,3) and triangles (T,3), that answers where it is nearest to a point. Exact.

    UserError: no triangles, indices out of range, NaN.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        vertices, triangles = np.asarray(vertices, np.float64), np.asarray(triangles)
        if triangles.size == 0 or triangles.min() < 0 or triangles.max() >= len(vertices):
            raise UserError("a surface needs triangles whose corners are among its vertices")
        if not np.isfinite(vertices).all():
            raise UserError("the vertices of a surface must be finite numbers")
        self._corners = vertices[triangles]
        middle = self._corners.mean(1)
        self._reach = np.linalg.norm(self._corners - middle[:, None], axis=-1).max(1)
        self._tree = scipy.spatial.cKDTree(middle)
        a, b, c = np.moveaxis(self._corners, 1, 0)
        normals = np.cross(b - a, c - a)
        self._normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest places (N,3) of the surface to points (N,3), and its unit normals (N,3) there."""
        points = np.asarray(points, np.float64)
        places, triangles = np.empty_like(points), np.empty(len(points), int)
        open_, count = np.arange(len(points)), min(NEIGHBOURS, len(self._corners))
        while len(open_):
            distance, near = (x.reshape(len(open_), -1) for x in self._tree.query(points[open_], count))
            places[open_], triangles[open_], best = self._nearest_of(points[open_], distance, near)
            # A triangle whose middle is farther than the last one asked for cannot come nearer than this.
            certain = best <= distance[:, -1] - self._reach.max()
            if count == len(self._corners):
                break
            open_, count = open_[~certain], min(4 * count, len(self._corners))
        return places, self._normals[triangles]

    def _nearest_of(self, points: np.ndarray, distance: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, ...]:
        """Place (N,3), triangle (N,) and distance (N,) of the nearest of the candidates `near` (N,K).

        distance (N,K): how far their middles are. Only those that can be nearer than the first are looked at closely.
        """
        first = _closest_on_triangles(points, self._corners[near[:, 0]])
        bound = np.linalg.norm(first - points, axis=1)
        row, column = np.nonzero(distance - self._reach[near] <= bound[:, None])
        places = _closest_on_triangles(points[row], self._corners[near[row, column]])
        squared = np.full(near.shape, np.inf)
        squared[row, column] = ((places - points[row]) ** 2).sum(1)
        chosen = squared.argmin(1)
        number = np.zeros(near.shape, int)
        number[row, column] = np.arange(len(row))
        every = np.arange(len(points))
        return places[number[every, chosen]], near[every, chosen], np.sqrt(squared[every, chosen])


def fit_surface(
    points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, start: Similarity, scale: bool = True
) -> Similarity:
    """The similarity that lays a mesh, vertices (V,3) and triangles (T,3), onto points (N,3) of a scan, from `start`.

    Iterated closest points, the distances taken along the mesh's normals, far points weighed little. Without `scale`
    the size stays that of `start`. The points are never moved, so that nothing can shrink onto them.
    """
    points = np.asarray(points, np.float64)[:: max(1, len(points) // FITTED_POINTS)]
    surface, fitted = Surface(vertices, triangles), start
    for _ in range(STEPS):
        back = fitted.inverse(points)
        places, normals = surface.nearest(back)
        places, normals = fitted(places), normals @ fitted.rotation.T
        update = _step(points, places, normals, scale)
        fitted = Similarity(
            fitted.scale * update.scale,
            update.rotation @ fitted.rotation,
            update(fitted.translation),
        )
        if np.abs(update(places) - places).max() < CONVERGED_MM:
            break
    return fitted


def _step(points: np.ndarray, places: np.ndarray, normals: np.ndarray, scale: bool) -> Similarity:
    """The small motion of `places` (N,3) that brings them nearest to `points` along their normals."""
    middle = places.mean(0)
    around = places - middle
    distance = np.linalg.norm(points - places, axis=1)
    width = max(ROBUST * np.median(distance), FINEST_MM)
    weight = (1 / (1 + (distance / width) ** 2))[:, None]
    columns = [np.cross(around, normals), normals, (around * normals).sum(1, keepdims=True)]
    design = np.concatenate(columns if scale else columns[:2], axis=1)
    wanted = ((points - places) * normals).sum(1, keepdims=True)
    found = np.linalg.lstsq(weight * design, weight * wanted, rcond=1e-9)[0][:, 0]
    rotation = scipy.spatial.transform.Rotation.from_rotvec(found[:3]).as_matrix()
    factor = 1 + found[6] if scale else 1.0
    return Similarity(factor, rotation, middle + found[3:6] - factor * rotation @ middle)


def micc_region(points: np.ndarray, nose_tip: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Which points (N,) bool of (N,3) mm count for MICC: near the nose tip (3,), and not above the brows along `up`."""
    offset = np.asarray(points, np.float64) - nose_tip
    height = offset @ (np.asarray(up, np.float64) / np.linalg.norm(up))
    return (np.linalg.norm(offset, axis=1) <= RADIUS_MM) & (height <= FOREHEAD_MM)


def micc_error(
    scan: np.ndarray,
    nose_tip: np.ndarray,
    up: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    start: Similarity,
) -> float:
    """The point-to-plane RMSE in mm of a head against the points (N,3) mm of a scan, after ICP with its own scale.

    nose_tip (3,) and up (3,) of the scan; vertices (V,3) and triangles (T,3) of the head in any unit; `start` brings it
    near the scan, e.g. `by_landmarks`. UserError: no point of the scan lies near its nose tip.
    """
    near = scan[micc_region(scan, nose_tip, up)]
    if len(near) == 0:
        raise UserError(f"no point of the scan lies within {RADIUS_MM:g} mm of its nose tip")
    fitted = fit_surface(near, vertices, triangles, start)
    places, normals = Surface(fitted(np.asarray(vertices, np.float64)), triangles).nearest(near)
    return float(np.sqrt((((near - places) * normals).sum(1) ** 2).mean()))


def now_distances(
    scan: np.ndarray,
    mask: np.ndarray,
    scan_landmarks: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    landmarks: np.ndarray,
    metric: bool = False,
) -> np.ndarray:
    """Distances (M,) mm from the M masked points of a scan (N,3) to a head: NoW's, for one scan.

    mask (N,) bool; landmarks (K,3) of both, seven in the benchmark; the head, vertices (V,3) and triangles (T,3), in
    any unit. `metric`: its size is not fitted, so its unit is mm. UserError: an empty mask; see `by_landmarks`.
    """
    scan = np.asarray(scan, np.float64)
    if not np.any(mask):
        raise UserError("the mask of the scan is empty")
    masked = scan[np.asarray(mask, bool)]
    start = by_landmarks(landmarks, scan_landmarks, scale=not metric)
    fitted = fit_surface(masked, vertices, triangles, start, scale=not metric)
    places, _ = Surface(fitted(np.asarray(vertices, np.float64)), triangles).nearest(masked)
    return np.linalg.norm(masked - places, axis=1)


def now_summary(distances: Iterable[np.ndarray]) -> dict[str, float]:
    """Median, mean and deviation (mm) over all points of all scans, as NoW reports them."""
    pooled = np.concatenate([np.ravel(one) for one in distances])
    return {"median": float(np.median(pooled)), "mean": float(pooled.mean()), "std": float(pooled.std())}
