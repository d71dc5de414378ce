"""Identity and expression modes of the procedural head: sums of smooth local fields, listed as tables.

A field moves and stretches what lies within a Gaussian window: `Field(center, radii, move, linear, part)`; all in mm.
Sizes follow the spread of adult anthropometry (Farkas 1994) and of facial action units; names are ARKit's.
"""

import dataclasses

import numpy as np

from jaxface.heads import procedural_patches as patches
from jaxface.heads.procedural_mesh import HeadMesh
from jaxface.heads.procedural_patches import smoothstep
from jaxface.heads.procedural_tables import ASYMMETRIC, LEFT_EXPRESSIONS, SYMMETRIC, WHOLE_EXPRESSIONS, Field

FLIP = np.array([-1.0, 1.0, 1.0])
RANDOM_SYMMETRIC, RANDOM_ASYMMETRIC = 6, 3
RANDOM_FIELDS, RANDOM_MM = 14, 0.6
# Modes that shape the lids themselves; in all others the lids go with the eyeball.
LID_MODES = ("eyelid", "canthal")
# How far the rings from the rim's inner edge outwards go with the eyeball.
LID_FOLLOWS = (1.0, 1.0, 1.0, 1.0, 0.95, 0.85, 0.6, 0.3)
JAW_HINGE = np.array([0.0, 6.0, 2.0])
JAW_OPEN_RAD = 0.31
JAW_SIDE_MM = 8.0
JAW_FORWARD_MM = 7.0


def _mirrored(field: Field) -> Field:
    linear = np.array(field.linear, float)
    if linear.ndim == 2:
        linear = linear * np.outer(FLIP, FLIP)
    return dataclasses.replace(field, center=FLIP * field.center, move=FLIP * field.move, linear=linear)


