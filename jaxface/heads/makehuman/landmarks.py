"""Landmarks of MakeHuman's head: iBUG's 68 and WFLW's 98 points as barycentric points of its surface.

Eyes and mouth follow rings of the mesh: the lid margins, the border of the painted lips and the line where the lips
meet. Along the lips the points divide the way to the corner about as those of the mean annotation of 300-W do: outer
ones at 0.27 and 0.63, inner ones at 0.31 of it. Nose and brows are placed by anatomy, the base of the nose's wing as in
that mean; the jaw line is the outline of the face as seen from the front, which runs from the ear along the edge of the
mandible. How far the outer mouth corners lie beyond the inner ones, and where the tip of the nose is, follow the
convention of ICT-FaceKit's landmarks. The middle and the subject's left are set, then mirrored.
"""

import numpy as np

from jaxface.heads import landmarks
from jaxface.heads.makehuman.mesh import HeadSelection
from jaxface.layouts import LAYOUT_68, LAYOUT_98

# Vertices of the base mesh, alone or two with equal weights, by point of the layout.
LIPS = {
    51: (455, 466), 52: (7210, 7215), 53: (11956, 7170), 55: (7166, 7239), 56: (7241, 7245), 57: (496, 492),
    62: (468,), 63: (7221, 7218), 64: (7248,), 65: (7242, 7236), 66: (523,),
}  # fmt: skip
INNER_CANTHUS, OUTER_CANTHUS = (6850, 6853), (7753, 7756)
EYE_68 = {42: INNER_CANTHUS, 43: (6838,), 44: (6784,), 45: OUTER_CANTHUS, 46: (6825,), 47: (6831,)}
EYE_98 = {
    68: INNER_CANTHUS, 69: (6841,), 70: (6785,), 71: (6784, 6790), 72: OUTER_CANTHUS, 73: (6825, 6820), 74: (6828,),
    75: (6834,),
}  # fmt: skip
SUBNASALE, PRONASALE = (317, 343), (5054,)
# Point 30 is the tip of the nose as it is annotated, above its most protruding point.
TIP_ABOVE_MM = 2.8
# Point 27 lies below the pupils.
TOP_BELOW_MM = 1.0
# Base of the left wing of the nose: x, and height above point 33, mm.
WING = {34: (6.9, 1.9), 35: (13.2, 4.2)}
# Distance of the outer corner of the mouth from the inner one, mm.
CORNER_MM = 2.5
# Centre line of the left brow's hairs: x, and height above the pupils, mm.
BROW = {22: (10.5, 12.5), 23: (21.0, 17.0), 24: (33.0, 18.5), 25: (44.0, 16.5), 26: (52.0, 10.5)}
# Points of the jaw line, at equal steps from the chin to the height of the pupils in front of the ear.
JAW = range(8, 17)
LIPS_98 = 76 - 48
# Samples per triangle edge with which the outline is found, and its angular step.
SAMPLES, OUTLINE_STEP_DEG = 6, 2.0
# The outline is that of a view turned towards each of its points by atan of this, so that it stays on the visible edge.
OUTLINE_TILT = 0.165

Place = tuple[np.ndarray, np.ndarray]


class _Mesh:
    """Template with the vertices by their number in the base mesh, and the skin of the left half."""

    def __init__(self, template: np.ndarray, head: HeadSelection, regions: dict[str, np.ndarray]):
        self.template, self.head = template, head
        self.number = {int(source): index for index, source in enumerate(head.source_vertices)}
        skin = head.parts["body"] & ~regions["mouth"] & ~regions["socket"]
        left = skin & (template[:, 0] > -1e-6)
        self.triangles = head.triangles[left[head.triangles].all(1)]
        self.midline = np.flatnonzero(skin[: head.middle])
        self.face = head.triangles[(left & regions["face"])[head.triangles].all(1)]
        self.pupil = int(np.argmax(np.where(regions["iris_L"], template[:, 2], -np.inf)))

    def between(self, vertices: tuple[int, ...]) -> Place:
        """The vertex, or the middle of two vertices of the base mesh, as (vertices (3,), weights (3,))."""
        first, second = self.number[vertices[0]], self.number[vertices[-1]]
        return np.array([first, second, second]), np.array([0.5, 0.5, 0.0])

    def point(self, place: Place) -> np.ndarray:
        """Position (3,) of a place."""
        return place[1] @ self.template[place[0]]

    def attach(self, point: np.ndarray) -> Place:
        """The place of the skin next to a point (3,); points with x = 0 stay on the midline."""
        if point[0] == 0:
            vertices, weights = landmarks.attach_to_line(point[None], self.template, self.midline)
        else:
            vertices, weights = landmarks.attach(point[None], self.template, self.triangles)
        return vertices[0], weights[0]

    def skin_at(self, x: float, y: float) -> np.ndarray:
        """The frontmost point (3,) of the left skin at (x, y)."""
        return landmarks.frontmost(np.array([x, y]), self.template, self.triangles)


