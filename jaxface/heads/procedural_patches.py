"""The parts of the procedural head that have rings of their own (eye, mouth, nostril, ear), eyeball and teeth.

All are of the subject's left half. A patch is a grid of rings; the last ring is the loop where it meets the skin;
columns run counter-clockwise seen from outside.
"""

import dataclasses

import numpy as np

from jaxface.heads.procedural_surface import direction, drop, skin

EYE_CENTER = np.array([31.0, 34.8, 80.0])
EYE_RADIUS_MM = 14.2
LID_MM = 1.0
# How far round the eyeball the pocket behind the lids reaches.
POCKET_RAD, POCKET_GAP_MM = 2.2, 0.25
INNER_CANTHUS = np.array([17.2, 32.6, 90.3])
OUTER_CANTHUS = np.array([44.8, 35.0, 85.5])
EYE_COLUMNS = 32
UPPER_LID_MM, LOWER_LID_MM = 5.9, 3.9
# Rings of the eye: three of the pocket, the rim's inner edge, then the lids on their way from the rim to the orbit.
RIM_ROW = 4
LID_WAYS = (0.0, 0.08, 0.18, 0.3, 0.44, 0.6, 0.78, 1.0)

STOMION_Y = -33.6
MOUTH_HALF_WIDTH = 24.0
MOUTH_COLUMNS = 29
# Height y of the vermilion's border over x, from the middle to the corner.
LIP_X = (0, 3, 6, 9, 13, 17.5, 21, 24.0)
UPPER_BORDER_Y = (-25.6, -24.9, -24.4, -25.2, -27.2, -30.2, -32.6, -34.8)
LOWER_BORDER_Y = (-44.0, -44.0, -43.8, -43.2, -42.0, -39.6, -37.2, -34.8)
CONTACT_Y = (-33.2, -33.4, -33.6, -33.7, -33.9, -34.2, -34.6, -34.8)
# Rings across the lip: way from the line of contact to the border, swelling of the upper and of the lower lip (mm).
LIP_RINGS = ((0.0, -1.6, -1.4), (0.12, 0.4, 0.9), (0.4, 1.6, 2.4), (0.75, 1.5, 2.0), (1.0, 0.6, 0.7))
# Rings of the bag behind the lips, which come first: depth, half height (mm), share of the width.
BAG_RINGS = ((70, 9, 0.9), (45, 11, 1.0), (18, 7, 1.0), (4, 0, 0.99))
BAG_ROWS = len(BAG_RINGS)
LIP_GAP_MM = 0.1
# Rings of the skin around the lips, from the border (0) to the loop (1).
AROUND_LIPS = (0.18, 0.5, 1.0)

EAR_CENTER = np.array([72.0, 11.0, -8.0])
EAR_HALF = (17.0, 31.0)
EAR_TILT_RAD = 0.2
EAR_COLUMNS = 44
# Height above the skin at the front edge, and how much higher the back edge stands.
EAR_HEIGHT_MM = (0.8, 16.5)
# Rings of the ear from the concha over antihelix and helix to its back: share of the outline, share of the height.
EAR_RINGS = (
    (0.12, 0.0), (0.28, 0.05), (0.4, 0.25), (0.47, 0.75), (0.56, 0.95), (0.68, 0.8), (0.8, 0.62), (0.88, 0.85),
    (0.95, 1.0), (1.0, 0.95), (0.98, 0.72),
)  # fmt: skip
# The concha lies in front of and below the middle of the outline.
CONCHA_SHIFT_MM = (-3.5, -6.0)
LOBE_RAD = -1.45
# The tragus, a knob at the front edge: its place round the ear and its height in shares of the edge's.
TRAGUS_RAD, TRAGUS_SHARE = 3.3, 4.0

