"""A head's surface spread out on a texture, and the photograph painted onto it.

The surface is seen from an axis inside the head: angle and elevation become u and v, wider where the face is. What lies
hidden behind something else in that view (the mouth, eyeballs behind lids) goes to a strip of its own below.
"""

import dataclasses

import cv2
import numpy as np
import scipy.ndimage

from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.rendering.render_overlay import View

SIDE = 1024
# How far the axis stands behind the foremost point, and how much denser the front is than the back.
AXIS_DM = 1.15
FRONT = 0.6
STRIP, GAP = 0.14, 0.02
# The cosine to the line of sight from which a surface starts to show the photograph, and where it shows it alone.
GRAZING, FACING = 0.15, 0.45
HIDDEN_DM = 0.04
SUBPIXEL_BITS = 4
MOST_ROWS = 32000


@dataclasses.dataclass(frozen=True)
class Atlas:
    """A head cut open along seams. V' >= V vertices, T triangles, M texels that show something.

    vertex (V',): the head's vertex that each one is; triangles (T,3) int32 into V'; uv (V',2) in [0,1], v upwards;
    corners (M,3) into V and weights (M,3): what each of the M texels shows; source (SIDE,SIDE): which of the M texels
    gives a texel its colour, the nearest one where it shows nothing itself.
    """

    vertex: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    source: np.ndarray


def unwrap(face: FaceModel) -> Atlas:
    """The atlas of a face's mean shape."""
    triangles = np.asarray(face.triangles)
    angle, elevation, radius = _seen_from_inside(np.asarray(face.mean, np.float64))
    corners = angle[triangles]
    # Triangles across the back have both ends of the angle: their left corners go round once more.
    around = (np.ptp(corners, axis=1) > np.pi)[:, None] & (corners < 0)
    uv = _chart(corners + 2 * np.pi * around, elevation[triangles])
    strip = _hidden(uv, radius[triangles].mean(1))[:, None]
    uv[..., 1] = np.where(strip, STRIP * uv[..., 1], STRIP + GAP + (1 - STRIP - GAP) * uv[..., 1])
    kind = 2 * around + strip
    _, first, index = np.unique(4 * triangles.ravel() + kind.ravel(), return_index=True, return_inverse=True)
    return Atlas(
        triangles.ravel()[first].astype(np.int32),
        index.reshape(triangles.shape).astype(np.int32),
        uv.reshape(-1, 2)[first].astype(np.float32),
        *_texels(_painted(uv, radius[triangles].mean(1)), triangles, _places(uv)),
    )


def _texels(shown: np.ndarray, triangles: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`corners`, `weights` and `source` of the triangle (SIDE,SIDE) that each texel shows, or -1; places (T,3,2)."""
    row, column = np.nonzero(shown >= 0)
    which = shown[row, column]
    a, b, c = np.moveaxis(places[which], 1, 0)
    texel = np.stack([column, row], -1)
    total = _area(a, b, c)
    weights = np.stack([_area(texel, b, c), _area(a, texel, c), _area(a, b, texel)], -1)
    weights = np.clip(weights / np.where(total == 0, 1, total)[:, None], 0, 1)
    weights = np.where(weights.sum(1, keepdims=True) > 0, weights, 1 / 3)
    nearest = scipy.ndimage.distance_transform_edt(shown < 0, return_distances=False, return_indices=True)
    number = np.zeros(shown.shape, np.int32)
    number[row, column] = np.arange(len(row))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return triangles[which].astype(np.int32), weights, number[tuple(nearest)]


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area (M,) of triangles with corners (M,2)."""
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return ux * vy - uy * vx


def _seen_from_inside(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle about the upright axis, 0 in front, elevation, and distance of points (V,3) from the head's middle."""
    front = shape[shape[:, 2].argmax()]
    x, y, z = (shape - [0, (shape[:, 1].min() + shape[:, 1].max()) / 2, front[2] - AXIS_DM]).T
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z)), np.sqrt(x * x + y * y + z * z)


