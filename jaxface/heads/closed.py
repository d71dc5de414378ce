"""Watertight surface of a head: the skin, closed by sheets over the eyeballs, behind the lips and under the neck.

Scans show a head from outside, and a signed distance needs an inside. The oral cavity, eye sockets, teeth and lashes
are therefore removed, and each hole of the skin is filled by rings that contract towards its middle line. Fillings
follow the boundary of the hole and the eyeballs, so they deform with identity and expression: a closing eye folds its
sheet away, and the surfaces of two poses are in point-to-point correspondence.
"""

import dataclasses

import numpy as np

from jaxface.geometry.surface import fit_sphere
from jaxface.heads.morphable import TRANSPARENT, MorphableHead

# Regions that are removed inside and below the head, and regions that belong to the face in NPHM's sampling.
INSIDE = ("mouth", "socket", "eyeball_L", "eyeball_R", TRANSPARENT)
BELOW = "shoulders"
FACE = ("face", "lips", "ears")
# Positions of the rings between the boundary (0) and the middle line (1).
RINGS = np.array([0.12, 0.4, 0.7, 1.0])
# The sheet behind the lips is a bowl: its depth grows with the gap between the lips, up to the position of the teeth.
BOWL_PER_GAP, MAX_DEPTH_MM = 0.8, 12.0


@dataclasses.dataclass(frozen=True)
class Filling:
    """Filling of one hole.

    Attributes:
        loop: (L,) head vertices of the boundary, starting at one corner.
        partner: (L,L) weights over the loop that give the point opposite each boundary point.
        kind: "mouth", the region name of an eyeball, or "" for a flat filling.
    """

    loop: np.ndarray
    partner: np.ndarray
    kind: str

    def points(self, head: MorphableHead, vertices: np.ndarray) -> np.ndarray:
        """Points (rings * L,3) mm of the filling, ring by ring, for head vertices (V,3) mm."""
        edge = vertices[self.loop]
        across = self.partner @ edge
        rings = edge + 0.5 * RINGS[:, None, None] * (across - edge)
        if self.kind == "mouth":
            gap = np.minimum(BOWL_PER_GAP * np.linalg.norm(across - edge, axis=1), MAX_DEPTH_MM)
            rings[..., 2] -= np.sin(np.pi / 2 * RINGS)[:, None] * gap
        elif self.kind:
            center, radius = fit_sphere(vertices[np.asarray(head.regions[self.kind])])
            away = rings - center
            rings = center + radius * away / np.linalg.norm(away, axis=-1, keepdims=True)
        return rings.reshape(-1, 3)

    def triangles(self, start: int) -> np.ndarray:
        """Triangles between loop and rings, whose vertices are numbered from `start`, and inside the last ring."""
        count = len(self.loop)
        grid = np.concatenate([self.loop[None], start + np.arange(len(RINGS) * count).reshape(-1, count)])
        a, b = grid[:-1], grid[1:]
        a_next, b_next = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
        bands = np.concatenate([np.stack([a, a_next, b], -1), np.stack([a_next, b_next, b], -1)]).reshape(-1, 3)
        low, high, zipper = 0, count - 1, []
        while high - low > 1:
            zipper.append((low, low + 1, high))
            low += 1
            if high - low > 1:
                zipper.append((low, high - 1, high))
                high -= 1
        return np.concatenate([bands, grid[-1][np.array(zipper)]])


