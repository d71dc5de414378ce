"""A morphable head with one step of Loop subdivision, for smooth renderings: four times as many triangles."""

import itertools

import numpy as np

from jaxface.geometry.subdivision import Subdivision, subdivide
from jaxface.heads.closed import INSIDE
from jaxface.heads.morphable import MorphableHead


def subdivided(head: MorphableHead) -> MorphableHead:
    """The head after one step of Loop subdivision.

    Template and modes follow Loop's rules; colours, texture coordinates and landmarks are interpolated on the
    triangles. Codes, names and exact mirror symmetry stay. Vertices of a cavity's or eyeball's edges belong to it if
    either end does, those of other regions if both do.

    Raises ValueError if the triangles of the head are not mirror-symmetric.
    """
    step = subdivide(head.triangles, np.asarray(head.mirror))
    texture = {}
    if head.uv is not None:
        seams = subdivide(head.uv_triangles, np.arange(len(head.uv)))
        texture = {"uv": _apply(seams.linear, head.uv), "uv_triangles": seams.triangles}
    return head.replace(
        template=_apply(step.smooth, head.template),
        triangles=step.triangles,
        identity=_apply(step.smooth, head.identity),
        expression=_apply(step.smooth, head.expression),
        albedo_mean=_apply(step.linear, head.albedo_mean),
        albedo=_apply(step.linear, head.albedo),
        mirror=step.mirror,
        landmarks={name: _places(step, *places) for name, places in head.landmarks.items()},
        regions={name: _region(step, np.asarray(mask), name in INSIDE) for name, mask in head.regions.items()},
        **texture,
    )


def _apply(matrix, values: np.ndarray) -> np.ndarray:
    """Values (…,F,D) float32 for values (…,V,D) of the coarse vertices."""
    values = np.asarray(values, np.float64)
    columns = np.moveaxis(values, -2, 0)
    fine = (matrix @ columns.reshape(len(columns), -1)).astype(np.float32)
    return np.moveaxis(fine.reshape(matrix.shape[0], *columns.shape[1:]), 0, -2)


def _region(step: Subdivision, mask: np.ndarray, either: bool) -> np.ndarray:
    ends = mask[step.edges]
    return np.concatenate([mask, ends.any(1) if either else ends.all(1)])


def _places(step: Subdivision, vertices: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (vertices (K,3), weights (K,3)) on the fine mesh of those on the coarse one."""
    vertices, weights = np.asarray(vertices), np.asarray(weights, np.float64)
    fine = [_place(step, *place) for place in zip(vertices, weights, strict=True)]
    return np.array([place[0] for place in fine], np.int32), np.array([place[1] for place in fine], np.float32)


def _place(step: Subdivision, vertices: np.ndarray, weights: np.ndarray) -> tuple[list[int], list[float]]:
    """One place, in the fine triangle of its triangle or edge; places between vertices without an edge stay."""
    share: dict[int, float] = {}
    for vertex, weight in zip(vertices.tolist(), weights.tolist(), strict=True):
        share[vertex] = share.get(vertex, 0.0) + weight
    share = {vertex: weight for vertex, weight in share.items() if weight > 0} or share
    corners = list(share)
    between = {
        frozenset((a, b)): int(step.edge_vertex(np.array([a]), np.array([b]))[0])
        for a, b in itertools.combinations(corners, 2)
    }
    if len(corners) == 1 or min(between.values()) < 0:
        return vertices.tolist(), weights.tolist()
    nearest = max(corners, key=share.__getitem__)
    others = [vertex for vertex in corners if vertex != nearest]
    if share[nearest] < 0.5:
        # In the inner triangle, the weight of a side's middle falls with the share of the opposite corner.
        pairs = [(others[0], others[1], nearest), (nearest, others[1], others[0]), (nearest, others[0], others[1])]
        return [between[frozenset(pair[:2])] for pair in pairs], [1 - 2 * share[pair[2]] for pair in pairs]
    middles = [between[frozenset((nearest, other))] for other in others]
    parts = [2 * share[other] for other in others]
    return [nearest, middles[0], middles[-1]], [1 - sum(parts), *parts, 0.0][:3]
