"""Landmarks of the procedural head: iBUG's 68 and WFLW's 98 points as barycentric points of its surface."""

import numpy as np

from jaxface.heads import landmarks
from jaxface.heads.procedural_mesh import HeadMesh
from jaxface.heads.procedural_patches import BAG_ROWS, LIP_RINGS, MOUTH_COLUMNS, RIM_ROW
from jaxface.layouts import LAYOUT_68, LAYOUT_98, Layout

# The middle and the subject's left, where annotators of frontal faces put them (mm, near the surface).
LEFT_68 = {
    8: (0, -77, 104), 9: (16, -75, 100), 10: (31, -70, 87), 11: (44, -62, 73), 12: (57, -45, 60), 13: (65, -24, 50),
    14: (69, -5, 44), 15: (72, 15, 39), 16: (73, 36, 36),
    22: (11.5, 58, 108), 23: (24, 62, 105), 24: (37.5, 62.5, 99), 25: (49, 59.5, 91), 26: (57.5, 52.5, 80),
    27: (0, 37, 107), 28: (0, 26, 115), 29: (0, 15, 123), 30: (0, 3, 131),
    33: (0, -12.5, 116), 34: (6.5, -12, 114), 35: (12.5, -11.5, 109.5),
}  # fmt: skip
# Columns of the eye's rim (outer canthus 0, upper lid, inner canthus, lower lid) of points 42-47 and 68-75.
EYE_68 = {42: 16, 43: 10, 44: 6, 45: 0, 46: 26, 47: 22}
EYE_98 = {68: 16, 69: 11, 70: 8, 71: 5, 72: 0, 73: 27, 74: 24, 75: 21}
# Wanted x (mm) and lip (+1 upper, -1 lower, 0 corner) of the lip points on the vermilion's border and at the contact.
OUTER_68 = {51: (0, 1), 52: (7.5, 1), 53: (17, 1), 54: (26, 0), 55: (18, -1), 56: (10, -1), 57: (0, -1)}
INNER_68 = {62: (0, 1), 63: (10, 1), 64: (26, 0), 65: (10, -1), 66: (0, -1)}
LIPS_98 = 76 - 48
BORDER_ROW, CONTACT_ROW = BAG_ROWS + len(LIP_RINGS) - 1, BAG_ROWS


def _lip_vertex(mesh: HeadMesh, row: int, x: float, lip: int) -> int:
    """The vertex of a lip ring nearest to a wanted x."""
    middle = MOUTH_COLUMNS // 2
    columns = {0: [middle], 1: np.arange(middle + 1, MOUTH_COLUMNS), -1: np.arange(middle)}[lip]
    ring = mesh.grids["mouth"][row, columns]
    return ring[np.abs(mesh.points[ring, 0] - x).argmin()]


def attach(points: np.ndarray, template: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N,3) and weights (N,3) of the places on `triangles` (T,3) that are nearest to `points` (N,3)."""
    corner = template[triangles]
    edge_1, edge_2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    a, b, c = (edge_1**2).sum(1), (edge_1 * edge_2).sum(1), (edge_2**2).sum(1)
    vertices, weights = [], []
    for point in points:
        offset = point - corner[:, 0]
        d, e = (offset * edge_1).sum(1), (offset * edge_2).sum(1)
        v, w = np.array([c * d - b * e, a * e - b * d]) / (a * c - b * b)
        share = np.maximum(np.stack([1 - v - w, v, w], axis=1), 0.0)
        share /= share.sum(1, keepdims=True)
        distance = np.linalg.norm((share[..., None] * corner).sum(1) - point, axis=1)
        best = distance.argmin()
        vertices.append(triangles[best])
        weights.append(share[best])
    return np.array(vertices), np.array(weights)


def _attach_middle(points: np.ndarray, template: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Like `attach`, for points on x = 0: the nearest two of the vertices `line`, so that they stay in the middle."""
    distance = np.linalg.norm(template[line] - points[:, None], axis=-1)
    near = np.argsort(distance, axis=1)[:, :2]
    first, second = template[line[near[:, 0]]], template[line[near[:, 1]]]
    along = second - first
    t = np.clip(((points - first) * along).sum(1) / (along**2).sum(1), 0, 1)
    return line[near[:, [0, 1, 1]]], np.stack([1 - t, t, 0 * t], axis=1)


def _complete(mesh: HeadMesh, half: dict[int, tuple[np.ndarray, np.ndarray]], layout: Layout):
    """All points of a layout from those of the middle and the subject's left."""
    index, weights = np.zeros((layout.count, 3), np.int32), np.zeros((layout.count, 3), np.float32)
    for point, (vertices, share) in half.items():
        index[layout.flip[point]], weights[layout.flip[point]] = mesh.mirror[vertices], share
    for point, (vertices, share) in half.items():
        index[point], weights[point] = vertices, share
    return index, weights


def _tie(mesh: HeadMesh, targets: dict[int, np.ndarray], vertices: dict[int, int], skin: np.ndarray):
    """Barycentric points by index: fixed `vertices`, and `targets` tied to the outer `skin` (V,) bool."""
    half = {point: (np.full(3, vertex), np.array([1.0, 0, 0])) for point, vertex in vertices.items()}
    left = skin & (mesh.points[:, 0] >= 0)
    faces, line = mesh.triangles[left[mesh.triangles].all(1)], np.flatnonzero(skin & (mesh.points[:, 0] == 0))
    for point, target in targets.items():
        target = np.array(target, float)[None]
        tied = attach(target, mesh.points, faces) if target[0, 0] else _attach_middle(target, mesh.points, line)
        half[point] = tied[0][0], tied[1][0]
    return half


def layouts(mesh: HeadMesh, skin: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layouts "68" and "98" as in `MorphableHead.landmarks`; `skin` (V,) bool is the outer skin to tie them to."""
    rim = mesh.grids["eye"][RIM_ROW]
    lips = {i: _lip_vertex(mesh, BORDER_ROW, *place) for i, place in OUTER_68.items()}
    lips |= {i: _lip_vertex(mesh, CONTACT_ROW, *place) for i, place in INNER_68.items()}
    eyes = {i: rim[column] for i, column in EYE_68.items()}
    ibug = _complete(mesh, _tie(mesh, LEFT_68, eyes | lips, skin), LAYOUT_68)
    points = (mesh.points[ibug[0]] * ibug[1][..., None]).sum(1)
    pupil = mesh.grids["eyeball"][0]
    wide = landmarks.wflw_from_ibug(points, mesh.points[[mesh.mirror[pupil], pupil]])
    fixed = {i + LIPS_98: vertex for i, vertex in lips.items()} | {97: pupil}
    fixed |= {i: rim[column] for i, column in EYE_98.items()}
    left = [i for i in range(98) if i not in fixed and i != 96 and wide[i, 0] > -1e-6]
    targets = {i: np.where(np.abs(wide[i]) < 1e-6, 0.0, wide[i]) for i in left}
    return {"68": ibug, "98": _complete(mesh, _tie(mesh, targets, fixed, skin), LAYOUT_98)}
