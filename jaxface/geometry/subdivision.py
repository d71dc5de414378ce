"""Loop subdivision of triangle meshes (Loop, "Smooth Subdivision Surfaces Based on Triangles", 1987).

One step splits every triangle into four. Vertices keep their index; the vertices of the edges follow. Edges with other
than two triangles are boundaries and follow the rules of cubic B-spline curves, so that a common boundary of two meshes
stays common.
"""

import dataclasses

import numpy as np
import scipy.sparse


@dataclasses.dataclass(frozen=True)
class Subdivision:
    """One step of subdivision of a mesh with V vertices and T triangles to F vertices.

    Attributes:
        edges: (F-V,2) int64, sorted, the ends of the edges with the smaller index first; edge e has vertex V + e.
        triangles: (4T,3) int32; rows 4t to 4t+3 are triangle t: three at its corners, then the inner one.
        smooth: (F,V) sparse matrix of Loop's rules.
        linear: (F,V) sparse matrix that keeps the vertices and halves the edges.
        mirror: (F,) int32 mirror map of the fine mesh.
    """

    edges: np.ndarray
    triangles: np.ndarray
    smooth: scipy.sparse.csr_matrix
    linear: scipy.sparse.csr_matrix
    mirror: np.ndarray

    def edge_vertex(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Fine vertices on the edges between vertices `first` (N,) and `second` (N,), -1 where there is no edge."""
        return _edge_vertex(self.edges, self.smooth.shape[1], first, second)


def subdivide(triangles: np.ndarray, mirror: np.ndarray) -> Subdivision:
    """One step of Loop subdivision of triangles (T,3), given the mirror map (V,) of the vertices.

    Exactly symmetric float32 values stay so: the entries of mirrored vertices are summed in the same order, those of
    vertices on the plane of symmetry in pairs, and the products of the weights, which have 24 bits, and float32 values
    are exact in float64. A mesh without symmetry has the identity as its mirror map.

    Raises ValueError if the mirror image of an edge is not an edge.
    """
    triangles, count = np.asarray(triangles, np.int64), len(mirror)
    sides = np.sort(np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1)
    opposite = np.concatenate([triangles[:, (i + 2) % 3] for i in range(3)])
    edges, edge_of_side, uses = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    edge_of_side = edge_of_side.ravel()
    mirrored = _edge_vertex(edges, count, *np.asarray(mirror)[edges].T)
    if np.any(mirrored < 0):
        raise ValueError("triangles are not mirror-symmetric: the mirror images of some edges are not edges")
    fine_mirror = np.concatenate([mirror, mirrored]).astype(np.int32)
    inner = uses == 2
    rules = [_vertex_rules(edges, inner, count), _edge_rules(edges, inner, edge_of_side, opposite, count)]
    halves = (count + np.repeat(np.arange(len(edges)), 2), edges.ravel(), np.full(edges.size, 0.5))
    kept = (np.arange(count), np.arange(count), np.ones(count))
    corners, between = triangles.T, count + edge_of_side.reshape(3, -1)
    split = [(corners[0], between[0], between[2]), (between[0], corners[1], between[1])]
    split += [(between[2], between[1], corners[2]), tuple(between)]
    return Subdivision(
        edges=edges,
        triangles=np.array(split).transpose(2, 0, 1).reshape(-1, 3).astype(np.int32),
        smooth=_matrix(rules, mirror, fine_mirror),
        linear=_matrix([kept, halves], mirror, fine_mirror),
        mirror=fine_mirror,
    )


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


def _edge_vertex(edges: np.ndarray, count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """As `Subdivision.edge_vertex`, for sorted edges (E,2) of `count` vertices."""
    keys = edges @ [count, 1]
    wanted = np.minimum(first, second).astype(np.int64) * count + np.maximum(first, second)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, count + at, -1)


def _edge_rules(
    edges: np.ndarray, inner: np.ndarray, edge_of_side: np.ndarray, opposite: np.ndarray, count: int
) -> Entries:
    """Entries (rows, columns, weights) of the edges: 3/8 of ends and 1/8 of opposite corners; 1/2 on boundaries.

    Args:
        edges: (E,2).
        inner: (E,) bool, edges with two triangles.
        edge_of_side, opposite: (3T,) the edge of each triangle's side and the corner opposite to it.
        count: number of coarse vertices.
    """
    ends = np.repeat(np.arange(len(edges)), 2)
    across = np.flatnonzero(inner[edge_of_side])
    rows = np.concatenate([ends, edge_of_side[across]])
    columns = np.concatenate([edges.ravel(), opposite[across]])
    weights = np.concatenate([np.where(inner[ends], 3 / 8, 1 / 2), np.full(len(across), 1 / 8)])
    return count + rows, columns, weights


def _vertex_rules(edges: np.ndarray, inner: np.ndarray, count: int) -> Entries:
    """Entries (rows, columns, weights) of the vertices: Loop's weights of all neighbours, or 1/8 of two on boundaries.

    Vertices with more or fewer than two boundary edges, as where boundaries cross, keep their position.
    """
    both = np.concatenate([edges, edges[:, ::-1]])
    inner = np.concatenate([inner, inner])
    valence = np.bincount(both[:, 0], minlength=count)
    boundary = np.bincount(both[~inner, 0], minlength=count)
    cosine = 3 / 8 + np.cos(2 * np.pi / np.maximum(valence, 1)) / 4
    share = np.where(boundary == 0, (5 / 8 - cosine**2) / np.maximum(valence, 1), np.where(boundary == 2, 1 / 8, 0.0))
    share = share.astype(np.float32).astype(np.float64)
    used = np.flatnonzero(np.where(boundary[both[:, 0]] == 0, inner, ~inner & (boundary[both[:, 0]] == 2)))
    weights = share[both[used, 0]]
    own = 1.0 - np.bincount(both[used, 0], weights, count)
    rows = np.concatenate([np.arange(count), both[used, 0]])
    return rows, np.concatenate([np.arange(count), both[used, 1]]), np.concatenate([own, weights])


def _matrix(parts: list[Entries], mirror: np.ndarray, fine_mirror: np.ndarray) -> scipy.sparse.csr_matrix:
    """Matrix (F,V) of entries (rows, columns, weights), ordered within each row as `subdivide` says."""
    rows, columns, weights = (np.concatenate(values) for values in zip(*parts, strict=True))
    image = np.asarray(mirror)[columns]
    later, middle = rows > fine_mirror[rows], rows == fine_mirror[rows]
    order_by = np.where(middle, np.minimum(columns, image), np.where(later, image, columns))
    # On the plane of symmetry, vertices of the plane come first, then pairs.
    order = np.lexsort((columns, order_by, middle & (columns != image), rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(fine_mirror)))])
    weights = weights.astype(np.float32).astype(np.float64)
    return scipy.sparse.csr_matrix((weights[order], columns[order], starts), (len(fine_mirror), len(mirror)))
