"""Procedural vertex albedo of skin, brows, lips, eyes and hair, with the same modes for every head.

Colours are sRGB in [0,1]; masks are soft, (V,) in [0,1]; distances are millimetres.
"""

from collections.abc import Mapping

import numpy as np

SKIN = np.array([0.78, 0.60, 0.51])
BROW = np.array([0.26, 0.19, 0.15])
LIP = np.array([0.70, 0.40, 0.38])
SCLERA = np.array([0.86, 0.83, 0.81])
IRIS = np.array([0.33, 0.27, 0.20])
PUPIL = np.array([0.03, 0.03, 0.03])
MOUTH = np.array([0.36, 0.14, 0.13])
TEETH = np.array([0.87, 0.84, 0.76])
HAIR = np.array([0.27, 0.20, 0.15])

IRIS_RADIUS_MM = 5.9
PUPIL_RADIUS_MM = 2.3
BROW_HALF_WIDTH_MM = 4.5

ALBEDO_NAMES = (
    "skin_lightness",
    "skin_warmth",
    "brow_darkness",
    "hair_lightness",
    "lip_redness",
    "lip_lightness",
    "iris_lightness",
    "iris_blue",
    "cheek_redness",
    "beard",
)


def _smoothstep(distance: np.ndarray, radius: float, edge: float) -> np.ndarray:
    """Smoothstep: 1 within `radius`, 0 beyond `radius + edge`."""
    t = np.clip((radius + edge - distance) / edge, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def distance_to_polyline(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance (V,) of `points` (V,D) to the segments between consecutive points of `line` (L,D)."""
    start, end = line[:-1], line[1:]
    along = end - start
    offset = points[:, None] - start
    t = np.clip((offset * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-12), 0.0, 1.0)
    return np.linalg.norm(offset - t[..., None] * along, axis=-1).min(axis=1)


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Point-in-polygon test by the even-odd rule: (V,) bool for `points` (V,2) and a closed `polygon` (L,2)."""
    x, y = points[:, 0, None], points[:, 1, None]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    crosses = (y0 > y) != (y1 > y)
    slope = (x1 - x0) / np.where(y1 == y0, 1.0, y1 - y0)
    return (crosses & (x < x0 + (y - y0) * slope)).sum(axis=1) % 2 == 1


def lip_mask(template: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Mask (V,) bool of the vermilion: inside the outer lip line in front view, not deeper than its corners."""
    outer = landmarks[48:60]
    deepest = min(landmarks[48, 2], landmarks[54, 2]) - 4.0
    return inside_polygon(template[:, :2], outer[:, :2]) & (template[:, 2] > deepest)


def _skin_masks(template: np.ndarray, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    brows = np.minimum(
        distance_to_polyline(template, landmarks[17:22]), distance_to_polyline(template, landmarks[22:27])
    )
    cheeks = np.stack([(landmarks[36] + landmarks[48]) / 2, (landmarks[45] + landmarks[54]) / 2])
    cheek_distance = np.linalg.norm(template[:, None, :2] - cheeks[:, :2], axis=-1).min(axis=1)
    jaw = distance_to_polyline(template, landmarks[3:14])
    moustache = distance_to_polyline(template, landmarks[48:55])
    below_nose = template[:, 1] < landmarks[33, 1]
    return {
        "brows": _smoothstep(brows, BROW_HALF_WIDTH_MM - 1.5, 3.0),
        "cheeks": np.exp(-((cheek_distance / 18.0) ** 2)) * (template[:, 2] > cheeks[:, 2].min() - 40.0),
        "beard": np.maximum(_smoothstep(jaw, 22.0, 14.0), _smoothstep(moustache, 12.0, 8.0)) * below_nose,
    }


def _eye_masks(template: np.ndarray, eyeball: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(iris mask (V,), pupil mask (V,)) of one eyeball that looks along +z."""
    center = (template[eyeball].max(0) + template[eyeball].min(0)) / 2
    offset = template - center
    front = eyeball & (offset[:, 2] > 0)
    from_axis = np.linalg.norm(offset[:, :2], axis=1)
    return _smoothstep(from_axis, IRIS_RADIUS_MM, 0.6) * front, _smoothstep(from_axis, PUPIL_RADIUS_MM, 0.6) * front


def _mix(base: np.ndarray, color: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return base + mask[:, None] * (color - base)


def paint(
    template: np.ndarray, regions: Mapping[str, np.ndarray], landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Paints a head.

    Args:
        template: (V,3) mm.
        regions: masks (V,); scalp, lips, mouth, eyeball_L, eyeball_R and, if present, teeth are used.
        landmarks: (68,3) mm.

    Returns:
        (mean (V,3) float32, modes (10,V,3) float32 per standard deviation, mode names).
    """
    masks = _skin_masks(template, landmarks)
    eyeballs = regions["eyeball_L"] | regions["eyeball_R"]
    left, right = (_eye_masks(template, regions[f"eyeball_{side}"]) for side in "LR")
    iris, pupil = left[0] + right[0], left[1] + right[1]
    mouth = regions["mouth"].astype(float)
    lips = regions["lips"].astype(float) * (1 - mouth)
    skin = 1.0 - np.maximum(mouth, eyeballs)
    hair = regions["scalp"] * skin
    brows, beard, cheeks = (masks[name] * skin * (1 - lips) for name in ("brows", "beard", "cheeks"))

    mean = np.tile(SKIN, (len(template), 1))
    layers = [(LIP, lips), (BROW, 0.8 * brows), (HAIR, hair), (MOUTH, mouth)]
    layers += [(TEETH, regions.get("teeth", np.zeros(len(template))))]
    layers += [(SCLERA, eyeballs.astype(float)), (IRIS, iris), (PUPIL, pupil)]
    for color, mask in layers:
        mean = _mix(mean, color, mask)

    bare = skin * (1 - hair)
    modes = [
        bare[:, None] * [0.13, 0.14, 0.14],
        bare[:, None] * [0.03, 0.0, -0.04],
        brows[:, None] * [-0.14, -0.12, -0.10],
        hair[:, None] * [0.20, 0.17, 0.13],
        lips[:, None] * [0.05, -0.06, -0.05],
        lips[:, None] * [0.09, 0.08, 0.08],
        (iris * (1 - pupil))[:, None] * [0.12, 0.12, 0.12],
        (iris * (1 - pupil))[:, None] * [-0.10, 0.03, 0.14],
        (cheeks * (1 - brows))[:, None] * [0.03, -0.015, -0.015],
        beard[:, None] * [-0.12, -0.11, -0.09],
    ]
    return mean.astype(np.float32), np.stack(modes).astype(np.float32), ALBEDO_NAMES
