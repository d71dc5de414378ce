"""Selection of MakeHuman's base mesh for a head: body down to the collar bones, eyes, teeth, tongue and lashes.

Vertices are ordered so that the mirror map needs no table: those on the plane of symmetry, those of the subject's left,
and the mirror images of the latter in the same order. The eyeballs of the base mesh (72 vertices) are too coarse to
paint an iris, so they are replaced by spheres with rings at the edges of pupil and iris, which follow the displacements
of the original ones by an affine map.
"""

import dataclasses

import numpy as np

from jaxface.geometry.surface import fit_sphere
from jaxface.heads.makehuman.source import MakeHumanSource
from jaxface.heads.paint import IRIS_RADIUS_MM, PUPIL_RADIUS_MM

# Lowest vertices of the selection, in the base mesh's frame; the collar bones lie at 520.
LOWEST_MM = 490.0
GROUPS = {
    "body": "body",
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": "helper-tongue",
    "lashes": tuple(f"helper-{side}-eyelashes-{row}" for side in "lr" for row in "12"),
}
EYE_GROUP = "helper-l-eye"
# Polar angles of the rings of an eyeball behind the iris, in degrees from the direction of gaze.
RINGS_DEG = (33.0, 42.0, 52.0, 64.0, 78.0, 95.0, 120.0, 150.0)
EYE_COLUMNS = 24
# Half width of the rings around an edge of the painted iris: the edge is as sharp as this.
EDGE_MM = 0.35


@dataclasses.dataclass(frozen=True)
class HeadSelection:
    """Vertices and triangles of the head.

    Attributes:
        middle, left: numbers of vertices on the plane of symmetry and on each side; V = middle + 2 left.
        source_vertices: (S,) base-mesh vertices of the first S vertices of middle and left; the eyeball's follow.
        eye_vertices: (72,) base-mesh vertices of the left eye.
        eye_map: (E,72) affine interpolation from the coarse to the new eyeball's vertices.
        triangles, uv_triangles: (T,3) indices of vertices and of `uv`.
        uv: (U,2).
        parts: body, teeth, tongue, lashes, eyeball_L, eyeball_R -> (V,) bool.
        mirror: (V,) int32.
    """

    middle: int
    left: int
    source_vertices: np.ndarray
    eye_vertices: np.ndarray
    eye_map: np.ndarray
    triangles: np.ndarray
    uv_triangles: np.ndarray
    uv: np.ndarray
    parts: dict[str, np.ndarray]
    mirror: np.ndarray

    def half(self, values: np.ndarray) -> np.ndarray:
        """Values (M+L,…) of middle and left for values (19158,…) of the base mesh."""
        return np.concatenate([values[self.source_vertices], np.tensordot(self.eye_map, values[self.eye_vertices], 1)])

    def whole(self, values: np.ndarray, source: MakeHumanSource) -> np.ndarray:
        """Values (V,3) of all vertices for displacements or positions (19158,3) of the base mesh."""
        other = values[source.mirror] * [-1.0, 1.0, 1.0]
        left, right = self.half(values), self.half(other)[self.middle :]
        return np.concatenate([left, right * [-1.0, 1.0, 1.0]])


def select(source: MakeHumanSource) -> HeadSelection:
    """Selects and reorders the head of the base mesh."""
    quads, uv_quads, part_of = _chosen_quads(source)
    used = np.unique(quads)
    on_plane = used[source.mirror[used] == used]
    left = used[source.vertices[used, 0] > 1e-6]
    source_vertices = np.concatenate([on_plane, left])
    eye_vertices = np.unique(source.quads[EYE_GROUP])
    sphere, eye_triangles, eye_uv = _eyeball(source.vertices[eye_vertices])
    eye_map = _affine_map(source.vertices[eye_vertices], sphere)
    middle, half = len(on_plane), len(left) + len(sphere)
    number = np.full(len(source.vertices), -1)
    number[source_vertices] = np.arange(len(source_vertices))
    number[source.mirror[left]] = np.arange(middle + half, middle + half + len(left))
    count = middle + 2 * half
    mirror = np.concatenate(
        [np.arange(middle), np.arange(middle + half, count), np.arange(middle, middle + half)]
    ).astype(np.int32)
    triangles, uv_triangles = _split(source, quads, uv_quads)
    left_eye = eye_triangles + middle + len(left)
    right_eye = mirror[left_eye][:, ::-1]
    uv_start = len(source.uv)
    uv_all = np.concatenate([source.uv, eye_uv])
    uv_triangles = np.concatenate([uv_triangles, eye_triangles + uv_start, eye_triangles[:, ::-1] + uv_start])
    uv_used, uv_triangles = np.unique(uv_triangles, return_inverse=True)
    parts = {name: np.zeros(count, bool) for name in (*GROUPS, "eyeball_L", "eyeball_R")}
    for name in GROUPS:
        parts[name][number[np.unique(quads[part_of == name])]] = True
    parts["eyeball_L"][np.unique(left_eye)] = True
    parts["eyeball_R"][np.unique(right_eye)] = True
    return HeadSelection(
        middle=middle,
        left=half,
        source_vertices=source_vertices,
        eye_vertices=eye_vertices,
        eye_map=eye_map,
        triangles=np.concatenate([number[triangles], left_eye, right_eye]).astype(np.int32),
        uv_triangles=uv_triangles.reshape(-1, 3).astype(np.int32),
        uv=uv_all[uv_used],
        parts=parts,
        mirror=mirror,
    )