def _chart(angle: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """uv (N,2) in [0,1] of angles, up to a half turn past the back, and elevations."""
    stretched = angle + FRONT * np.sin(angle)
    return np.stack([(stretched + np.pi) / (2 * np.pi) * 0.9 + 0.01, elevation / np.pi + 0.5], -1)


def _places(uv: np.ndarray) -> np.ndarray:
    """Where uv (…,2) lie in the texture in pixels, x right, y down, centres at integers."""
    return np.stack([uv[..., 0], 1 - uv[..., 1]], -1) * SIDE - 0.5


def _painted(uv: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Which triangle (SIDE,SIDE) int32 of corners (T,3,2) a texel shows, that of the greatest radius (T,); -1: none."""
    image = np.full((SIDE, SIDE), -1, np.int32)
    fixed = np.rint(_places(uv) * 2**SUBPIXEL_BITS).astype(np.int32)
    for number in np.argsort(radius, kind="stable"):
        cv2.fillConvexPoly(image, fixed[number], int(number), shift=SUBPIXEL_BITS)
    return image


def _hidden(uv: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Which triangles (T,) of corners (T,3,2) and radii (T,) are seen nowhere and would show colours of others."""
    shown = _painted(uv, radius)
    seen = np.zeros(len(uv), bool)
    seen[shown[shown >= 0]] = True
    column, row = np.clip(np.rint(_places(uv.mean(1))).astype(int), 0, SIDE - 1).T
    above = shown[row, column]
    # Triangles smaller than a texel may be seen at none: hidden is what lies clearly below another.
    return ~seen & (above >= 0) & (radius < radius[np.maximum(above, 0)] - HIDDEN_DM)


def bake(atlas: Atlas, drawn: View, pixels: np.ndarray, vertices, colors, normals) -> np.ndarray:
    """The texture (SIDE,SIDE,3) uint8 of a face: the photograph where it is seen well, the model's colours elsewhere.

    drawn: the face in the picture `pixels` (H,W,3); its camera-space vertices (V,3) dm, lit colors and normals (V,3).
    """
    toward = vertices * [-1, -1, 1]  # to the camera, in the axes of normals
    cosine = (toward * normals).sum(-1) / np.maximum(np.linalg.norm(toward, axis=-1), 1e-6)
    place = np.clip(drawn.to_canvas(drawn.points_px), -1e4, 1e4)
    values = np.concatenate([place, vertices[:, 2:], cosine[:, None], colors], axis=1, dtype=np.float32)
    spread = sum(atlas.weights[:, k, None] * values[atlas.corners[:, k]] for k in range(3))
    where, depth, cosine, base = spread[:, None, :2], spread[:, 2], spread[:, 3], np.clip(spread[:, 4:], 0, 1)
    share = _shown(drawn, where, depth) * np.clip((cosine - GRAZING) / (FACING - GRAZING), 0, 1)
    photo = _looked_up(_on_canvas(drawn, pixels), where, cv2.INTER_LINEAR)
    blended = 255 * base + share[:, None] * (photo - 255 * base)
    return (blended + 0.5).astype(np.uint8)[atlas.source]


def _looked_up(image: np.ndarray, where: np.ndarray, method: int) -> np.ndarray:
    """Values (M[,3]) of an image at places (M,1,2)."""
    # OpenCV takes maps of at most 32767 rows.
    parts = np.split(where, range(MOST_ROWS, len(where), MOST_ROWS))
    found = [cv2.remap(image, part, None, method, borderMode=cv2.BORDER_REPLICATE) for part in parts]
    return np.concatenate(found)[:, 0]


def _on_canvas(drawn: View, pixels: np.ndarray) -> np.ndarray:
    """The part of the picture that the canvas shows, at its scale, float32."""
    (x, y), (width, height) = drawn.corner, drawn.size
    part = pixels[y : y + height, x : x + width]
    size = [max(1, round(length * drawn.scale)) for length in (width, height)]
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _shown(drawn: View, where: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether (M,) places (M,1,2) of the canvas at a depth (M,) dm lie on it and are not behind the drawn surface."""
    last = np.array(drawn.size) * drawn.scale - 1
    surface = np.where(drawn.covered, drawn.image[..., 3], np.float32(0))
    at = _looked_up(surface, where, cv2.INTER_NEAREST)
    return ((where >= 0) & (where <= last)).all((1, 2)) & (at > 0) & (depth < at + HIDDEN_DM)
