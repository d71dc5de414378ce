"""A head as one watertight surface: the skin, with a sheet over each eyeball, behind the lips and under the neck.

Scans show a head from outside, and a signed distance needs an inside. So the mouth's bag, the eye sockets, teeth and
lashes are left out and every hole of the skin that remains is filled by rings that shrink towards its own middle line.
The filling follows the hole's edge and the eyeballs, so it moves with every identity and expression: an eye that shuts
folds its sheet away, and points of two posed heads correspond one to one.
"""

import dataclasses

import numpy as np

from jaxface.heads.morphable import TRANSPARENT, MorphableHead

INSIDE = ("mouth", "socket", "eyeball_L", "eyeball_R", TRANSPARENT)
FACE = ("face", "lips", "ears")
RINGS = np.array([0.12, 0.4, 0.7, 1.0])
# The sheet behind the lips is a bowl, as deep as the lips are apart, down to where the teeth would stand.
BOWL_PER_GAP, DEEPEST_MM = 0.8, 12.0


@dataclasses.dataclass(frozen=True)
class Filling:
    """How one hole is filled: `loop` (L,) head vertices of its edge from corner to corner, `partner` (L,L) the point
    across each as weights of the loop, and the `kind`: "mouth", a region of an eyeball, or "" for a flat one."""

    loop: np.ndarray
    partner: np.ndarray
    kind: str

    def points(self, head: MorphableHead, vertices: np.ndarray) -> np.ndarray:
        """The filling's own points (rings * L,3) mm for head vertices (V,3) mm, ring after ring."""
        edge = vertices[self.loop]
        across = self.partner @ edge
        rings = edge + 0.5 * RINGS[:, None, None] * (across - edge)
        if self.kind == "mouth":
            gap = np.minimum(BOWL_PER_GAP * np.linalg.norm(across - edge, axis=1), DEEPEST_MM)
            rings[..., 2] -= np.sin(np.pi / 2 * RINGS)[:, None] * gap
        elif self.kind:
            center, radius = _sphere(vertices[np.asarray(head.regions[self.kind])])
            away = rings - center
            rings = center + radius * away / np.linalg.norm(away, axis=-1, keepdims=True)
        return rings.reshape(-1, 3)

    def triangles(self, start: int) -> np.ndarray:
        """Triangles that join the loop to the rings, whose points are numbered from `start`, and shut the last one."""
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
    """`head` and its watertight surface: triangles (T,3) int32 over W vertices, the skin's first (`skin`, indices into
    the head's), then those of the fillings. `face` (T,) bool: triangles of face, lips, ears and of what fills eyes
    and mouth."""

    head: MorphableHead
    skin: np.ndarray
    fillings: tuple[Filling, ...]
    triangles: np.ndarray
    face: np.ndarray

    def surface(self, vertices: np.ndarray) -> np.ndarray:
        """The closed surface's vertices (W,3) float32 for head vertices (V,3), both mm."""
        vertices = np.asarray(vertices)
        filled = [filling.points(self.head, vertices) for filling in self.fillings]
        return np.concatenate([vertices[self.skin], *filled]).astype(np.float32)

    def posed(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """The closed surface (W,3) float32 mm of coefficients (I,) and weights (E,)."""
        head = self.head
        moved = np.tensordot(identity, head.identity, 1) + np.tensordot(expression, head.expression, 1)
        return self.surface(np.asarray(head.template) + moved)


def close(head: MorphableHead) -> ClosedHead:
    """The closed surface of a head whose skin is a manifold with holes at eyes, mouth and neck (any of them)."""
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
    """Which vertices (V,) bool are skin: none of the inside of mouth and sockets, eyeballs and lashes."""
    inside = [np.asarray(head.regions[name]) for name in INSIDE if name in head.regions]
    return ~np.logical_or.reduce(inside)


def boundary_loops(triangles: np.ndarray) -> list[np.ndarray]:
    """The holes of a manifold mesh: loops of vertices, each in the direction in which a filling has to use it."""
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
    return np.logical_or.reduce([np.asarray(head.regions[name]) for name in FACE])


def _filling(head: MorphableHead, loop: np.ndarray) -> Filling:
    edge = np.asarray(head.template)[loop]
    loop, edge = (np.roll(array, -int(edge[:, 0].argmin()), axis=0) for array in (loop, edge))
    return Filling(loop, _partners(edge), _kind(head, edge))


def _kind(head: MorphableHead, edge: np.ndarray) -> str:
    """What a hole with this edge (L,3) is."""
    template, middle = np.asarray(head.template), edge.mean(0)
    corners = head.landmark_points(template, "68")[[48, 54]]
    eyeballs = {name: template[np.asarray(head.regions[name])].mean(0) for name in ("eyeball_L", "eyeball_R")}
    places = {"mouth": corners.mean(0), **eyeballs}
    nearest = min(places, key=lambda name: np.linalg.norm(places[name] - middle))
    return nearest if np.linalg.norm(places[nearest] - middle) < 30.0 else ""


def _partners(edge: np.ndarray) -> np.ndarray:
    """Weights (L,L): for each point of a loop (L,3) that starts at one corner, the point across.

    The other corner is the farthest point; points across each other cut the same share of both arcs.
    """
    count = len(edge)
    other = int(np.linalg.norm(edge - edge[0], axis=1).argmax())
    step = np.linalg.norm(np.roll(edge, -1, axis=0) - edge, axis=1)
    along = np.concatenate([[0.0], np.cumsum(step)])
    there, whole = along[other], along[-1]
    share = np.where(along <= there, along / there, (whole - along) / (whole - there))
    weights = np.zeros((count, count))
    arcs = np.arange(other + 1), np.append(np.arange(other, count), 0)[::-1]
    for own, opposite in (arcs, arcs[::-1]):
        shares = np.append(share[:-1], 0.0)[opposite]
        position = np.interp(share[own], shares, np.arange(len(opposite)))
        first = np.minimum(position.astype(int), len(opposite) - 2)
        weights[own] = 0.0
        np.add.at(weights, (own, opposite[first]), 1 - (position - first))
        np.add.at(weights, (own, opposite[first + 1]), position - first)
    return weights


def _sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the least-squares sphere through points (N,3)."""
    points = points.astype(np.float64)
    middle = points.mean(0)
    own = points - middle
    solution = np.linalg.lstsq(np.column_stack([2 * own, np.ones(len(own))]), (own**2).sum(1), rcond=None)[0]
    return middle + solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3]))