def landmarks_of(
    template: np.ndarray, head: HeadSelection, regions: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layouts "68" and "98" as in `MorphableHead.landmarks` on a template (V,3) mm in the house's frame."""
    mesh = _Mesh(template, head, regions)
    ring = {point: mesh.between(vertices) for point, vertices in {**LIPS, **EYE_68}.items()}
    half = ring | {54: _corner(mesh)} | _nose(mesh) | _brows(mesh) | _jaw(mesh)
    ibug = landmarks.complete(half, LAYOUT_68, head.mirror)
    points = (template[ibug[0]] * ibug[1][..., None]).sum(1)
    pupils = template[[head.mirror[mesh.pupil], mesh.pupil]]
    wide = landmarks.wflw_from_ibug(points, pupils)
    half_98 = {point + LIPS_98: half[point] for point in (*LIPS, 54)}
    half_98 |= {point: mesh.between(vertices) for point, vertices in EYE_98.items()}
    half_98[97] = np.full(3, mesh.pupil), np.array([1.0, 0.0, 0.0])
    for point in range(96):
        if point not in half_98 and LAYOUT_98.flip[point] not in half_98 and wide[point, 0] > -1e-6:
            half_98[point] = mesh.attach(np.where(np.abs(wide[point]) < 1e-6, 0.0, wide[point]))
    return {"68": ibug, "98": landmarks.complete(half_98, LAYOUT_98, head.mirror)}


def _corner(mesh: _Mesh) -> Place:
    """Point 54, the outer corner of the mouth, CORNER_MM beyond the inner corner."""
    inner = mesh.point(mesh.between(LIPS[64]))
    return mesh.attach(mesh.skin_at(inner[0] + CORNER_MM, inner[1]))


def _nose(mesh: _Mesh) -> dict[int, Place]:
    """Points 27 to 30 from below the height of the pupils to the tip, and 33 to 35 from the septum to the wing."""
    protruding, base = (mesh.between(vertices) for vertices in (PRONASALE, SUBNASALE))
    top, below = mesh.template[mesh.pupil, 1] - TOP_BELOW_MM, mesh.point(base)[1]
    places = {33: base}
    heights = np.linspace(top, mesh.point(protruding)[1] + TIP_ABOVE_MM, 4)
    profile = mesh.template[mesh.midline]
    profile = profile[profile[:, 2] > 0]
    nose = profile[(profile[:, 1] > heights[-1] - 4) & (profile[:, 1] < top + 20)]
    nose = nose[np.argsort(nose[:, 1])]
    for point, height in zip((27, 28, 29, 30), heights, strict=True):
        places[point] = mesh.attach(np.array([0.0, height, np.interp(height, nose[:, 1], nose[:, 2])]))
    return places | {point: mesh.attach(mesh.skin_at(x, below + height)) for point, (x, height) in WING.items()}


def _brows(mesh: _Mesh) -> dict[int, Place]:
    pupil = mesh.template[mesh.pupil, 1]
    return {point: mesh.attach(mesh.skin_at(x, pupil + height)) for point, (x, height) in BROW.items()}


def _jaw(mesh: _Mesh) -> dict[int, Place]:
    """Points 8 to 16, along the outline of the face in front view, from the chin up."""
    points = landmarks.surface_samples(mesh.template, mesh.face, SAMPLES)
    pupil = mesh.template[mesh.pupil]
    center = np.array([0.0, (pupil[1] + points[:, 1].min()) / 2])
    angle = np.rad2deg(np.arctan2(points[:, 0], center[1] - points[:, 1]))
    radius = np.hypot(points[:, 0], points[:, 1] - center[1])
    score = radius + OUTLINE_TILT * points[:, 2]
    bins = np.arange(0.0, 135.0, OUTLINE_STEP_DEG)
    line = []
    for start in bins:
        inside = np.flatnonzero((angle >= start - OUTLINE_STEP_DEG / 2) & (angle < start + OUTLINE_STEP_DEG / 2))
        line.append(points[inside[score[inside].argmax()]])
    line = np.array(line)
    line[0, 0] = 0.0
    line = line[: int(np.argmax(line[:, 1] > pupil[1])) + 1]
    length = _arc_length(line[:, :2])
    # The cheeks are so flat from front to back that the depth of the outline jumps.
    line[:, 2] = np.polyval(np.polyfit(length, line[:, 2], 2), length)
    length = _arc_length(line)
    wanted = np.linspace(0.0, length[-1], len(JAW))
    resampled = np.stack([np.interp(wanted, length, line[:, axis]) for axis in range(3)], axis=1)
    return {point: mesh.attach(place) for point, place in zip(JAW, resampled, strict=True)}


def _arc_length(line: np.ndarray) -> np.ndarray:
    """Arc length (N,) at the points of a line (N,D)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
