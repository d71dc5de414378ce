"""Coordinate space of neural head models: unit, origin, 39 anchors, and the identities and expressions generated in it.

One unit is 250 mm (NPHM: FLAME's metres times 4), x to the subject's left, y up, z out of the face. The origin is close
to FLAME's, so that the bounding boxes of the official code (Giebenhain et al., CVPR 2023) contain our heads as well.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxface.heads import face_units
from jaxface.heads.closed import ClosedHead, skin_vertices
from jaxface.heads.morphable import MorphableHead

MM_PER_UNIT = 250.0
# FLAME's origin lies behind the nasion, about 5 cm in front of the midpoint between the ears.
ORIGIN_MM = np.array([0.0, 0.0, 50.0], np.float32)

# Jaw opening of neutral scans: the lips are apart, so that they are separate surfaces.
NEUTRAL_JAW = 0.3
# Expected share of active expression modes, and upper limit on the sum of their weights.
ACTIVE_SHARE, MAX_WEIGHT_SUM = 0.12, 3.0

# Anchors: iBUG landmarks, midpoints of two of them, or directions "azimuth elevation" in degrees seen from `CENTER_MM`
# (azimuth towards the subject's left). `PAIRS` lists the subject's right ones; `MIDDLE` lie on the plane of symmetry.
CENTER_MM = np.array([0.0, 0.0, 15.0])
PAIRS = {
    "eye_outer": (36,), "eye_inner": (39,), "brow_outer": (17,), "brow_inner": (21,), "mouth_corner": (48,),
    "nostril": (31,), "cheekbone": (40, 3), "cheek": (48, 4), "chin_side": (6,), "jaw_angle": (3,),
    "forehead_side": "-30 45", "temple": "-62 32", "ear": "-97 0", "crown_side": "-115 48", "occiput": "-152 8",
    "neck_side": "-80 -58",
}  # fmt: skip
MIDDLE = {
    "chin": (8,), "lower_lip": (57,), "upper_lip": (51,), "nose_tip": (30,), "nose_bridge": (27,),
    "forehead": "0 52", "crown": "180 75",
}  # fmt: skip
ANCHORS = tuple(f"{name}_{side}" for name in PAIRS for side in "RL") + tuple(MIDDLE)
# Mask (39,) of the anchors on the face and the ears.
ON_FACE = np.array([not name.startswith(("crown", "occiput", "neck")) for name in ANCHORS])


def to_units(points_mm: np.ndarray) -> np.ndarray:
    """Converts points (…,3) from head-frame millimetres to head-space units."""
    return ((points_mm - ORIGIN_MM) / MM_PER_UNIT).astype(np.float32)


def to_mm(points: np.ndarray) -> np.ndarray:
    """Converts points (…,3) from head-space units to head-frame millimetres."""
    return (points * MM_PER_UNIT + ORIGIN_MM).astype(np.float32)


def anchor_vertices(head: MorphableHead) -> np.ndarray:
    """Anchor vertices (39,) int32 of `head`, in the order of `ANCHORS`.

    Anchors 2i and 2i+1, i < 16, are mirror images (the even one on the subject's right); the last 7 lie on the plane of
    symmetry.
    """
    template = np.asarray(head.template)
    skin = np.flatnonzero(skin_vertices(head))
    points_68 = head.landmark_points(template, "68")
    directions = template[skin] - CENTER_MM
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def vertex(place: tuple | str, allowed: np.ndarray) -> int:
        """The skin vertex of the mask `allowed` (V,) that is closest to an entry of PAIRS or MIDDLE."""
        if isinstance(place, str):
            azimuth, elevation = np.deg2rad([float(part) for part in place.split()])
            level = np.cos(elevation)
            direction = np.array([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)])
            score = directions @ direction
        else:
            score = -np.linalg.norm(template[skin] - points_68[list(place)].mean(0), axis=1)
        return int(skin[np.where(allowed[skin], score, -np.inf).argmax()])

    mirror, everywhere = np.asarray(head.mirror), np.ones(len(template), bool)
    middle = mirror == np.arange(len(template))
    right = [vertex(place, everywhere) for place in PAIRS.values()]
    pairs = np.stack([right, mirror[right]], axis=1).ravel()
    return np.concatenate([pairs, [vertex(place, middle) for place in MIDDLE.values()]]).astype(np.int32)


def identity(head: MorphableHead, seed: int, subject: int) -> np.ndarray:
    """Standard normal identity coefficients (I,) float32, a pure function of (seed, subject)."""
    return np.random.default_rng((seed, subject)).standard_normal(len(head.identity_names)).astype(np.float32)


def neutral(head: MorphableHead) -> np.ndarray:
    """Expression weights (E,) of the neutral scan of every identity: at rest with the lips apart."""
    return head.expression_weights(jawOpen=NEUTRAL_JAW)


def expression(head: MorphableHead, seed: int, subject: int, number: int) -> np.ndarray:
    """Expression weights (E,) float32 of a subject, sparse and mostly symmetric; number 0 is `neutral`."""
    if number == 0:
        return neutral(head)
    names = head.expression_names
    rng = np.random.default_rng((seed, subject, number))
    weights = rng.random(len(names)) * (rng.random(len(names)) < ACTIVE_SHARE)
    if rng.random() < 0.7:
        weights = weights[[names.index(f"{n[:-1]}L") if n.endswith("_R") else i for i, n in enumerate(names)]]
    weights /= max(1.0, weights.sum() / MAX_WEIGHT_SUM)
    jaw = names.index("jawOpen")
    weights[jaw] = max(weights[jaw], rng.random() * (rng.random() < 0.5))
    person = identity(head, seed, subject)
    return np.asarray(face_units.compatible(jnp.asarray(weights, jnp.float32), head, person))


def scans(closed: ClosedHead, seed: int, subject: int, numbers: Sequence[int]) -> list[np.ndarray]:
    """Vertices (W,3) float32, in head-space units, of a subject's closed surface in the expressions `numbers`."""
    head = closed.head
    person = np.asarray(head.template) + np.tensordot(identity(head, seed, subject), head.identity, 1)
    surfaces = []
    for number in numbers:
        weights = expression(head, seed, subject, number)
        active = np.flatnonzero(weights)
        posed = person + np.tensordot(weights[active], np.asarray(head.expression)[active], 1)
        surfaces.append(to_units(closed.surface(posed)))
    return surfaces


def anchors(head: MorphableHead, seed: int, subjects: Sequence[int]) -> np.ndarray:
    """Anchors (P,39,3) float32, in head-space units, of the neutral scans of P subjects."""
    vertices = anchor_vertices(head)
    coefficients = np.stack([identity(head, seed, subject) for subject in subjects])
    moved = np.tensordot(coefficients, np.asarray(head.identity)[:, vertices], 1)
    resting = np.tensordot(neutral(head), np.asarray(head.expression)[:, vertices], 1)
    return to_units(np.asarray(head.template)[vertices] + resting + moved)