def _evaluate(field: Field, points: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Displacement (V,3) by one field; `lower` (V,) is how far a vertex goes with the jaw."""
    offset = points - np.array(field.center, float)
    weight = np.exp(-0.5 * ((offset / np.array(field.radii)) ** 2).sum(1))
    weight *= {"all": 1.0, "upper": 1.0 - lower, "lower": lower}[field.part]
    linear = np.array(field.linear, float)
    linear = np.diag(linear) if linear.ndim == 1 else linear
    return weight[:, None] * (np.array(field.move, float) + offset @ linear.T)


def _sum(fields, points, lower, odd: bool = False) -> np.ndarray:
    """Displacement (V,3) by fields and, of those beside the middle, their mirror images (negated where `odd`)."""
    total = np.zeros_like(points)
    for field in fields:
        total += _evaluate(field, points, lower)
        if field.center[0] != 0:
            total += (-1 if odd else 1) * _evaluate(_mirrored(field), points, lower)
    return total


def _random_fields(rng: np.random.Generator, points: np.ndarray, asymmetric: bool) -> list[Field]:
    """Broad random fields centred on the front of the head."""
    front = points[(points[:, 2] > 20) & (points[:, 1] > -85) & (points[:, 1] < 110) & (points[:, 0] > 5)]
    fields = []
    for center in front[rng.integers(len(front), size=RANDOM_FIELDS)]:
        center = center * [rng.choice([-1, 1]) if asymmetric else 1, 1, 1]
        move = RANDOM_MM * rng.normal(size=3)
        fields.append(Field(tuple(center), (rng.uniform(18, 40),) * 3, tuple(move)))
    return fields


def _carry_eyes(mesh: HeadMesh, displacement: np.ndarray) -> np.ndarray:
    """`displacement` (V,3) with eyeballs moved and scaled as one body by the mean motion of their rims, lids after."""
    result, eye = displacement.copy(), mesh.grids["eye"]
    for side in (np.arange(len(mesh.points)), mesh.mirror):
        rim, inside = side[eye[patches.RIM_ROW]], side[inside_eye(mesh)]
        middle = mesh.points[rim].mean(0)
        spread = mesh.points[rim] - middle
        scale = (spread * displacement[rim]).sum() / (spread**2).sum()
        body = displacement[rim].mean(0) + scale * (mesh.points - middle)
        result[inside] = body[inside]
        for row, share in zip(eye[patches.RIM_ROW - 1 :], LID_FOLLOWS, strict=False):
            lid = side[row]
            result[lid] += share * (body[lid] - displacement[lid])
    return result


def _slide_lids(mesh: HeadMesh, displacement: np.ndarray) -> np.ndarray:
    """`displacement` (V,3), symmetric, with the eyeballs at rest and the lids sliding over them."""
    result = displacement.copy()
    inside = inside_eye(mesh)
    result[inside] = result[mesh.mirror[inside]] = 0.0
    for lid, way in zip(mesh.grids["eye"][patches.RIM_ROW - 1 :], (0.0, *patches.LID_WAYS), strict=True):
        result[lid, 2] *= 1 - patches.lid_share(way)
        result[lid, 2] += _slide(mesh.points[lid], displacement[lid], way)
        result[mesh.mirror[lid]] = FLIP * result[lid]
    return result


def _slide(points: np.ndarray, move: np.ndarray, way: float) -> np.ndarray:
    """The change of depth (N,) that keeps lid `points` (N,3), moved sideways and up by `move`, on the eyeball."""
    there = points + move
    rest, moved = (patches.lid_depth(p[:, 0], p[:, 1], patches.LID_MM) for p in (points, there))
    return patches.lid_share(way) * (moved - rest)


def inside_eye(mesh: HeadMesh) -> np.ndarray:
    """Vertices of the left eyeball and of the pocket around it, its rim excepted."""
    pocket = mesh.grids["eye"][: patches.RIM_ROW - 1]
    return np.concatenate([mesh.grids["eyeball"], pocket.ravel(), [mesh.caps["eye"]]])


def identity(mesh: HeadMesh) -> tuple[np.ndarray, tuple[str, ...]]:
    """Identity modes (I,V,3) mm per standard deviation, and their names; the last ones are asymmetric."""
    points, lower = mesh.points, jaw_weight(mesh)
    rng = np.random.default_rng(1)
    modes = {name: _sum(fields, points, lower) for name, fields in SYMMETRIC.items()}
    for i in range(RANDOM_SYMMETRIC):
        modes[f"smooth_{i}"] = _sum(_random_fields(rng, points, False), points, lower)
    for name, fields in ASYMMETRIC.items():
        modes[name] = _sum(fields, points, lower, odd=True)
    for i in range(RANDOM_ASYMMETRIC):
        fields = _random_fields(rng, points, True)
        modes[f"asymmetric_smooth_{i}"] = 0.7 * sum(_evaluate(field, points, lower) for field in fields)
    for name, mode in modes.items():
        modes[name] = _slide_lids(mesh, mode) if name.startswith(LID_MODES) else _carry_eyes(mesh, mode)
    return np.stack(list(modes.values())), tuple(modes)


def jaw_weight(mesh: HeadMesh) -> np.ndarray:
    """How far each vertex (V,) goes with the lower jaw: 0 skull, 1 chin; the lips part to an oval."""
    x, y, z = mesh.points.T
    line = np.interp(np.abs(x), patches.LIP_X, patches.CONTACT_Y) + 0.4 * np.maximum(100.0 - z, 0.0)
    blend = 5.0 + 22.0 * smoothstep((np.abs(x) - 10.0) / 20.0) + 0.1 * np.maximum(100.0 - z, 0.0)
    weight = smoothstep(0.5 + (line - y) / (2 * blend))
    weight *= smoothstep(z / 45.0) * (1 - smoothstep((-84.0 - y) / 26.0) * smoothstep((95.0 - z) / 25.0))
    lips = (1 - np.sin(patches.mouth_turn())) / 2
    rows = mesh.grids["mouth"]
    share = np.concatenate([np.zeros(patches.BAG_ROWS + len(patches.LIP_RINGS)), patches.AROUND_LIPS])[:, None]
    weight[rows] = (1 - share) * lips + share * weight[rows]
    weight[mesh.caps["mouth"]] = 0.5
    weight[mesh.grids["upper_teeth"]], weight[mesh.grids["lower_teeth"]] = 0.0, 1.0
    return np.where(x < 0, weight[mesh.mirror], weight)


def _jaw(mesh: HeadMesh) -> dict[str, np.ndarray]:
    weight = jaw_weight(mesh)[:, None]
    c, s = np.cos(JAW_OPEN_RAD), np.sin(JAW_OPEN_RAD)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    offset = mesh.points - JAW_HINGE
    return {
        "jawOpen": weight * (offset @ turn.T - offset),
        "jawForward": weight * [0, 0, JAW_FORWARD_MM],
        "jawLeft": weight * [JAW_SIDE_MM, 0, 0],
        "jawRight": weight * [-JAW_SIDE_MM, 0, 0],
    }


def _blink(mesh: HeadMesh) -> np.ndarray:
    """Closing of the left eye (V,3): both rims meet near the lower lid, the lids slide over the eyeball."""
    displacement = np.zeros_like(mesh.points)
    rows = mesh.grids["eye"][patches.RIM_ROW - 1 :]
    rim = mesh.points[rows[1]]
    partner = rim[-np.arange(patches.EYE_COLUMNS) % patches.EYE_COLUMNS]
    upper = rim[:, 1] >= partner[:, 1]
    meet = np.where(upper, 0.2 * rim[:, 1] + 0.8 * partner[:, 1], 0.8 * rim[:, 1] + 0.2 * partner[:, 1])
    for row, way in zip(rows, (0.0, *patches.LID_WAYS), strict=True):
        fade = 1 - smoothstep(way / 0.62)
        points = mesh.points[row]
        shift = np.zeros_like(points)
        shift[:, 1] = fade * (meet - rim[:, 1])
        shift[:, 2] = _slide(points, shift, way)
        displacement[row] = shift
    return displacement


def expression(mesh: HeadMesh) -> tuple[np.ndarray, tuple[str, ...]]:
    """Expression modes (E,V,3) mm at weight 1, and their ARKit names, those of one side in pairs _L, _R."""
    points, lower = mesh.points, jaw_weight(mesh)
    whole = {name: _sum(fields, points, lower) for name, fields in WHOLE_EXPRESSIONS.items()}
    left = {name: sum(_evaluate(field, points, lower) for field in fields) for name, fields in LEFT_EXPRESSIONS.items()}
    still = np.concatenate([inside_eye(mesh), mesh.grids["upper_teeth"], mesh.grids["lower_teeth"]])
    for shift in [*whole.values(), *left.values()]:
        shift[still] = shift[mesh.mirror[still]] = 0.0
    modes = _jaw(mesh) | whole
    for name, shift in {"eyeBlink": _blink(mesh), **left}.items():
        modes[f"{name}_L"], modes[f"{name}_R"] = shift, shift[mesh.mirror] * FLIP
    return np.stack(list(modes.values())), tuple(modes)