# Angles of the eyeball's rings from its axis; doubled at the rims of pupil and iris, where the colour changes. Its back
# has the same rings, so that the mean of its vertices is its centre.
EYEBALL_FRONT_RAD = (0.08, 0.163, 0.206, 0.32, 0.429, 0.475, 0.62, 0.85, 1.2)
EYEBALL_RINGS_RAD = (*EYEBALL_FRONT_RAD, np.pi / 2, *(np.pi - a for a in reversed(EYEBALL_FRONT_RAD)))
IRIS_EDGE_RAD = 0.45
EYEBALL_COLUMNS = 24


@dataclasses.dataclass(frozen=True)
class Patch:
    """`points` (rings, columns, 3), innermost ring first. `closed`: the columns go round. `cap`: a vertex that closes
    the innermost ring."""

    points: np.ndarray
    closed: bool
    cap: np.ndarray


def strips(grid: np.ndarray, closed: bool) -> np.ndarray:
    """Triangles (T,3) between the rings of a vertex grid (rings, columns)."""
    if closed:
        grid = np.concatenate([grid, grid[:, :1]], axis=1)
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def fan(ring: np.ndarray, apex: int, closed: bool) -> np.ndarray:
    """Triangles (T,3) from the vertex `apex` to the vertices `ring` (columns,)."""
    after = np.roll(ring, -1) if closed else ring[1:]
    ring = ring if closed else ring[:-1]
    return np.stack([np.full(len(ring), apex), ring, after], axis=1)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _bump(s: np.ndarray, rise: float, fall: float) -> np.ndarray:
    """s^rise (1-s)^fall over [0,1] with its peak scaled to 1."""
    peak = rise / (rise + fall)
    return s**rise * (1 - s) ** fall / (peak**rise * (1 - peak) ** fall)


def lid_depth(x: np.ndarray, y: np.ndarray, thickness: float) -> np.ndarray:
    """Depth z of a lid `thickness` above the eyeball; towards the corners it leaves the ball for the canthi."""
    beside = (x - EYE_CENTER[0]) ** 2 + (y - EYE_CENTER[1]) ** 2
    ball = EYE_CENTER[2] + np.sqrt(np.maximum((EYE_RADIUS_MM + thickness) ** 2 - beside, 0.0))
    way = (x - INNER_CANTHUS[0]) / (OUTER_CANTHUS[0] - INNER_CANTHUS[0])
    line = INNER_CANTHUS[2] + way * (OUTER_CANTHUS[2] - INNER_CANTHUS[2]) - LID_MM + thickness
    return np.logaddexp(ball / 0.8, line / 0.8) * 0.8


def lid_share(way: float) -> float:
    """How far the skin at `way` between rim (0) and orbit (1) is lid, which lies on the eyeball."""
    return 1 - smoothstep((way - 0.15) / 0.5)


def _pocket(rim: np.ndarray) -> list[np.ndarray]:
    """Rings (EYE_COLUMNS,3) of the pocket that encloses the eyeball, from the back to the `rim` (EYE_COLUMNS,2)."""
    beside = rim - EYE_CENTER[:2]
    around = np.arctan2(beside[:, 1], beside[:, 0])
    at_rim = np.arcsin(np.minimum(np.linalg.norm(beside, axis=1) / EYE_RADIUS_MM, 0.97))
    rings = []
    for share in (1.0, 0.5, 0.15):
        tilt = at_rim + share * (POCKET_RAD - at_rim)
        ray = np.stack([np.cos(around) * np.sin(tilt), np.sin(around) * np.sin(tilt), np.cos(tilt)], axis=1)
        rings.append(EYE_CENTER + (EYE_RADIUS_MM + POCKET_GAP_MM) * ray)
    edge = EYE_CENTER[:2] + 0.985 * beside
    return [*rings, np.column_stack([edge, lid_depth(*edge.T, 0.2)])]


