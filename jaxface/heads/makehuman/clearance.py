"""Keeps the lids off the eyeballs: corrects displacements of a linear model for combinations of its weights.

Units and identity modes move the lids on straight lines and are added to each other, so lids may enter eyeballs even
if those of each single unit do not. The correction is a Kaczmarz iteration: for each of many weight vectors, vertices
that are too deep are pushed out along the eyeball's radius, by the smallest change of the displacements that does it.
"""

import numpy as np

CLEARANCE_MM = 0.3
# Vertices of the skin up to this far from the eyeball are kept clear.
REACH_MM = 9.0
SWEEPS = 4


def keep_clear(
    template: np.ndarray, displacements: np.ndarray, weights: np.ndarray, skin: np.ndarray, eyeball: np.ndarray
) -> np.ndarray:
    """Corrected displacements (K,V,3) mm, changed at the vertices near one eyeball only.

    Args:
        template: (V,3) mm. Vertices inside the eyeball in the template, as the inner edge of lids, keep their depth.
        displacements: (K,V,3) mm at weight 1.
        weights: (N,K) of the combinations that are kept clear.
        skin, eyeball: (V,) bool.
    """
    center, radius = _sphere(template[eyeball])
    depth = np.linalg.norm(template - center, axis=1) - radius
    near = np.flatnonzero(skin & (depth < REACH_MM))
    least = np.minimum(depth[near], CLEARANCE_MM)
    start, moved = template[near], displacements[:, near].astype(np.float64)
    # A displaced eyeball is that of the template, moved and scaled.
    centers = center + np.tensordot(weights, displacements[:, eyeball].mean(1), 1)
    spread = template[eyeball] - template[eyeball].mean(0)
    growth = ((displacements[:, eyeball] * spread).sum((1, 2)) / (spread**2).sum()) @ weights.T
    for _ in range(SWEEPS):
        for row, middle, scale in zip(weights, centers, radius * (1 + growth), strict=True):
            active = np.flatnonzero(row)
            offset = start + np.tensordot(row[active], moved[active], 1) - middle
            length = np.linalg.norm(offset, axis=1)
            push = np.maximum(scale + least - length, 0.0) / np.maximum(length, 1e-6)
            deep = np.flatnonzero(push)
            step = row[active] / (row[active] ** 2).sum()
            moved[np.ix_(active, deep)] += step[:, None, None] * (push[deep, None] * offset[deep])
    corrected = displacements.copy()
    corrected[:, near] = moved
    return corrected


def _sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) of points (N,3) of a sphere, and its radius."""
    center = (points.max(0) + points.min(0)) / 2
    return center, float(np.linalg.norm(points - center, axis=1).max())
