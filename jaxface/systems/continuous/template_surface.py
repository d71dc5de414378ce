"""The surface of the template that a model was trained on, and the refusal of places outside it.

Template points are in units of 100 mm; see `canonical`.
"""

import dataclasses
import functools

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads import canonical
from jaxface.heads.morphable import TRANSPARENT, MorphableHead
from jaxface.heads.sources import EMBEDDED, load_head

# Regions whose surface a photo never shows, and those that hide others from view.
INVISIBLE = ("socket", TRANSPARENT)
OCCLUDING = ("face", "ears", "neck", "scalp")
# Most vertices of the coarse surface, side of the smallest cells in which vertices are merged, and the factor by which
# it grows until they are few enough.
MAX_COARSE, CELL, GROWTH = 512, 0.06, 1.1
# A point within ON_SURFACE of an untrained surface and farther than FAR from the trained one belongs to the former.
ON_SURFACE, FAR = 0.01, 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class TemplateSurface:
    """S vertices of the embedded head and the T triangles between them.

    Attributes:
        vertices: (S,) indices of the head's vertices.
        queries: (S,3) float32 template points.
        closed: (S,3) the same points of the head with a closed mouth, see `with_closed_mouth`.
        triangles: (T,3) indices of the S vertices, counter-clockwise from outside.
        head_triangles: (T,) indices of the head's triangles; -1 for merged ones.
    """

    vertices: np.ndarray
    queries: np.ndarray
    closed: np.ndarray
    triangles: np.ndarray
    head_triangles: np.ndarray


def region_mask(head: MorphableHead, regions: tuple[str, ...]) -> np.ndarray:
    """The vertices (V,) bool of any of the regions of a head; regions that it does not have are empty."""
    masks = [np.asarray(head.regions[name]) for name in regions if name in head.regions]
    return np.any(masks, axis=0) if masks else np.zeros(len(head.template), bool)


@functools.cache
def surface(regions: tuple[str, ...]) -> TemplateSurface:
    """The visible surface of the regions of the embedded head."""
    head = load_head(EMBEDDED)
    kept = region_mask(head, regions) & ~region_mask(head, INVISIBLE)
    triangles = np.asarray(head.triangles)
    chosen = np.flatnonzero(kept[triangles].all(axis=1))
    number = np.cumsum(kept) - 1
    points, closed = canonical.canonical_vertices(head)[kept], np.asarray(head.template)[kept] / canonical.MM_PER_UNIT
    return TemplateSurface(np.flatnonzero(kept), points, closed, number[triangles[chosen]].astype(np.int32), chosen)


@functools.cache
def coarse_surface(regions: tuple[str, ...]) -> TemplateSurface:
    """The occluding surface of the regions with at most MAX_COARSE vertices, for depth tests.

    Vertex clustering (Rossignac and Borrel, 1993): the vertices of a cell become the one nearest to their mean.
    """
    fine = surface(tuple(name for name in OCCLUDING if name in regions))
    side, cell = CELL, np.arange(len(fine.queries))
    while cell.max(initial=-1) >= MAX_COARSE:
        _, cell = np.unique(np.floor(fine.queries / side).astype(int), axis=0, return_inverse=True)
        side, cell = GROWTH * side, cell.reshape(-1)
    count = np.bincount(cell)
    means = np.stack([np.bincount(cell, fine.queries[:, axis]) for axis in range(3)], axis=1) / count[:, None]
    distance = np.linalg.norm(fine.queries - means[cell], axis=1)
    # The first vertex of each cell in the order of cells and distances.
    representative = np.lexsort((distance, cell))[np.cumsum(count) - count]
    triangles = cell[fine.triangles]
    a, b, c = triangles.T
    triangles = np.unique(triangles[(a != b) & (b != c) & (a != c)], axis=0).astype(np.int32)
    vertices, queries, closed = (one[representative] for one in (fine.vertices, fine.queries, fine.closed))
    return TemplateSurface(vertices, queries, closed, triangles, np.full(len(triangles), -1))


@functools.cache
def _vertex_tree() -> tuple[scipy.spatial.cKDTree, np.ndarray]:
    """The vertices of the template, and their displacements (V,3) to the head with a closed mouth."""
    head = load_head(EMBEDDED)
    vertices = canonical.canonical_vertices(head)
    return scipy.spatial.cKDTree(vertices), np.asarray(head.template) / canonical.MM_PER_UNIT - vertices


def with_closed_mouth(queries: np.ndarray) -> np.ndarray:
    """Template points (N,3) moved with their nearest vertices to the head with a closed mouth, for depth tests.

    In the template, whose mouth is open, the lower lip lies far behind the upper one.
    """
    tree, displacement = _vertex_tree()
    return queries + displacement[tree.query(queries)[1]]


@functools.cache
def edges(region: str) -> np.ndarray | None:
    """The edges (E,2) of the mesh between the vertices of a region, or of `dense`, as pairs of point indices.

    None for points that are not on the mesh, `canonical.JOINTS`.
    """
    if region == canonical.JOINTS:
        return None
    head = load_head(EMBEDDED)
    mask = np.asarray(head.regions["face" if region == "dense" else region])
    triangles = (np.cumsum(mask) - 1)[head.triangles[mask[head.triangles].all(axis=1)]]
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def check_region(flag: str, name: str, trained: tuple[str, ...]) -> None:
    """Raises UserError if the regions `trained` do not cover a region, or `dense`; () accepts all."""
    if trained and not canonical.covers(trained, name):
        known = [region for region in canonical.region_names() if canonical.covers(trained, region)]
        raise UserError(
            f"{flag}: this model was not trained on the region {name!r}; choose one of {', '.join(known)}, or a model "
            "with this region in config.data.regions"
        )


@functools.cache
def _surfaces(trained: tuple[str, ...]) -> tuple[SurfaceQuery, SurfaceQuery | None]:
    """The trained surface and the rest of the head, None if there is none."""
    head = load_head(EMBEDDED)
    vertices = canonical.canonical_vertices(head)
    triangles = head.opaque_triangles()
    inside = region_mask(head, trained)[triangles].all(axis=1)
    rest = triangles[~inside]
    return SurfaceQuery(vertices, triangles[inside]), SurfaceQuery(vertices, rest) if len(rest) else None


def check_points(queries: np.ndarray, trained: tuple[str, ...]) -> None:
    """Raises UserError if some of the template points (N,3) lie on a part of the head that is not trained.

    Points off the surface are accepted. () accepts all.
    """
    if not trained:
        return
    known, rest = _surfaces(trained)
    if rest is None:
        return
    to_known, to_rest = (np.linalg.norm(one.closest(queries)[0] - queries, axis=1) for one in (known, rest))
    if bad := int(((to_rest < ON_SURFACE) & (to_known > FAR)).sum()):
        raise UserError(
            f"layout: {bad} of {len(queries)} template points lie on parts of the head on which this model was not "
            f"trained; leave them out, it knows {', '.join(trained)}"
        )
