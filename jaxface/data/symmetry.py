"""Flip maps estimated from a mean face: the permutation of the landmarks in a mirrored image."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize


def find_flip(meanface: np.ndarray) -> np.ndarray:
    """The flip map (L,) int of a mean face (L,2): point i of a mirrored image was point flip[i].

    The face is mirrored about the vertical through its centroid; the map is the assignment of mirrored points to
    points with the least sum of squared distances, corrected to an involution.
    """
    squared = _squared_distances(meanface)
    flip = scipy.optimize.linear_sum_assignment(squared)[1]
    # With ties the assignment can contain cycles longer than two. Their landmarks are paired greedily by distance.
    unmatched = set(np.flatnonzero(flip[flip] != np.arange(len(flip))).tolist())
    candidates = sorted((squared[a, b], a, b) for a in unmatched for b in unmatched if a <= b)
    for _, a, b in candidates:
        if {a, b} <= unmatched:
            flip[a], flip[b] = b, a
            unmatched -= {a, b}
    return flip


def asymmetry(meanface: np.ndarray, flip: Sequence[int]) -> np.ndarray:
    """Distance (L,) of each mirrored point of a mean face (L,2) from its partner, in widths of the face."""
    return np.sqrt(_squared_distances(meanface)[np.arange(len(flip)), flip]) / np.ptp(meanface[:, 0])


def _squared_distances(meanface: np.ndarray) -> np.ndarray:
    """Squared distances (L,L) between mirrored points and points."""
    x = meanface[:, 0] - meanface[:, 0].mean()
    return (x[:, None] + x) ** 2 + (meanface[:, None, 1] - meanface[:, 1]) ** 2
