"""Iterative closest point (ICP; Besl & McKay, PAMI 1992) on the host, and its least-squares updates.

`icp` is the loop. Its callers pass a function that finds the correspondences for the current transform, and the update:
`procrustes` (point to point) or `point_to_plane_update` (Chen & Medioni, 1992). Points are numpy arrays in any unit;
this module needs no nearest-neighbour library.
"""

import itertools
from collections.abc import Callable

import numpy as np

from jaxface.geometry import alignment
from jaxface.geometry.alignment import Similarity

# Geman-McClure scale in units of the median residual.
MEDIANS_PER_SCALE = 3.0
# Relative cut-off of singular values: motions along which a surface slides freely are excluded from the update.
RANK_TOLERANCE = 1e-9

Match = Callable[[Similarity], tuple[np.ndarray, ...]]
Update = Callable[..., Similarity]


def icp(start: Similarity, match: Match, update: Update, steps: int, tolerance: float = 0.0) -> Similarity:
    """Registers a source to a target by alternating between correspondence search and transform update.

    Args:
        start: initial transform from source to target coordinates.
        match: maps a transform to (moved, target, ...): source points (M,3) under the transform, their corresponding
            target points (M,3), and whatever else `update` needs.
        update: maps the result of `match` to the motion of `moved` towards the target.
        steps: maximum number of iterations.
        tolerance: the iteration ends when no coordinate of `moved` changes by this much or more.

    Returns:
        The transform from source to target coordinates.
    """
    current = start
    for _ in range(steps):
        matched = match(current)
        motion = update(*matched)
        current = compose(motion, current)
        if np.abs(motion(matched[0]) - matched[0]).max() < tolerance:
            break
    return current


def compose(outer: Similarity, inner: Similarity) -> Similarity:
    """The similarity x -> outer(inner(x))."""
    return Similarity(outer.scale * inner.scale, outer.rotation @ inner.rotation, outer(inner.translation))


def procrustes(source: np.ndarray, target: np.ndarray, scale: bool = True) -> Similarity:
    """Least-squares similarity of points (N,3) onto corresponding points (N,3); without `scale` a rigid motion."""
    factor, rotation, translation = alignment.similarity(source, target)
    if not scale:
        factor, translation = 1.0, target.mean(0) - rotation @ source.mean(0)
    return Similarity(float(factor), rotation, translation)


def point_to_plane_jacobian(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Derivatives (M,7) of the displacement of points (M,3) along normals (M,3).

    Columns: rotation vector (3), translation (3) and relative change of scale, all about the origin.
    """
    growth = (points * normals).sum(1, keepdims=True)
    return np.concatenate([np.cross(points, normals), normals, growth], axis=1)


def point_to_plane_update(
    moved: np.ndarray, target: np.ndarray, normals: np.ndarray, scale: bool = True, least_scale: float = 0.0
) -> Similarity:
    """Gauss-Newton step that minimises the robust distance between corresponding points along the normals.

    Args:
        moved: source points (M,3) under the current transform.
        target: corresponding points (M,3).
        normals: unit normals (M,3) at either of them.
        scale: whether the step may change the size.
        least_scale: lower bound of the Geman-McClure scale, in the points' unit.

    Returns:
        The motion of `moved`.
    """
    center = moved.mean(0)
    offset = target - moved
    distance = np.linalg.norm(offset, axis=1)
    robust_scale = max(MEDIANS_PER_SCALE * np.median(distance), least_scale)
    weight = (1 / (1 + (distance / robust_scale) ** 2))[:, None]
    jacobian = point_to_plane_jacobian(moved - center, normals)[:, : 7 if scale else 6]
    residual = (offset * normals).sum(1, keepdims=True)
    solution = np.linalg.lstsq(weight * jacobian, weight * residual, rcond=RANK_TOLERANCE)[0][:, 0]
    rotation = rotation_from_vector(solution[:3])
    factor = 1 + float(solution[6]) if scale else 1.0
    return Similarity(factor, rotation, center + solution[3:6] - factor * rotation @ center)


def rotation_from_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix (3,3) float64 of a rotation vector (3,) in radians (Rodrigues' formula)."""
    x, y, z = np.asarray(vector, np.float64)
    angle = np.sqrt(x * x + y * y + z * z)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # np.sinc has no division by zero: sin(a) / a, and (1 - cos(a)) / a^2 = sin(a/2)^2 / a^2 * 2.
    return np.eye(3) + np.sinc(angle / np.pi) * cross + np.sinc(angle / (2 * np.pi)) ** 2 / 2 * cross @ cross


def axis_rotations() -> list[np.ndarray]:
    """The 24 rotations (3,3) that map coordinate axes onto coordinate axes, the identity first."""
    rotations = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)):
        matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(matrix) > 0:
            rotations.append(matrix)
    return rotations
