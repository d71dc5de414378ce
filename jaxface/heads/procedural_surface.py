"""The smooth skin of the procedural head: a star-shaped surface through anthropometric control points.

Frame and unit are those of `MorphableHead`. The controls are whole millimetres, chosen for an adult of average
proportions (Farkas, "Anthropometry of the Head and Face", 1994: bizygomatic width 137, nasion to gnathion 120, head
length 190); many depths between those measures are rounded readings off the mean face of ICT-FaceKit (MIT licence,
Copyright (c) 2020 USC Institute for Creative Technologies; Li et al., CVPR 2020). Eyes, lips, nostrils and ears are laid
into this skin by `procedural_mesh`.
"""

import functools

import numpy as np
import scipy.interpolate

# The surface is a distance from here, one for every direction: above the nose so that its underside is seen too.
CENTER = np.array([0.0, 25.0, 10.0])
NECK_BASE_MM = -160.0
SMOOTHING = 2e-6

# Front of the head: height y -> pairs (x, z).
FRONT = {
    146: ((0, 2),),
    140: ((0, 42), (22, 28)),
    127: ((0, 67), (24, 59), (45, 25)),
    104: ((0, 92), (24, 87), (46, 68), (64, 30)),
    82: ((0, 102), (24, 98), (46, 84), (60, 64), (69, 42)),
    66: ((0, 107), (14, 106), (38, 98), (52, 84)),
    58: ((0, 109), (12, 109), (24, 106), (38, 101), (50, 91), (60, 74), (70, 47)),
    49: ((0, 108), (8, 106), (14, 103), (24, 101), (38, 98), (49, 92)),
    40: ((0, 107), (6, 104), (12, 98), (18, 95), (31, 95), (44, 90), (52, 84), (61, 73), (71, 48)),
    32: ((0, 111), (6, 107), (11, 99), (16, 94), (31, 94), (44, 89), (54, 81), (65, 63)),
    24: ((0, 117), (6, 113), (12, 103), (19, 96), (31, 94), (46, 89), (60, 75), (70, 53)),
    14: ((0, 124), (6, 121), (11, 111), (17, 102), (26, 98), (38, 95), (54, 86), (66, 67)),
    6: ((0, 130), (6, 128), (11, 120), (15, 109), (20, 102), (30, 99), (46, 93), (60, 79), (69, 52)),
    -2: ((0, 131), (6, 129), (11, 123), (16, 112), (19, 104), (26, 101)),
    -7: ((0, 126), (6, 123), (11, 118), (15, 110), (20, 103)),
    -11: ((0, 118), (7, 115), (13, 110), (20, 104), (30, 101), (46, 92), (60, 74), (67, 45)),
    -18: ((0, 114), (5, 115), (12, 111), (24, 104), (38, 96), (54, 81), (64, 58)),
    -26: ((0, 116), (6, 116), (12, 113), (24, 104), (38, 95)),
    -34: ((0, 114), (12, 111), (24, 103), (38, 95), (54, 76), (62, 53)),
    -43: ((0, 113), (12, 110), (24, 102), (37, 93)),
    -49: ((0, 110), (12, 108), (24, 102), (38, 90), (50, 74), (59, 49)),
    -62: ((0, 112), (12, 109), (24, 99), (38, 83), (45, 71), (53, 49)),
    -73: ((0, 109), (12, 106), (24, 93), (34, 77), (46, 52)),
    -80: ((0, 100), (12, 96), (22, 83)),
    -84: ((0, 86), (14, 80), (26, 62)),
}
# Sides, back, the underside of the jaw and the neck: height y -> pairs (z, x).
SIDE = {
    138: ((-38, 0), (0, 38)),
    122: ((-62, 0), (-40, 45), (0, 58), (42, 46)),
    98: ((-79, 0), (-66, 40), (-30, 69), (6, 73), (52, 61)),
    60: ((-88, 0), (-78, 36), (-54, 64), (-18, 77), (18, 77)),
    24: ((-82, 0), (-74, 32), (-52, 58), (-18, 74), (18, 75), (42, 73)),
    -12: ((-70, 0), (-56, 34), (-30, 58), (-4, 67), (26, 71)),
    -36: ((-61, 0), (-52, 24), (-30, 48), (-4, 59), (20, 64), (40, 64)),
    -56: ((-59, 0), (-50, 26), (-20, 52), (10, 57), (32, 57)),
    -72: ((-58, 0), (-46, 32), (-16, 53), (14, 53), (34, 46)),
    -88: ((60, 0), (54, 17), (40, 33), (14, 50), (-16, 54), (-46, 36), (-59, 0)),
    -110: ((50, 0), (44, 18), (28, 38), (0, 53), (-30, 51), (-52, 34), (-64, 0)),
    -140: ((40, 0), (35, 20), (18, 42), (-8, 55), (-36, 52), (-60, 32), (-68, 0)),
    -175: ((38, 0), (32, 22), (14, 45), (-12, 57), (-42, 53), (-66, 32), (-74, 0)),
    -200: ((10, 0), (-15, 0), (-15, 35)),
}
# Small forms on top: center, radii of the Gaussian, displacement (mm).
FORMS = (
    ((15.0, -4.8, 110.0), (3.8, 4.2, 5.0), (1.1, -0.3, 0.9)),  # wing of the nose
    ((14.0, 3.5, 112.0), (3.0, 2.6, 5.0), (-0.7, 0.0, -0.7)),  # groove above it
    ((20.0, -3.0, 103.5), (2.2, 4.5, 5.0), (-0.2, 0.0, -0.9)),  # groove behind it
    ((0.0, 2.0, 131.0), (5.0, 4.0, 4.0), (0.0, 0.0, 0.8)),  # tip
    ((0.0, -17.5, 115.0), (2.0, 4.0, 5.0), (0.0, 0.0, -0.9)),  # philtrum
    ((3.8, -18.5, 115.0), (1.5, 4.0, 5.0), (0.0, 0.0, 0.5)),  # its edges
    ((25.0, -14.0, 103.0), (3.0, 7.0, 8.0), (0.0, 0.0, -0.6)),  # fold from nose to mouth
    ((12.0, 48.5, 104.0), (6.0, 4.0, 8.0), (0.0, 0.0, -0.6)),  # inner corner of the orbit
)