@dataclasses.dataclass(frozen=True)
class ClosedHead:
    """A head and its watertight surface of W vertices: those of the skin, followed by those of the fillings.

    Attributes:
        head: the morphable head.
        skin: (S,) head vertices of the skin.
        fillings: one per hole.
        triangles: (T,3) int32.
        face: (T,) bool, triangles of face, lips, ears and of the fillings of eyes and mouth.
    """

    head: MorphableHead
    skin: np.ndarray
    fillings: tuple[Filling, ...]
    triangles: np.ndarray
    face: np.ndarray

    def surface(self, vertices: np.ndarray) -> np.ndarray:
        """Vertices (W,3) float32 of the closed surface for head vertices (V,3), both in mm."""
        vertices = np.asarray(vertices)
        filled = [filling.points(self.head, vertices) for filling in self.fillings]
        return np.concatenate([vertices[self.skin], *filled]).astype(np.float32)

    def posed(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Vertices (W,3) float32 mm of the surface for identity coefficients (I,) and expression weights (E,)."""
        head = self.head
        moved = np.tensordot(identity, head.identity, 1) + np.tensordot(expression, head.expression, 1)
        return self.surface(np.asarray(head.template) + moved)


def close(head: MorphableHead) -> ClosedHead:
    """Closes a head whose skin is a manifold with any of the holes at eyes, mouth and neck."""
    outer = skin_vertices(head)
    triangles = np.asarray(head.triangles)
    triangles = triangles[outer[triangles].all(1)]
    fillings = tuple(_filling(head, loop) for loop in boundary_loops(triangles))
    parts, face = [triangles], [_face_vertices(head)[triangles].all(1)]
    start = len(outer)
    for filling in fillings:
        parts.append(filling.triangles(start))
        face.append(np.full(len(parts[-1]), bool(filling.kind)))
        start += len(RINGS) * len(filling.loop)
    skin = np.unique(triangles)
    renumbered = np.zeros(start, np.int32)
    renumbered[skin] = np.arange(len(skin))
    renumbered[len(outer) :] = len(skin) + np.arange(start - len(outer))
    return ClosedHead(head, skin, fillings, renumbered[np.concatenate(parts)], np.concatenate(face))


def skin_vertices(head: MorphableHead) -> np.ndarray:
    """Mask (V,) bool of the skin: excludes the oral cavity, eye sockets, eyeballs, lashes and shoulders."""
    removed = [np.asarray(head.regions[name]) for name in (*INSIDE, BELOW) if name in head.regions]
    return ~np.logical_or.reduce(removed)


def boundary_loops(triangles: np.ndarray) -> list[np.ndarray]:
    """Boundary loops of a manifold mesh, each oriented as the triangles of a filling require."""
    edges = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)]).astype(np.int64)
    size = edges.max() + 1
    open_edges = edges[~np.isin(edges @ [size, 1], edges @ [1, size])]
    following = {int(b): int(a) for a, b in open_edges}
    loops = []
    while following:
        first, after = following.popitem()
        loop = [first]
        while after != first:
            loop.append(after)
            after = following.pop(after)
        loops.append(np.array(loop))
    return sorted(loops, key=lambda loop: int(loop.min()))


def _face_vertices(head: MorphableHead) -> np.ndarray:
    """Mask (V,) bool of the regions FACE."""
    return np.logical_or.reduce([np.asarray(head.regions[name]) for name in FACE])


def _filling(head: MorphableHead, loop: np.ndarray) -> Filling:
    """The filling of the hole with the boundary `loop` (L,), whose first corner is the point with the smallest x."""
    edge = np.asarray(head.template)[loop]
    loop, edge = (np.roll(array, -int(edge[:, 0].argmin()), axis=0) for array in (loop, edge))
    return Filling(loop, opposite_points(edge), _kind(head, edge))


def _kind(head: MorphableHead, edge: np.ndarray) -> str:
    """Kind of the hole with boundary `edge` (L,3) mm: the nearest of mouth and eyeballs within 30 mm, else ""."""
    template, middle = np.asarray(head.template), edge.mean(0)
    corners = head.landmark_points(template, "68")[[48, 54]]
    eyeballs = {name: template[np.asarray(head.regions[name])].mean(0) for name in ("eyeball_L", "eyeball_R")}
    centers = {"mouth": corners.mean(0), **eyeballs}
    nearest = min(centers, key=lambda name: np.linalg.norm(centers[name] - middle))
    return nearest if np.linalg.norm(centers[nearest] - middle) < 30.0 else ""


def opposite_points(edge: np.ndarray) -> np.ndarray:
    """Weights (L,L) that give the opposite point of each point of a loop (L,3) that starts at one corner.

    The other corner is the farthest point. Opposite points divide the arc length of both arcs in the same ratio.
    """
    count = len(edge)
    other = int(np.linalg.norm(edge - edge[0], axis=1).argmax())
    step = np.linalg.norm(np.roll(edge, -1, axis=0) - edge, axis=1)
    length = np.concatenate([[0.0], np.cumsum(step)])
    first_arc, total = length[other], length[-1]
    share = np.where(length <= first_arc, length / first_arc, (total - length) / (total - first_arc))
    weights = np.zeros((count, count))
    arcs = np.arange(other + 1), np.append(np.arange(other, count), 0)[::-1]
    for arc, opposite in (arcs, arcs[::-1]):
        shares = np.append(share[:-1], 0.0)[opposite]
        position = np.interp(share[arc], shares, np.arange(len(opposite)))
        first = np.minimum(position.astype(int), len(opposite) - 2)
        weights[arc] = 0.0
        np.add.at(weights, (arc, opposite[first]), 1 - (position - first))
        np.add.at(weights, (arc, opposite[first + 1]), position - first)
    return weights
