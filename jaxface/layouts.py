"""Landmark layouts: how many points, which is which after mirroring, where the eyes are, and conversions.

Sources: iBUG 300-W (68), WFLW (98), COFW (29), AFLW (19), LaPa (106); flip maps, eye corners and the 98 -> 68 rule as
in the PIPNet repository.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of K points. `flip` (K,) int: point i of a mirrored picture was point flip[i].

    `eye_corners`: outer corners, image left and right; None for AFLW, whose errors are given in box sizes. `five`: the
    points whose means are image-left eye, image-right eye, nose tip, image-left and image-right mouth corner.
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
        """Eyes, nose tip and mouth corners (…,5,D) of points (…,K,D)."""
        return np.stack([points[..., list(group), :].mean(-2) for group in self.five], axis=-2)


def _flip(count: int, reversed_runs: list[tuple[int, int]], swapped: list[tuple[int, int]]) -> np.ndarray:
    """Flip map of `count` points: runs [first, last] reverse in place, pairs swap, the rest stay."""
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


def wflw_to_ibug(points: np.ndarray) -> np.ndarray:
    """68 points (…,68,2) of 98 points (…,98,2), by PIPNet's rule.

    Every second jaw point; brows are the upper line with y averaged over both lines; two points of each eye are
    moved a third of the way; nose and mouth are taken as they are.
    """
    p = points

    def brow(upper: range, lower: range) -> np.ndarray:
        top, bottom = p[..., list(upper), :], p[..., list(lower), :]
        return np.stack([top[..., 0], (top[..., 1] + bottom[..., 1]) / 2], axis=-1)

    def eye(first: int) -> np.ndarray:
        mixed = [(0, 0), (1, 2), (3, 2), (4, 4), (5, 6), (7, 6)]
        return np.stack([(2 * p[..., first + a, :] + p[..., first + b, :]) / 3 for a, b in mixed], axis=-2)

    return np.concatenate(
        [
            p[..., 0:33:2, :],
            p[..., 33:34, :],
            brow(range(34, 38), range(41, 37, -1)),
            brow(range(42, 46), range(50, 46, -1)),
            p[..., 46:47, :],
            p[..., 51:60, :],
            eye(60),
            eye(68),
            p[..., 76:96, :],
        ],
        axis=-2,
    )
