"""The mesh of the procedural head: the ringed patches, a graded filling between them, eyeballs and teeth.

Only the half x >= 0 is built; its mirror image closes it, so that template and topology are exactly symmetric.
"""

import dataclasses

import numpy as np
import scipy.spatial

from jaxface.heads import procedural_patches as patches
from jaxface.heads.paint import inside_polygon
from jaxface.heads.procedural_surface import CENTER, NECK_BASE_MM, direction, drop_to_edge, skin

# Spacing of the filling in mm: WIDE at the back, FACE in front, finer near the listed places (center, radius, mm).
WIDE_MM, FACE_MM = 7.5, 3.5
SPACING_GROWTH = 0.22
FINE = (
    ((0, 4, 124), 10, 1.9),
    ((14, -4, 108), 9, 1.7),
    ((0, 25, 112), 12, 2.6),
    ((31, 37, 94), 20, 2.3),
    ((36, 59, 100), 20, 1.8),
    ((0, -20, 115), 8, 2.2),
    ((0, -34, 112), 30, 2.8),
    ((0, -66, 108), 20, 3.6),
    ((68, 12, 0), 34, 4.5),
)
# Height of the hairline from the back of the head (z < 0) to the forehead, and the spacing along it.
HAIRLINE_Z_MM = (-90.0, -34.0, 10.0, 34.0, 70.0)
HAIRLINE_Y_MM = (-58.0, -45.0, 4.0, 60.0, 98.0)
HAIRLINE_MM = 2.6
HAIRLINE_FROM_Z = 6.0
# Candidates for the filling over the whole sphere, more in the cone of the face.
FRONT_CANDIDATES, BACK_CANDIDATES = 70_000, 12_000
FRONT_AXIS, FRONT_COS = np.array([0.0, -0.2, 0.98]), 0.74
RELAXATIONS = 8


@dataclasses.dataclass(frozen=True)
class HeadMesh:
    """`points` (V,3) mm, `triangles` (T,3), `mirror` (V,), and which vertices the parts of the subject's left are.

    `grids`: (rings, columns) of eye, mouth (half: from the lower to the upper middle), nostril and ear; lists of
    eyeball (the pupil first), upper_teeth and lower_teeth (half). `caps`: the vertex that closes each patch.
    """

    points: np.ndarray
    triangles: np.ndarray
    mirror: np.ndarray
    grids: dict[str, np.ndarray]
    caps: dict[str, int]


def above_hairline(points: np.ndarray) -> np.ndarray:
    """Height (N,) in mm of `points` (N,3) above the hairline."""
    return points[:, 1] - np.interp(points[:, 2], HAIRLINE_Z_MM, HAIRLINE_Y_MM)


def spacing(points: np.ndarray) -> np.ndarray:
    """Wanted edge length (N,) in mm of the filling at `points` (N,3) with x >= 0."""
    front = np.clip((points[:, 2] - 20.0) / 50.0, 0.0, 1.0) * np.clip((110.0 - points[:, 1]) / 30.0, 0.0, 1.0)
    front *= np.clip((points[:, 1] + 115.0) / 25.0, 0.0, 1.0)
    wanted = WIDE_MM + (FACE_MM - WIDE_MM) * front
    for center, radius, fine in FINE:
        away = np.maximum(np.linalg.norm(points - np.array(center), axis=1) - radius, 0.0)
        wanted = np.minimum(wanted, fine + SPACING_GROWTH * away)
    from_hair = np.abs(above_hairline(points)) + np.maximum(HAIRLINE_FROM_Z - points[:, 2], 0.0)
    return np.minimum(wanted, HAIRLINE_MM + SPACING_GROWTH * np.maximum(from_hair - 3.0, 0.0))


def _lattice(count: int) -> np.ndarray:
    """`count` directions spread evenly over the sphere (a Fibonacci lattice)."""
    i = np.arange(count) + 0.5
    y, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - y * y)
    return np.stack([ring * np.cos(turn), y, ring * np.sin(turn)], axis=1)


