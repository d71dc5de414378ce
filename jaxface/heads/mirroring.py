"""Mirror maps of meshes that are symmetric only up to a fraction of a millimetre."""

import numpy as np
import scipy.spatial

Range = tuple[int, int]
# Nearest neighbours considered per vertex.
CANDIDATES = 6


def mirror_map(template: np.ndarray, parts: list[tuple[Range, Range]]) -> np.ndarray:
    """Mirror image (V,) int32 of each vertex under x -> -x, an involution, by greedy matching in order of distance.

    `parts` are pairs of half-open vertex ranges that are matched with each other, or a range with itself. Plain nearest
    neighbours would not be mutual for some vertices. A vertex without a partner is its own image.
    """
    mirror = np.full(len(template), -1, np.int32)
    for first, second in parts:
        tree = scipy.spatial.cKDTree(template[slice(*second)])
        distance, near = tree.query(template[slice(*first)] * [-1, 1, 1], k=CANDIDATES)
        for rank in np.argsort(distance, axis=None):
            a, b = first[0] + rank // CANDIDATES, second[0] + near.flat[rank]
            if mirror[a] < 0 and mirror[b] < 0:
                mirror[a], mirror[b] = b, a
    return np.where(mirror < 0, np.arange(len(template)), mirror).astype(np.int32)
