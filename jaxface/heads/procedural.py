"""The procedural head: a `MorphableHead` written in code, no file needed.

Proportions: see `procedural_surface`; mesh: `procedural_mesh`; modes: `procedural_modes`; colours: `paint`.
"""

import functools

import numpy as np

from jaxface.heads import paint, procedural_landmarks, procedural_mesh, procedural_modes
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural_mesh import HeadMesh, above_hairline
from jaxface.heads.procedural_patches import BAG_ROWS, EYE_RADIUS_MM, IRIS_EDGE_RAD, LIP_RINGS, RIM_ROW, smoothstep

NECK_TOP_MM, NECK_SLOPE = -84.0, 0.55
FACE_Z_MM = 22.0
BROW_REACH_MM = 5.0
# Width of the hairline's soft edge; within it a vertex belongs to both face and scalp.
HAIRLINE_EDGE_MM = 7.0


@functools.lru_cache
def procedural_head() -> MorphableHead:
    """The head: 7.3 k vertices, 64 identity and 40 expression modes, float32; built in about a second, then kept."""
    mesh = procedural_mesh.build()
    regions = _regions(mesh)
    outer = ~(regions["mouth"] | regions["eyeball_L"] | regions["eyeball_R"] | regions["socket"])
    layouts = procedural_landmarks.layouts(mesh, outer)
    points_68 = (mesh.points[layouts["68"][0]] * layouts["68"][1][..., None]).sum(1)
    regions |= _brows(mesh.points, points_68, outer)
    hair = regions["scalp"] * smoothstep(0.5 + above_hairline(mesh.points) / HAIRLINE_EDGE_MM)
    mean, albedo, albedo_names = paint.paint(mesh.points, regions | {"scalp": hair}, points_68)
    identity, identity_names = procedural_modes.identity(mesh)
    expression, expression_names = procedural_modes.expression(mesh)
    return MorphableHead(
        template=mesh.points.astype(np.float32),
        triangles=mesh.triangles.astype(np.int32),
        identity=identity.astype(np.float32),
        expression=expression.astype(np.float32),
        albedo_mean=mean * _shade(mesh),
        albedo=albedo,
        mirror=mesh.mirror.astype(np.int32),
        landmarks=layouts,
        regions=regions,
        name="procedural",
        identity_names=identity_names,
        expression_names=expression_names,
        albedo_names=albedo_names,
    )


def _mark(mesh: HeadMesh, *parts: np.ndarray) -> np.ndarray:
    """Vertices (V,) bool: the given ones of the left half and their mirror images."""
    marked = np.zeros(len(mesh.points), bool)
    for part in parts:
        marked[np.ravel(part)] = True
    return marked | marked[mesh.mirror]


def _eye_regions(mesh: HeadMesh) -> dict[str, np.ndarray]:
    left = np.zeros(len(mesh.points), bool)
    left[mesh.grids["eyeball"]] = True
    iris = left & (mesh.points[:, 2] > mesh.points[left, 2].max() - EYE_RADIUS_MM * (1 - np.cos(IRIS_EDGE_RAD)))
    return {
        "eyeball_L": left,
        "eyeball_R": left[mesh.mirror],
        "iris_L": iris,
        "iris_R": iris[mesh.mirror],
        "lids": _mark(mesh, mesh.grids["eye"][RIM_ROW : RIM_ROW + 5]),
        "socket": _mark(mesh, mesh.grids["eye"][: RIM_ROW - 1], mesh.caps["eye"]),
    }


def _regions(mesh: HeadMesh) -> dict[str, np.ndarray]:
    x, y, z = mesh.points.T
    mouth, ear = mesh.grids["mouth"], mesh.grids["ear"]
    teeth = _mark(mesh, mesh.grids["upper_teeth"], mesh.grids["lower_teeth"])
    regions = _eye_regions(mesh) | {
        "teeth": teeth,
        "mouth": teeth | _mark(mesh, mouth[:BAG_ROWS], mesh.caps["mouth"]),
        "lips": _mark(mesh, mouth[BAG_ROWS : BAG_ROWS + len(LIP_RINGS)]),
        "ears": _mark(mesh, ear[:-1], mesh.caps["ear"]),
        "nostrils": _mark(mesh, mesh.grids["nostril"][:-2], mesh.caps["nostril"]),
        "transparent": np.zeros(len(x), bool),
    }
    inside = regions["mouth"] | regions["socket"] | regions["eyeball_L"] | regions["eyeball_R"]
    skin = ~(inside | regions["ears"])
    regions["neck"] = skin & (y < NECK_TOP_MM + NECK_SLOPE * np.maximum(0, 60 - z))
    above = above_hairline(mesh.points)
    regions["scalp"] = skin & ~regions["neck"] & (above > -HAIRLINE_EDGE_MM / 2)
    regions["face"] = skin & ~regions["neck"] & (above < HAIRLINE_EDGE_MM / 2) & (z > FACE_Z_MM)
    return regions


def _brows(points: np.ndarray, points_68: np.ndarray, outer: np.ndarray) -> dict[str, np.ndarray]:
    lines = {"brows_R": points_68[17:22], "brows_L": points_68[22:27]}
    return {name: outer & (paint.distance_to_polyline(points, line) < BROW_REACH_MM) for name, line in lines.items()}


def _shade(mesh: HeadMesh) -> np.ndarray:
    """Factor (V,3) on the albedo: lashes, lid rims, and dark nostrils and mouth, since nothing here casts shadows."""
    eye, mouth, nostril = (mesh.grids[name] for name in ("eye", "mouth", "nostril"))
    upper = slice(1, eye.shape[1] // 2)
    factor = np.ones((len(mesh.points), 3), np.float32)
    for color, *parts in (
        ((0.95, 0.72, 0.70), eye[:RIM_ROW]),
        ((0.85, 0.70, 0.66), eye[RIM_ROW]),
        ((0.30, 0.27, 0.26), eye[RIM_ROW, upper]),
        ((0.35, 0.28, 0.26), nostril[2]),
        ((0.15, 0.10, 0.09), nostril[:2], mesh.caps["nostril"]),
        ((0.35, 0.35, 0.35), mouth[: BAG_ROWS - 1], mesh.caps["mouth"]),
    ):
        for part in parts:
            factor[_mark(mesh, part)] = color
    return factor
