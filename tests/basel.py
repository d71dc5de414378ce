"""A synthetic Basel front face with the fields of BFM_model_front.mat; the golden numbers were computed with it.

A disc of concentric rings, bulged into a face; its vertices are shuffled so that the crop is not a prefix of them.
"""

import numpy as np
import scipy.io

from tests import weights

# Vertices, those of the outermost ring, rings, vertices of the crop.
SIZES = {"full": (35709, 627, 113, 27660), "small": (600, 60, 19, 400)}
WAVES = 24


def _ring_sizes(vertices, outer, rings):
    sizes = [max(3, outer * ring // rings) for ring in range(1, rings + 1)]
    missing, turn = vertices - sum(sizes), 0
    while missing:
        ring, change = 1 + turn * 7 % (rings - 2), np.sign(missing)
        if sizes[ring] + change >= 3:
            sizes[ring] += int(change)
            missing -= change
        turn += 1
    return sizes


def _triangles(sizes):
    """A fan in the centre, then strips between neighbouring rings, advanced on the side that is behind."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    triangles = [(0, k, k + 1) for k in range(1, sizes[0] - 1)]
    for inner, outer, n, m in zip(starts, starts[1:], sizes, sizes[1:], strict=False):
        i = j = 0
        while i < n or j < m:
            corner = inner + i % n, outer + j % m
            if i < n and (j >= m or (i + 1) * m <= (j + 1) * n):
                i += 1
                triangles.append((*corner, inner + i % n))
            else:
                j += 1
                triangles.append((*corner, outer + j % m))
    return np.array(triangles)


def _incident(triangles, vertices):
    order = np.argsort(triangles.ravel(), kind="stable")
    owner = triangles.ravel()[order]
    slot = np.arange(len(order)) - np.searchsorted(owner, owner)
    table = np.full((vertices, 8), len(triangles))
    table[owner, slot] = order // 3
    return table


def fields(size="small"):
    """The .mat file's arrays by name; indices count from 1 and are float32, as there."""
    count, outer, rings, cropped = SIZES[size]
    sizes = _ring_sizes(count, outer, rings)
    angle = np.concatenate([2 * np.pi * np.arange(n) / n for n in sizes])
    radius = np.concatenate([np.full(n, (ring + 1) / len(sizes)) for ring, n in enumerate(sizes)])
    places = (np.arange(count) * 10007 + 123) % count
    old = np.argsort(places)
    u, v, r = radius[old] * np.cos(angle[old]), radius[old] * np.sin(angle[old]), radius[old]
    triangles = places[_triangles(sizes)]
    z = 0.55 * np.sqrt(1 - 0.85 * r**2) + 0.22 * np.exp(-(u**2 + (v + 0.1) ** 2) / 0.03)
    frequency = weights.array("bfm.freq", (WAVES, 2), 2.5).astype(np.float64)
    phase = weights.array("bfm.phase", (WAVES,), 3.0).astype(np.float64)
    waves = np.cos(np.stack([u, v], 1) @ frequency.T + phase) * np.sqrt(2 / WAVES)

    def modes(key, number, scale):
        mixed = waves @ weights.array(key, (WAVES, 3 * number), scale).astype(np.float64)
        return mixed.reshape(3 * count, number)

    front = np.flatnonzero(old < cropped)
    renumbered = np.full(count, -1)
    renumbered[front] = np.arange(len(front))
    crop = renumbered[triangles]
    indices = {
        "tri": triangles,
        "point_buf": _incident(triangles, count),
        "tri_mask2": crop[(crop >= 0).all(1)],
        "keypoints": places[np.arange(68) * (count // 70) + 7][None],
        "frontmask2_idx": front[:, None],
    }
    made = {
        "meanshape": np.stack([0.78 * u + 0.01, 0.92 * v - 0.02, z + 0.3], 1).reshape(1, -1),
        "meantex": (150 + 40 * waves[:, :3] + [30, 0, -20]).reshape(1, -1),
        "idBase": modes("bfm.idBase.w", 80, 0.011),
        "texBase": modes("bfm.texBase.w", 80, 2.2),
        "skinmask": (r < 0.55)[None],
        **{name: index + 1 for name, index in indices.items()},
    }
    made = {name: value.astype(np.float32) for name, value in made.items()}
    return {**made, "exBase": modes("bfm.exBase.w", 64, 0.011)}  # the real file has float64 here


def save(path, size="small", **changes):
    """Writes the file, with some fields replaced, or left out where None is given."""
    found = {**fields(size), **changes}
    scipy.io.savemat(path, {name: value for name, value in found.items() if value is not None})
    return path
