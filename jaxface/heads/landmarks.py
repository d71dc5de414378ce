"""Landmark layouts of heads: WFLW's 98 points from iBUG's 68, and landmarks as surface points."""

import numpy as np
import scipy.spatial

BROW_HALF_HEIGHT_MM = 3.5


def _resample(line: np.ndarray, count: int) -> np.ndarray:
    """Resamples the polyline `line` (L,3) at `count` equal steps of its vertex index."""
    at = np.linspace(0, len(line) - 1, count)
    return np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in range(3)], axis=1)


def wflw_from_ibug(points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    """WFLW's points (98,3) mm of a neutral head from iBUG's points (68,3) and the pupils (2,3), subject's right first.

    Jaw and lids are resampled along the iBUG lines. The upper and lower line of a brow lie half its height above and
    below iBUG's single line, except at its outer end. Nose and mouth are common to both layouts.
    """
    up = np.array([0.0, BROW_HALF_HEIGHT_MM, 0.0])
    right, left = points[17:22], points[22:27]
    return np.concatenate(
        [
            _resample(points[0:17], 33),
            np.concatenate([right[:1], right[1:] + up, right[:0:-1] - up]),
            np.concatenate([left[:4] + up, left[4:], left[3::-1] - up]),
            points[27:36],
            _eye(points[36:42]),
            _eye(points[42:48]),
            points[48:68],
            pupils,
        ]
    )


def _eye(lid: np.ndarray) -> np.ndarray:
    """WFLW's 8 points of an eye from iBUG's 6: three instead of two between the corners of each lid."""
    lower = np.concatenate([lid[3:6], lid[:1]])
    return np.concatenate([_resample(lid[:4], 5)[:4], _resample(lower, 5)[:4]])


def snap(points: np.ndarray, template: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (see `MorphableHead.landmarks`) at the vertices of the mask `allowed` (V,) nearest to `points`."""
    index = np.flatnonzero(allowed)
    return at_vertices(index[scipy.spatial.cKDTree(template[index]).query(points)[1]])


def at_vertices(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (see `MorphableHead.landmarks`) at the vertices `index` (K,)."""
    return np.repeat(index[:, None], 3, axis=1).astype(np.int32), np.tile(np.float32([1, 0, 0]), (len(index), 1))
