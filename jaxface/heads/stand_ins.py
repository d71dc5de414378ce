"""Heads of the published sizes that stand in for files which are not at hand, to measure what a program costs.

Numbers of vertices, triangles and modes are those of the published models; positions and modes are arbitrary.
"""

import numpy as np

from jaxface.heads import bfm
from jaxface.heads.bfm import FrontFace
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead

# The path of a stand-in, in place of a file.
PATH = "<stand-in>"
# Vertices, triangles, identity and expression modes as `load_ict` and `load_flame` give them.
SIZES = {"ict": (26719, 52220, 100, 53), "flame": (5023, 9976, 300, 101)}
# The Basel front face: vertices and triangles, in total and of the region of the photometric loss.
FRONT, FRONT_CROP = (35709, 70789), (27660, 54117)
# Side of the smallest square grids with as many vertices.
FRONT_SIDE, CROP_SIDE = 189, 167


def head(name: str) -> MorphableHead:
    """A head of the size of "ict", "bfm" or "flame"."""
    return bfm.from_front(front_face()) if name == "bfm" else _resized(makehuman_head(), name, *SIZES[name])


def _resized(
    source: MorphableHead, name: str, vertices: int, triangles: int, identities: int, expressions: int
) -> MorphableHead:
    """`source` with other numbers of vertices (copies of its own, those of landmarks first), triangles and modes."""
    count = len(source.template)
    marked = np.unique(np.concatenate([np.ravel(index) for index, _ in source.landmarks.values()]))
    order = np.concatenate([marked, np.setdiff1d(np.arange(count), marked)])
    place = np.argsort(order)
    chosen = order[np.arange(vertices) % count]
    copies = np.concatenate([place[source.triangles] + start for start in range(0, vertices, count)])
    inside = copies[(copies < vertices).all(1)]
    modes = {
        "identity": source.identity[np.arange(identities) % len(source.identity)][:, chosen],
        "expression": source.expression[np.arange(expressions) % len(source.expression)][:, chosen],
    }
    names = (*source.expression_names, *(f"expression{i:03d}" for i in range(expressions)))
    return source.replace(
        template=source.template[chosen],
        triangles=_sized(inside, triangles),
        **modes,
        albedo_mean=source.albedo_mean[chosen],
        albedo=source.albedo[:, chosen],
        mirror=np.arange(vertices, dtype=np.int32),
        landmarks={key: (place[index], weights) for key, (index, weights) in source.landmarks.items()},
        regions={key: region[chosen] for key, region in source.regions.items()},
        name=name,
        identity_names=tuple(f"identity{i:03d}" for i in range(identities)),
        expression_names=names[:expressions],
        direction_names=(),
        directions=None,
        uv=None,
        uv_triangles=None,
    )


def front_face() -> FrontFace:
    """A Basel front face: a bulged grid with modes of noise."""
    random = np.random.default_rng(0)
    vertices, triangles = FRONT
    y, x = np.meshgrid(np.linspace(0.9, -0.9, FRONT_SIDE), np.linspace(-0.75, 0.75, FRONT_SIDE), indexing="ij")
    depth = 0.9 * np.sqrt(np.maximum(1 - 0.7 * x**2 - 0.5 * y**2, 0.1)) + 0.2 * np.exp(-(x**2 + y**2) / 0.03)
    mean = np.stack([x, y, depth], -1).reshape(-1, 3)[:vertices].astype(np.float32)

    def modes(count: int, scale: float) -> np.ndarray:
        return scale * random.standard_normal((count, vertices, 3), np.float32)

    front = np.arange(FRONT_CROP[0])
    return FrontFace(
        mean=mean,
        albedo_mean=np.full_like(mean, 150.0),
        identity=modes(bfm.IDENTITIES, 1e-3),
        expression=modes(bfm.EXPRESSION_MODES, 1e-3),
        albedo=modes(bfm.ALBEDOS, 1.0),
        triangles=_sized(_grid(FRONT_SIDE, vertices), triangles),
        keypoints=np.linspace(0, vertices - 1, 68).astype(np.int32),
        front=front,
        crop_triangles=_sized(_grid(CROP_SIDE, len(front)), FRONT_CROP[1]),
        skin=np.ones(vertices, bool),
    )


def _grid(side: int, vertices: int) -> np.ndarray:
    """Triangles (T,3) of a square grid, without those beyond the first `vertices` grid points."""
    corner = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    return triangles[(triangles < vertices).all(1)]


def _sized(triangles: np.ndarray, count: int) -> np.ndarray:
    """The first `count` triangles, or all of them and copies of the first ones."""
    return np.ascontiguousarray(triangles[np.arange(count) % len(triangles)], np.int32)
