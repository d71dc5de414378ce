"""Landmark layouts: numbers of points, flip maps, eye corners, and the conversion from 98 to 68 points.

Sources: iBUG 300-W (68), WFLW (98), COFW (29), AFLW (19), LaPa (106). Flip maps, eye corners and the 98 -> 68 rule are
those of the PIPNet repository.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of K points.

    Attributes:
        name: name of the layout.
        flip: (K,) int; point i of a mirrored image is point flip[i] of the original.
        eye_corners: indices of the outer corners of the image-left and image-right eye; None for AFLW, whose errors are
            normalised by box size.
        five: for the image-left eye, image-right eye, nose tip, image-left and image-right mouth corner, the points
            whose mean it is.
    """

    name: str
    flip: np.ndarray
    eye_corners: tuple[int, int] | None
    five: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """K, the number of points."""
        return len(self.flip)

    def five_points(self, points: np.ndarray) -> np.ndarray:
        """Eyes, nose tip and mouth corners (...,5,D) of points (...,K,D)."""
        return np.stack([points[..., list(group), :].mean(-2) for group in self.five], axis=-2)


def _flip(count: int, reversed_runs: list[tuple[int, int]], swapped: list[tuple[int, int]]) -> np.ndarray:
    """The flip map of `count` points: runs [first, last] are reversed, pairs swapped, others stay in place."""
    flip = np.arange(count)
    for first, last in reversed_runs:
        flip[first : last + 1] = np.arange(last, first - 1, -1)
    for a, b in swapped:
        flip[a], flip[b] = b, a
    return flip


def _pairs(first: range, second: range) -> list[tuple[int, int]]:
    return list(zip(first, second, strict=True))


LAYOUT_68 = Layout(
    "68",
    _flip(
        68,
        [(0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67)],
        [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)],
    ),
    (36, 45),
    (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,)),
)

LAYOUT_98 = Layout(
    "98",
    _flip(
        98,
        [(0, 32), (55, 59), (76, 82), (83, 87), (88, 92), (93, 95)],
        _pairs(range(33, 38), range(46, 41, -1))
        + _pairs(range(38, 42), range(50, 46, -1))
        + _pairs(range(60, 65), range(72, 67, -1))
        + [(65, 75), (66, 74), (67, 73), (96, 97)],
    ),
    (60, 72),
    (tuple(range(60, 68)), tuple(range(68, 76)), (54,), (76,), (82,)),
)

LAYOUT_29 = Layout(
    "29",
    _flip(
        29,
        [],
        [(0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)],
    ),
    (8, 9),
    ((16,), (17,), (20,), (22,), (23,)),
)

LAYOUT_19 = Layout(
    "19",
    _flip(19, [(0, 5), (6, 11), (12, 14), (15, 17)], []),
    None,
    ((7,), (10,), (13,), (15,), (17,)),
)

LAYOUT_106 = Layout(
    "106",
    _flip(
        106,
        [(0, 32), (55, 65), (84, 90), (91, 95), (96, 100), (101, 103)],
        _pairs(range(33, 38), range(46, 41, -1))
        + _pairs(range(38, 42), range(50, 46, -1))
        + _pairs(range(66, 71), range(79, 74, -1))
        + _pairs(range(71, 74), range(82, 79, -1))
        + [(74, 83), (104, 105)],
    ),
    (66, 79),
    ((104,), (105,), (54,), (84,), (90,)),
)

LAYOUTS = {layout.name: layout for layout in (LAYOUT_68, LAYOUT_98, LAYOUT_29, LAYOUT_19, LAYOUT_106)}


# Weighted means of two points of WFLW's eye, offsets from its first point: (2 a + b) / 3 for each point of iBUG's eye.
EYE_PAIRS = ((0, 0), (1, 2), (3, 2), (4, 4), (5, 6), (7, 6))


def wflw_to_ibug(points: np.ndarray) -> np.ndarray:
    """68 points (...,68,2) from 98 points (...,98,2), by PIPNet's rule.

    Every second point of the jaw; brows have x of the upper line and the mean y of both lines; two points of each lid
    are moved by a third; nose and mouth are unchanged.
    """
    parts = [
        points[..., 0:33:2, :],
        points[..., 33:34, :],
        _brow(points, range(34, 38), range(41, 37, -1)),
        _brow(points, range(42, 46), range(50, 46, -1)),
        points[..., 46:47, :],
        points[..., 51:60, :],
        _eye(points, 60),
        _eye(points, 68),
        points[..., 76:96, :],
    ]
    return np.concatenate(parts, axis=-2)


def _brow(points: np.ndarray, upper: range, lower: range) -> np.ndarray:
    top, bottom = points[..., list(upper), :], points[..., list(lower), :]
    return np.stack([top[..., 0], (top[..., 1] + bottom[..., 1]) / 2], axis=-1)


def _eye(points: np.ndarray, first: int) -> np.ndarray:
    mixed = [(2 * points[..., first + a, :] + points[..., first + b, :]) / 3 for a, b in EYE_PAIRS]
    return np.stack(mixed, axis=-2)
