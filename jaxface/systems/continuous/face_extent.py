"""Face boxes from the landmarks of any layout: the template, posed to them, tells where hairline and chin are.

Crops of all data sets then frame a face in the same way, which is also that of inference (`crops.extent_boxes`).
"""

import numpy as np

from jaxface import crops
from jaxface.geometry import alignment
from jaxface.heads import canonical

# From the template's axes to image axes: a rotation by 180 degrees about x.
TO_IMAGE = np.array([1.0, -1.0, -1.0])
# Weight of the planar similarity against the landmarks in the pose, which few or coplanar landmarks leave open.
PRIOR = 0.02


def face_box(points: np.ndarray, valid: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The box (4,) px from hairline to chin and from side to side of a face with labelled landmarks.

    All 68 landmarks of iBUG give the box of `crops.extent_boxes`; otherwise it encloses the labelled points and the
    template's outline in their pose.

    Args:
        points: (K,2) px, y down.
        valid: (K,) bool, landmarks that are labelled; at least two.
        queries: (K,3) template points of the landmarks.
    """
    reference = canonical.queries("68")
    if valid.all() and np.array_equal(queries, reference):
        return crops.extent_boxes(points[None])[0]
    outline = np.concatenate([reference, crops.hairline(reference)])
    posed = pose(queries[valid], points[valid], outline)
    enclosed = np.concatenate([posed, points[valid]])
    return np.concatenate([enclosed.min(0), enclosed.max(0)])


def pose(queries: np.ndarray, points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Image positions (M,2) of template points `others` (M,3) under the weak perspective of landmarks.

    Least squares for the affine camera, with the planar similarity as prior, then the closest scaled rotation.

    Args:
        queries: (N,3) template points.
        points: (N,2) px, their positions.
        others: (M,3) template points.
    """
    source, target = queries * TO_IMAGE, np.asarray(points, np.float64)
    scale, rotation, _ = alignment.similarity(source[:, :2], target)
    planar = np.concatenate([scale * rotation, np.zeros((2, 1))], axis=1)
    center, middle = source.mean(0), target.mean(0)
    centered = source - center
    weight = PRIOR * max((centered**2).sum(), 1e-9) * np.eye(3)
    camera = np.linalg.solve(centered.T @ centered + weight, centered.T @ (target - middle) + weight @ planar.T).T
    u, singular, vt = np.linalg.svd(camera, full_matrices=False)
    camera = singular.mean() * u @ vt
    return (others * TO_IMAGE - center) @ camera.T + middle