def _thin_out(points: np.ndarray, wanted: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Indices of `points` (N,3), in their order, that are at least `wanted` (N,) from `kept` and from each other."""
    free = scipy.spatial.cKDTree(kept).query(points)[0] > 0.8 * wanted
    near = scipy.spatial.cKDTree(points).query_ball_point(points, wanted)
    chosen = []
    for i in np.flatnonzero(free):
        if free[i]:
            chosen.append(i)
            free[near[i]] = False
    return np.array(chosen)


def _midline(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Points (N,3) of the skin on x = 0, spaced as wanted, from `first` (3,) up (or under the neck) to `last` (3,)."""
    low, high = (np.arctan2(*(point - CENTER)[1:]) for point in (first, last))
    fine = np.linspace(low, high + 2 * np.pi * (high < low), 2000)
    line = skin(np.stack([0 * fine, np.sin(fine), np.cos(fine)], axis=1))
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1) / spacing((line[1:] + line[:-1]) / 2)
    count = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, count[-1], round(count[-1]) + 1)
    points = np.stack([np.interp(wanted, count, line[:, i]) for i in range(3)], axis=1)
    points[:, 0] = 0.0
    points[0], points[-1] = first, last
    return points


def _neck_ring(count: int = 17) -> np.ndarray:
    """The edge (count,3) of the flat neck base, from the front to the back."""
    turn = np.linspace(0, np.pi, count)
    ring = np.stack([50 * np.sin(turn), np.full(count, NECK_BASE_MM), 52 * np.cos(turn) - 15], axis=1)
    ring = drop_to_edge(ring)
    ring[[0, -1], 0] = 0.0
    return ring


def _outside(points: np.ndarray, loops: list[np.ndarray]) -> np.ndarray:
    """Which of `points` (N,3) are seen from the centre outside every closed loop (L,3)."""
    seen = np.ones(len(points), bool)
    for loop in loops:
        axis = direction(loop).mean(0)
        side = np.cross([0.0, 1.0, 0.0], axis)
        frame = np.stack([side, np.cross(axis, side), axis])
        own, edge = direction(points) @ frame.T, direction(loop) @ frame.T
        inside = inside_polygon(own[:, :2] / own[:, 2:], edge[:, :2] / edge[:, 2:]) & (own[:, 2] > 0.1)
        seen &= ~inside
    return seen


def _hull(directions: np.ndarray) -> np.ndarray:
    """Delaunay triangles (T,3) of `directions` (N,3) on the sphere, counter-clockwise from outside."""
    triangles = scipy.spatial.ConvexHull(directions).simplices
    a, b, c = (directions[triangles[:, i]] for i in range(3))
    inward = (np.cross(b - a, c - a) * (a + b + c)).sum(1) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    return triangles