def controls() -> np.ndarray:
    """The control points (N,3) mm of both halves."""
    front = [(x, y, z) for y, row in FRONT.items() for x, z in row]
    side = [(x, y, z) for y, row in SIDE.items() for z, x in row]
    half = np.array(front + side, float)
    return np.concatenate([half, half[half[:, 0] > 0] * [-1, 1, 1]])


@functools.lru_cache
def _radius():
    offset = controls() - CENTER
    radius = np.linalg.norm(offset, axis=1)
    return scipy.interpolate.RBFInterpolator(
        offset / radius[:, None], radius, kernel="thin_plate_spline", smoothing=SMOOTHING
    )


def skin(directions: np.ndarray) -> np.ndarray:
    """Points (N,3) of the skin in unit `directions` (N,3) from the centre; the neck is cut off flat."""
    below = np.minimum(directions[:, 1], -1e-3)
    # Rounded, so that the last bits of a linear solver decide nothing about the mesh.
    radius = np.minimum(_radius()(directions).round(6), (NECK_BASE_MM - CENTER[1]) / below)
    points = CENTER + radius[:, None] * directions
    near = points[:, 2] > 90
    points[near] += _forms(points[near])
    return points


def _forms(points: np.ndarray) -> np.ndarray:
    total = np.zeros_like(points)
    for center, radii, move in FORMS:
        for sign in (1, -1) if center[0] else (1,):
            offset = (points - np.array(center) * [sign, 1, 1]) / np.array(radii)
            total += np.exp(-0.5 * (offset**2).sum(1))[:, None] * np.array(move) * [sign, 1, 1]
    return total


def direction(points: np.ndarray) -> np.ndarray:
    """Unit directions (…,3) of `points` (…,3) from the centre."""
    offset = points - CENTER
    return offset / np.linalg.norm(offset, axis=-1, keepdims=True)


def drop(points: np.ndarray, axis: int, rounds: int = 8) -> np.ndarray:
    """`points` (…,3) moved along one axis onto the skin, starting from a guess near it."""
    points = np.array(points, float)
    flat = points.reshape(-1, 3)
    for _ in range(rounds):
        flat[:, axis] = skin(direction(flat))[:, axis]
    return flat.reshape(points.shape)


def drop_to_edge(ring: np.ndarray, rounds: int = 20) -> np.ndarray:
    """`ring` (N,3) in the plane of the neck's cut, moved inwards or outwards onto its edge."""
    ring = np.array(ring, float)
    for _ in range(rounds):
        offset = ring - CENTER
        radius = np.linalg.norm(offset, axis=1)
        ratio = _radius()(offset / radius[:, None]) / radius
        ring[:, [0, 2]] = CENTER[[0, 2]] + ratio[:, None] * offset[:, [0, 2]]
    return ring
