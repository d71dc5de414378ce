"""Which landmark becomes which in a mirrored picture, found from a mean face."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize


def find_flip(meanface: np.ndarray) -> np.ndarray:
    """The flip map (L,) int of a mean face (L,2): point i of a mirrored picture was point flip[i]; its own inverse.

    The face is mirrored at the vertical through its centroid; the map is the assignment of mirrored points to points
    with the least sum of squared distances.
    """
    squared = _squared(meanface)
    flip = scipy.optimize.linear_sum_assignment(squared)[1]
    # Ties can leave a longer cycle, whose inverse is as good: its closest pairs are taken instead.
    left = set(np.flatnonzero(flip[flip] != np.arange(len(flip))).tolist())
    for _, a, b in sorted((squared[a, b], a, b) for a in left for b in left if a <= b):
        if {a, b} <= left:
            flip[a], flip[b] = b, a
            left -= {a, b}
    return flip


def distances(meanface: np.ndarray, flip: Sequence[int]) -> np.ndarray:
    """How far (L,) each mirrored point of a mean face (L,2) is from its partner, in widths of the face."""
    return np.sqrt(_squared(meanface)[np.arange(len(flip)), flip]) / np.ptp(meanface[:, 0])


def _squared(meanface: np.ndarray) -> np.ndarray:
    """Squared distances (L,L) between mirrored points and points."""
    x = meanface[:, 0] - meanface[:, 0].mean()
    return (x[:, None] + x) ** 2 + (meanface[:, None, 1] - meanface[:, 1]) ** 2