def _chosen_quads(source: MakeHumanSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(quads (Q,4), uv quads (Q,4), part names (Q,)) of the groups, above the lowest height."""
    quads, uv_quads, names = [], [], []
    for name, groups in GROUPS.items():
        for group in [groups] if isinstance(groups, str) else groups:
            inside = (source.vertices[source.quads[group], 1] > LOWEST_MM).all(1)
            quads.append(source.quads[group][inside])
            uv_quads.append(source.uv_quads[group][inside])
            names += [name] * int(inside.sum())
    return np.concatenate(quads), np.concatenate(uv_quads), np.array(names)


def _split(source: MakeHumanSource, quads: np.ndarray, uv_quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits quads (Q,4) along their shorter diagonal into (triangles (2Q,3), uv triangles (2Q,3)).

    The base mesh is exactly symmetric, but ties must be broken alike on both sides: lengths are compared with a margin.
    """
    corners = source.vertices[quads]
    first = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    second = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    turn = (first > second + 1e-6)[:, None]
    order = np.where(turn, [[1, 2, 3, 0]], [[0, 1, 2, 3]])
    quads, uv_quads = (np.take_along_axis(array, order, axis=1) for array in (quads, uv_quads))
    halves = ([0, 1, 2], [0, 2, 3])
    return tuple(np.concatenate([array[:, half] for half in halves]) for array in (quads, uv_quads))


def _eyeball(coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sphere that replaces the coarse eyeball (72,3) mm: (points (E,3), triangles (T,3), uv (E,2)).

    The pole looks along +z; uv is the azimuthal equidistant projection around it.
    """
    center, radius = fit_sphere(coarse)
    edges = [PUPIL_RADIUS_MM, IRIS_RADIUS_MM]
    sines = [edge + side * EDGE_MM for edge in edges for side in (-1, 1)]
    sines.insert(2, sum(edges) / 2)
    polar = np.concatenate([np.arcsin(np.array(sines) / radius), np.deg2rad(RINGS_DEG)])
    azimuth = 2 * np.pi * np.arange(EYE_COLUMNS) / EYE_COLUMNS
    ring = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
    directions = np.concatenate(
        [
            [[0.0, 0.0, 1.0]],
            np.concatenate([np.column_stack([np.sin(p) * ring, np.full(EYE_COLUMNS, np.cos(p))]) for p in polar]),
            [[0.0, 0.0, -1.0]],
        ]
    )
    angles = np.concatenate([[0.0], np.repeat(polar, EYE_COLUMNS), [np.pi]])
    planar = np.concatenate([[[0.0, 0.0]], np.tile(ring, (len(polar), 1)), [[1.0, 0.0]]])
    uv = 0.5 + 0.5 * planar * angles[:, None] / np.pi
    return center + radius * directions, _sphere_triangles(len(polar)), uv


def _sphere_triangles(rings: int) -> np.ndarray:
    """Triangles (T,3), counter-clockwise from outside, between front pole, rings and back pole."""
    grid = 1 + np.arange(rings * EYE_COLUMNS).reshape(rings, EYE_COLUMNS)
    following = np.roll(grid, -1, axis=1)
    a, b, c, d = grid[:-1], following[:-1], grid[1:], following[1:]
    bands = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3)
    pole = np.zeros_like(grid[0])
    front = np.stack([pole, grid[0], following[0]], -1)
    back = np.stack([pole + 1 + rings * EYE_COLUMNS, following[-1], grid[-1]], -1)
    return np.concatenate([front, bands, back])


def _affine_map(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Matrix (E,C) that extends values at points (C,3) to points (E,3) by the least-squares affine function."""

    def design(points: np.ndarray) -> np.ndarray:
        return np.column_stack([points - coarse.mean(0), np.ones(len(points))])

    return design(fine) @ np.linalg.pinv(design(coarse))
