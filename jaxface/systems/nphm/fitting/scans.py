"""Scans as they come: which unit they are in, how they lie, and the map between their frame and the model's.

The model's frame has x to the subject's left, y up, z out of the face and units of 250 mm (NPHM: FLAME's metres x 4).
"""

import itertools

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry import alignment, sampling
from jaxface.geometry.alignment import Similarity
from jaxface.meshes import Mesh

# Model units in one unit of a scan.
UNITS = {"mm": 1 / 250, "cm": 10 / 250, "m": 1000 / 250, "nphm": 1.0}
# A head's or face's extent in model units; each unit is ten times the next one, but for nphm.
SMALLEST, LARGEST = 0.3, 2.8
FEWEST, MOST = 100, 20_000
# Share of the points that an alignment must explain: hair and shoulders are none of the model's.
TRUSTED = 0.8
ROUGH_POINTS, ROUGH_STEPS, FINE_POINTS, FINE_STEPS = 200, 12, 2000, 40
# Another orientation than the given one must be so much better to be believed.
BELIEVED = 0.75


def points_of(mesh: Mesh, name: str, seed: int = 0) -> np.ndarray:
    """At most 20,000 points (N,3) of a scan: of its surface where it has faces, else of its vertices.

    UserError, with the scan's `name`, where there are too few, or all at one place.
    """
    rng = np.random.default_rng(seed)
    if len(mesh.vertices) < FEWEST:
        raise UserError(f"{name}: {len(mesh.vertices)} points are too few for a head; give at least {FEWEST}")
    if len(mesh.triangles):
        try:
            found = sampling.sample(mesh.vertices, mesh.triangles, MOST, rng)
        except ValueError as error:
            raise UserError(f"{name}: its faces have no area; give a scan of a head") from error
        return found.on(mesh.vertices, mesh.triangles)
    points = mesh.vertices
    if len(points) > MOST:
        points = points[rng.choice(len(points), MOST, replace=False)]
    if np.ptp(points, axis=0).max() <= 0:
        raise UserError(f"{name}: all its points lie at one place")
    return points


def unit_of(points: np.ndarray, name: str, stated: str | None = None) -> str:
    """The unit of a scan from its size: "mm", "cm", "m" or "nphm"; or `stated`, if a head in it can have that size.

    UserError where it is no head in any of them, or not in the stated one.
    """
    low, high = np.percentile(points, [1, 99], axis=0)
    extent = (high - low).max()
    if stated:
        if SMALLEST <= extent * UNITS[stated] <= LARGEST:
            return stated
        raise UserError(f"{name}: it measures {extent:.3g}, which is no head in {stated}; say another --units")
    # A head of 250 mm is 0.25 m, but 1 in the model's unit; faces alone are half of that.
    for unit, largest in (("m", 0.45), ("nphm", LARGEST), ("cm", 70.0), ("mm", 700.0)):
        if extent <= largest and extent * UNITS[unit] >= SMALLEST:
            return unit
    raise UserError(f"{name}: it measures {extent:.3g}, which is no head in mm, cm, m or nphm; scale it to one of them")


def given(path: str, mean_anchors: np.ndarray) -> Similarity:
    """The similarity of a file: .npy or text of a (4,4) matrix to the model's units, or of anchors (A,3) in the scan.

    Anchors may have rows of NaN; three or more must be there. UserError for anything else.
    """
    try:
        values = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--align: {path} cannot be read as numbers ({error}); give auto, none or a file") from error
    if values.shape == (4, 4):
        scale = np.cbrt(np.linalg.det(values[:3, :3]))
        if not np.isfinite(values).all() or scale <= 0:
            raise UserError(f"--align: the matrix in {path} is no similarity without reflection")
        return Similarity(float(scale), values[:3, :3] / scale, values[:3, 3])
    known = np.isfinite(values).all(-1) if values.shape == mean_anchors.shape else np.zeros(0, bool)
    if known.sum() < 3:
        raise UserError(
            f"--align: {path} holds {values.shape}; it must be a (4,4) matrix to the model's units, or "
            f"{mean_anchors.shape} anchors in the scan's frame with NaN for those that are not known"
        )
    scale, rotation, translation = alignment.similarity(values[known], mean_anchors[known].astype(np.float64))
    return Similarity(float(scale), rotation, translation)


def found(points: np.ndarray, unit: str, head: np.ndarray) -> Similarity:
    """The rigid map that lays a scan (N,3) of known unit onto the mean head (M,3), whatever its axes and origin.

    Robust point-to-point ICP from the 24 axis-parallel orientations; the scan may be a part of a head. The size is
    that of the unit: a cloud that may shrink fits any surface.
    """
    rng, tree = np.random.default_rng(0), scipy.spatial.cKDTree(head)
    own = (UNITS[unit] * points).astype(np.float64)
    rough, fine = (own[rng.permutation(len(own))[:count]] for count in (ROUGH_POINTS, FINE_POINTS))
    front = head[head[:, 2] > np.percentile(head[:, 2], 70)]
    middle = np.median(rough, axis=0)
    tried = []
    for rotation, target in itertools.product(_orientations(), (np.median(head, axis=0), np.median(front, axis=0))):
        start = rotation, target - rotation @ middle
        rotation, translation, error = _icp(tree, rough, *start, ROUGH_STEPS)
        tried.append((error * (BELIEVED if np.allclose(start[0], np.eye(3)) else 1.0), rotation, translation))
    tried.sort(key=lambda one: one[0])
    rotation, translation, _ = _icp(tree, fine, *tried[0][1:], FINE_STEPS)
    return Similarity(UNITS[unit], rotation, translation)


def _icp(tree: scipy.spatial.cKDTree, points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, steps: int):
    """(rotation, translation, mean distance of the trusted points) after `steps` of rigid ICP."""
    trusted = max(int(TRUSTED * len(points)), 3)
    for _ in range(steps):
        distance, index = tree.query(points @ rotation.T + translation)
        kept = np.argpartition(distance, trusted - 1)[:trusted]
        target = tree.data[index[kept]]
        _, rotation, _ = alignment.similarity(points[kept], target)
        translation = target.mean(0) - rotation @ points[kept].mean(0)
    distance, _ = tree.query(points @ rotation.T + translation)
    return rotation, translation, np.sort(distance)[:trusted].mean()


def _orientations() -> list[np.ndarray]:
    """The 24 rotations that map axes onto axes, the identity first."""
    made = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        if np.linalg.det(matrix) > 0:
            made.append(matrix)
    return made