def eye() -> Patch:
    """Lids from the pocket behind the eyeball over the rim to the orbit. Column 0 is the outer canthus."""
    turn = 2 * np.pi * np.arange(EYE_COLUMNS) / EYE_COLUMNS
    s, upper = (1 + np.cos(turn)) / 2, np.sin(turn) >= 0
    rim = INNER_CANTHUS[:2] + s[:, None] * (OUTER_CANTHUS - INNER_CANTHUS)[:2]
    rim[:, 1] += np.where(upper, UPPER_LID_MM * _bump(s, 0.72, 0.9), -LOWER_LID_MM * _bump(s, 0.95, 0.72))
    orbit = np.stack([32.0 + 22.5 * np.cos(turn), 35.5 + np.where(upper, 15.0, 13.5) * np.sin(turn)], axis=1)
    rings = _pocket(rim)
    for way in LID_WAYS:
        xy = rim + way * (orbit - rim)
        z = drop(np.column_stack([xy, np.full(EYE_COLUMNS, 94.0)]), 2)[:, 2]
        z += lid_share(way) * (lid_depth(*xy.T, LID_MM) - z)
        crease = 1.1 * upper * np.exp(-(((way - 0.36) / 0.1) ** 2)) * np.sin(turn).clip(0)
        rings.append(np.column_stack([xy, z - crease]))
    return Patch(np.stack(rings), True, EYE_CENTER - [0, 0, EYE_RADIUS_MM + POCKET_GAP_MM])


def mouth_turn() -> np.ndarray:
    """Angle (MOUTH_COLUMNS,) of the mouth's columns: lower middle -pi/2, corner 0, upper middle pi/2."""
    count = MOUTH_COLUMNS // 2
    return np.pi / 2 * np.arange(-count, count + 1) / count


