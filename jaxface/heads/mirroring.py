"""Which vertex is the mirror image of which, for meshes that are symmetric to a fraction of a millimetre only."""

import numpy as np
import scipy.spatial

Range = tuple[int, int]
CANDIDATES = 6


def mirror_map(template: np.ndarray, parts: list[tuple[Range, Range]]) -> np.ndarray:
    """The involution (V,) int32 under x -> -x: greedily, nearest first, within `parts`, half-open (own, other) ranges.

    A plain nearest neighbour would pair some vertices one way only. A vertex that finds no partner is its own image.
    """
    mirror = np.full(len(template), -1, np.int32)
    for own, other in parts:
        tree = scipy.spatial.cKDTree(template[slice(*other)])
        distance, near = tree.query(template[slice(*own)] * [-1, 1, 1], k=CANDIDATES)
        for rank in np.argsort(distance, axis=None):
            a, b = own[0] + rank // CANDIDATES, other[0] + near.flat[rank]
            if mirror[a] < 0 and mirror[b] < 0:
                mirror[a], mirror[b] = b, a
    return np.where(mirror < 0, np.arange(len(template)), mirror).astype(np.int32)