def _edges(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and second vertices (E,) of the edges of a closed mesh, each edge once."""
    first, second = triangles.ravel(), np.roll(triangles, -1, axis=1).ravel()
    once = first < second
    return first[once], second[once]


def _both(half: np.ndarray) -> np.ndarray:
    return np.concatenate([half, half[half[:, 0] > 0] * [-1, 1, 1]])


def _clear(free: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """`free` points (N,3) moved out of the circles over `edges` (E,2,3), so that triangulation keeps those edges."""
    middle, radius = edges.mean(1), 0.55 * np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)
    distance, near = scipy.spatial.cKDTree(middle).query(free, k=3)
    for k in range(3):
        away = free - middle[near[:, k]]
        grow = np.maximum(radius[near[:, k]] / np.maximum(np.linalg.norm(away, axis=1), 1e-9), 1.0)
        free = middle[near[:, k]] + grow[:, None] * away
    free[:, 0] = np.maximum(free[:, 0], 0.55 * spacing(free))
    return skin(direction(free))


def _relax(fixed: np.ndarray, edges: np.ndarray, loops: list[np.ndarray], free: np.ndarray) -> np.ndarray:
    """`free` points (N,3) of the half head pushed apart by springs to an even filling between the `fixed` ones."""
    for _ in range(RELAXATIONS):
        half = np.concatenate([fixed, free])
        points = _both(half)
        a, b = _edges(_hull(direction(points)))
        along = points[b] - points[a]
        length = np.linalg.norm(along, axis=1)
        middle = (points[a] + points[b]) / 2
        wanted = spacing(np.column_stack([np.abs(middle[:, 0]), middle[:, 1:]]))
        wanted *= 1.15 * np.sqrt((length**2).mean() / (wanted**2).mean())
        push = (np.maximum(wanted - length, 0.0) / length)[:, None] * along
        ends, pull = np.concatenate([b, a]), np.concatenate([push, -push])
        force = np.stack([np.bincount(ends, pull[:, axis], len(points)) for axis in range(3)], axis=1)
        free = _clear(free + 0.2 * force[len(fixed) : len(half)], edges)
        free = free[_outside(free, loops)]
    return free


def _fill(fixed: np.ndarray, edges: np.ndarray, loops: list[np.ndarray]) -> np.ndarray:
    """Points (N,3) of the half head between the `fixed` ones and outside the loops."""
    fine, wide = _lattice(FRONT_CANDIDATES), _lattice(BACK_CANDIDATES)
    candidates = np.concatenate([fine[fine @ FRONT_AXIS > FRONT_COS], wide[wide @ FRONT_AXIS <= FRONT_COS]])
    candidates = skin(candidates[candidates[:, 0] > 0])
    candidates = candidates[np.random.default_rng(0).permutation(len(candidates))]
    wanted = spacing(candidates)
    room = (candidates[:, 0] > 0.6 * wanted) & _outside(candidates, loops)
    candidates, wanted = candidates[room], wanted[room]
    return _relax(fixed, edges, loops, candidates[_thin_out(candidates, wanted, fixed)])


def _loop(part: patches.Patch) -> np.ndarray:
    """The whole loop (L,3) of a patch, first point repeated at the end; a half one is joined with its mirror image."""
    ring = part.points[-1]
    return np.concatenate([ring, ring[:1]] if part.closed else [ring, ring[-2::-1] * [-1, 1, 1]])


def _lay_in(part: patches.Patch, loop: np.ndarray, start: int):
    """Vertex grid, new points and triangles of a patch: its last ring is `loop`, the other vertices follow `start`."""
    rings, columns = part.points.shape[:2]
    own = start + np.arange((rings - 1) * columns).reshape(rings - 1, columns)
    grid = np.concatenate([own, loop[None]])
    points = np.concatenate([part.points[:-1].reshape(-1, 3), part.cap[None]])
    triangles = [patches.strips(grid, part.closed), patches.fan(grid[0], start + own.size, part.closed)]
    return grid, points, np.concatenate(triangles)


def _skin_half(parts: dict[str, patches.Patch]):
    """Points (N,3), triangles (T,3) vertex grids and caps of the half skin."""
    neck, lips = _neck_ring(), parts["mouth"].points[-1]
    lines = [_midline(neck[0], lips[0]), _midline(lips[-1], neck[-1]), _midline(neck[-1], neck[0]), neck]
    rims = [part.points[-1] for part in parts.values()]
    fixed = np.concatenate(rims + [line[1:-1] for line in lines[:3]] + [neck])
    chains = lines + [_loop(part)[: part.points.shape[1] + part.closed] for part in parts.values()]
    edges = np.concatenate([np.stack([chain[:-1], chain[1:]], axis=1) for chain in chains])
    points = np.concatenate([fixed, _fill(fixed, edges, [_loop(part) for part in parts.values()])])
    triangles = _hull(direction(_both(points)))
    triangles = triangles[(triangles < len(points)).all(1)]
    grids, caps, first = {}, {}, 0
    for name, part in parts.items():
        loop = np.arange(first, first + part.points.shape[1])
        first += len(loop)
        grids[name], new, laid = _lay_in(part, loop, len(points))
        hole = np.isin(triangles, loop).all(1)
        points, triangles = np.concatenate([points, new]), np.concatenate([triangles[~hole], laid])
        caps[name] = len(points) - 1
    return points, triangles, grids, caps


def build() -> HeadMesh:
    """The whole mesh: both halves of skin, eyeballs and teeth."""
    parts = {"eye": patches.eye(), "mouth": patches.mouth(), "nostril": patches.nostril(), "ear": patches.ear()}
    points, triangles, grids, caps = _skin_half(parts)
    solids = {"eyeball": patches.eyeball(), "upper_teeth": patches.teeth(True), "lower_teeth": patches.teeth(False)}
    for name, (own, faces) in solids.items():
        grids[name] = len(points) + np.arange(len(own))
        triangles = np.concatenate([triangles, faces + len(points)])
        points = np.concatenate([points, own])
    other = np.arange(len(points))
    beside = points[:, 0] > 0
    other[beside] = len(points) + np.arange(beside.sum())
    mirror = np.concatenate([other, np.flatnonzero(beside)])
    return HeadMesh(_both(points), np.concatenate([triangles, other[triangles[:, ::-1]]]), mirror, grids, caps)