def _lips(turn: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Rings (MOUTH_COLUMNS,3) from the line of contact over the lips and the skin around them to the loop."""
    upper = turn > 0
    contact = np.interp(x, LIP_X, CONTACT_Y) + LIP_GAP_MM / 2 * np.sign(np.round(turn, 9))
    border = np.where(upper, np.interp(x, LIP_X, UPPER_BORDER_Y), np.interp(x, LIP_X, LOWER_BORDER_Y))
    fade = np.sqrt(np.clip(1 - (x / MOUTH_HALF_WIDTH) ** 2, 0, 1))
    near = 114 - 0.02 * x**2
    rings = []
    for way, upper_mm, lower_mm in LIP_RINGS:
        xy = np.stack([x + 1.2 * way * (1 - fade), contact + way * (border - contact)], axis=1)
        swelling = fade * np.where(upper, upper_mm, lower_mm)
        rings.append(drop(np.column_stack([xy, near]), 2) + swelling[:, None] * [0, 0, 1])
    edge = rings[-1][:, :2]
    outline = np.stack([34 * np.cos(turn), -34.5 + np.where(upper, 15.5, 17.0) * np.sin(turn)], axis=1)
    return rings + [drop(np.column_stack([edge + way * (outline - edge), near]), 2) for way in AROUND_LIPS]


def mouth() -> Patch:
    """Lips and the bag behind them, half: column 0 is the lower middle, the last one the upper middle."""
    turn = mouth_turn()
    rings = _lips(turn, MOUTH_HALF_WIDTH * np.cos(turn))
    front, high = rings[0], np.sin(turn)[:, None] * [0, 1, 0]
    bag = [front * [narrow, 1, 1] + spread * high - [0, 0, depth] for depth, spread, narrow in BAG_RINGS]
    points = np.stack(bag + rings)
    points[:, [0, -1], 0] = 0.0
    return Patch(points, False, np.array([0, STOMION_Y, front[0, 2] - BAG_RINGS[0][0] - 4]))


def nostril() -> Patch:
    """A pit in the underside of the nose."""
    turn = 2 * np.pi * np.arange(12) / 12
    middle = np.array([8.0, -7.6, 117.5])
    across, along = np.array([0.9, -0.15, -0.35]), np.array([0.25, 0.45, 0.85])
    rings = []
    for size, depth in ((0.45, 7.0), (0.75, 4.5), (0.95, 1.0), (1.12, 0.0), (1.5, 0.0)):
        oval = middle + size * (3.2 * np.cos(turn)[:, None] * across + 4.0 * np.sin(turn)[:, None] * along)
        rings.append(skin(direction(oval)) + depth * np.array([0, 0.8, -0.6]))
    rings = np.stack(rings)
    return Patch(rings, True, rings[0].mean(0))


def _ear_rings(turn: np.ndarray, hinge: np.ndarray) -> np.ndarray:
    """Rings in the ear's own frame (rings, columns, 3): backwards, up, share of the height above the skin."""
    lobe = np.exp(-(((turn - LOBE_RAD + np.pi) % (2 * np.pi) - np.pi) ** 2) / 0.35)
    width = EAR_HALF[0] * (1 + 0.2 * np.sin(turn) - 0.08 * lobe)
    rings = []
    for share, height in [*EAR_RINGS, (0.95 - 0.3 * hinge, 0.1), (1.22, 0.0)]:
        inside = np.clip(1 - share, 0, 1)
        back = share * width * np.cos(turn) + CONCHA_SHIFT_MM[0] * inside
        up = share * EAR_HALF[1] * np.sin(turn) + CONCHA_SHIFT_MM[1] * inside
        flesh = height + lobe * np.where(np.logical_and(share > 0.5, share < 0.96), 0.9 - height, 0.0)
        tragus = np.exp(-(((turn - TRAGUS_RAD) / 0.4) ** 2) - ((share - 0.72) / 0.16) ** 2)
        rings.append(np.stack([back, up, flesh + TRAGUS_SHARE * tragus], axis=1))
    return np.stack(rings)


def ear() -> Patch:
    """Concha, antihelix, helix, the back of the ear. Column 0 points backwards."""
    turn = 2 * np.pi * np.arange(EAR_COLUMNS) / EAR_COLUMNS
    hinge = (1 + np.cos(turn)) / 2
    back = np.array([0, -np.sin(EAR_TILT_RAD), -np.cos(EAR_TILT_RAD)])
    up = np.array([0, np.cos(EAR_TILT_RAD), -np.sin(EAR_TILT_RAD)])
    own = _ear_rings(turn, hinge)
    on_skin = drop(EAR_CENTER + own[..., :1] * back + own[..., 1:2] * up, 0)
    lift = own[..., 2] * (EAR_HEIGHT_MM[0] + EAR_HEIGHT_MM[1] * hinge**0.8)
    points = on_skin + lift[..., None] * np.array([0.95, 0, 0.15])
    return Patch(points, True, points[0].mean(0))


def eyeball() -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N,3), the pupil first, and triangles of the left eyeball, a sphere that looks along +z."""
    turn = 2 * np.pi * np.arange(EYEBALL_COLUMNS) / EYEBALL_COLUMNS
    tilt = np.array(EYEBALL_RINGS_RAD)[:, None]
    ball = np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt) + 0 * turn], axis=-1)
    grid = 1 + np.arange(ball[..., 0].size).reshape(ball.shape[:2])
    points = np.concatenate([[[0, 0, 1.0]], ball.reshape(-1, 3), [[0, 0, -1.0]]])
    back = fan(grid[-1], grid[-1, -1] + 1, True)[:, ::-1]
    triangles = np.concatenate([fan(grid[0], 0, True), strips(grid, True), back])
    return EYE_CENTER + EYE_RADIUS_MM * points, triangles


def teeth(upper: bool) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of the left half of a row of teeth, a bent bar that is open at the middle."""
    y, z, half_height = (-29.2, 104.5, 5.2) if upper else (-39.2, 102.0, 4.8)
    x = np.linspace(0, 24, 9)
    turn = 2 * np.pi * np.arange(8) / 8
    section = np.stack([0 * turn, half_height * np.sin(turn), 2.5 * np.cos(turn)], axis=1)
    middle = np.stack([x, y + 0 * x, z - 0.05 * x**2], axis=1)
    points = (middle[:, None] + section).reshape(-1, 3)
    grid = np.arange(len(points)).reshape(len(x), len(turn))
    end = fan(grid[-1], len(points), True)[:, ::-1]
    return np.concatenate([points, middle[-1:]]), np.concatenate([strips(grid, True), end])
