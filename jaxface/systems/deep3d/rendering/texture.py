"""UV unwrapping of a head, and its texture baked from a photo.

The surface is projected from an axis inside the head (cylindrical projection): angle and elevation become u and v, with
more texels for the face. Triangles that another triangle hides in this projection (mouth cavity, eyeballs behind lids)
go to a separate strip at the bottom of the texture.
"""

import dataclasses

import cv2
import numpy as np
import scipy.ndimage

from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.rendering import texture_fill
from jaxface.systems.deep3d.rendering.render_overlay import View

# Side of the texture in texels.
SIDE = 1024
# Distance of the projection axis behind the foremost vertex.
AXIS_DM = 1.15
# u grows with angle + FRONT * sin(angle): (1 + FRONT) times faster in front, (1 - FRONT) times at the back.
FRONT = 0.6
# A full turn spans this fraction of the width, starting at this offset; triangles across the back use the rest.
TURN_SHARE, TURN_OFFSET = 0.9, 0.01
# Height of the strip of hidden triangles, and of the gap above it, as fractions of the texture.
STRIP, GAP = 0.14, 0.02
# Cosine between normal and line of sight at which the photo starts to be blended in, and from which it is used alone.
GRAZING, FACING = 0.25, 0.55
# Depth tolerance of both visibility tests.
HIDDEN_DM = 0.04
# Fixed-point bits of cv2.fillConvexPoly's coordinates.
SUBPIXEL_BITS = 4
# cv2.remap accepts maps of at most 32767 rows.
MAX_REMAP_ROWS = 32000


@dataclasses.dataclass(frozen=True)
class Atlas:
    """A head cut along seams, and which surface point each texel shows.

    V' >= V vertices, T triangles, M texels inside triangles.

    Attributes:
        vertex: (V',) index of the head's vertex that each atlas vertex copies.
        triangles: (T,3) int32 indices of atlas vertices.
        uv: (V',2) in [0,1], v up.
        corners: (M,3) vertices of the head around each of the M texels.
        weights: (M,3) their barycentric weights.
        region: (M,) int8, `FaceModel.texture_region` of the nearest corner.
        source: (SIDE,SIDE) index of the one of the M texels whose colour each texel of the texture takes: itself, or
            the nearest one if the texel is outside all triangles (edge padding).
    """

    vertex: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    region: np.ndarray
    source: np.ndarray


def unwrap(face: FaceModel) -> Atlas:
    """The atlas of a face's mean shape."""
    triangles = np.asarray(face.triangles)
    angle, elevation, radius = _cylindrical(np.asarray(face.mean, np.float64))
    angles, mean_radius = angle[triangles], radius[triangles].mean(1)
    # Triangles across the back have angles near both pi and -pi: a full turn is added to the negative ones.
    wrapped = (np.ptp(angles, axis=1) > np.pi)[:, None] & (angles < 0)
    uv = _project(angles + 2 * np.pi * wrapped, elevation[triangles])
    hidden = _hidden(uv, mean_radius)[:, None]
    uv[..., 1] = np.where(hidden, STRIP * uv[..., 1], STRIP + GAP + (1 - STRIP - GAP) * uv[..., 1])
    # Corners of one vertex on the same side of the seams become one atlas vertex.
    chart = 2 * wrapped + hidden
    _, first, index = np.unique(4 * triangles.ravel() + chart.ravel(), return_index=True, return_inverse=True)
    corners, weights, source = _texels(_rasterize(uv, mean_radius), triangles, _to_texels(uv))
    nearest = corners[np.arange(len(corners)), weights.argmax(1)]
    return Atlas(
        triangles.ravel()[first].astype(np.int32),
        index.reshape(triangles.shape).astype(np.int32),
        uv.reshape(-1, 2)[first].astype(np.float32),
        corners,
        weights,
        np.asarray(face.texture_region)[nearest],
        source,
    )


def _texels(
    triangle_id: np.ndarray, triangles: np.ndarray, corners_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`corners`, `weights` and `source` of an `Atlas`.

    Args:
        triangle_id: (SIDE,SIDE) the triangle that each texel shows; -1: none.
        triangles: (T,3) vertices of the head.
        corners_px: (T,3,2) their positions in texels.
    """
    row, column = np.nonzero(triangle_id >= 0)
    texel_triangle = triangle_id[row, column]
    a, b, c = np.moveaxis(corners_px[texel_triangle], 1, 0)
    texel = np.stack([column, row], -1)
    total = _signed_area(a, b, c)
    weights = np.stack([_signed_area(texel, b, c), _signed_area(a, texel, c), _signed_area(a, b, texel)], -1)
    weights = np.clip(weights / np.where(total == 0, 1, total)[:, None], 0, 1)
    weights = np.where(weights.sum(1, keepdims=True) > 0, weights, 1 / 3)
    nearest = scipy.ndimage.distance_transform_edt(triangle_id < 0, return_distances=False, return_indices=True)
    number = np.zeros(triangle_id.shape, np.int32)
    number[row, column] = np.arange(len(row))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return triangles[texel_triangle].astype(np.int32), weights, number[tuple(nearest)]


def _signed_area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area (M,) of triangles with corners (M,2)."""
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return ux * vy - uy * vx


def _cylindrical(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle about the vertical axis (0 in front), elevation and distance from the head's centre of points (V,3)."""
    front = shape[shape[:, 2].argmax()]
    mid_height = (shape[:, 1].min() + shape[:, 1].max()) / 2
    x, y, z = (shape - [0, mid_height, front[2] - AXIS_DM]).T
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z)), np.sqrt(x * x + y * y + z * z)


def _project(angle: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """uv (…,2) in [0,1] of angles, which may exceed pi by half a turn, and elevations."""
    stretched = angle + FRONT * np.sin(angle)
    u = (stretched + np.pi) / (2 * np.pi) * TURN_SHARE + TURN_OFFSET
    return np.stack([u, elevation / np.pi + 0.5], -1)


def _to_texels(uv: np.ndarray) -> np.ndarray:
    """Texture positions (…,2) of uv (…,2), in texels: x right, y down, centres at integers."""
    return np.stack([uv[..., 0], 1 - uv[..., 1]], -1) * SIDE - 0.5


def _rasterize(uv: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Triangle (SIDE,SIDE) int32 that each texel shows, of corners (T,3,2): the outermost by radius (T,); -1: none."""
    image = np.full((SIDE, SIDE), -1, np.int32)
    fixed_point = np.rint(_to_texels(uv) * 2**SUBPIXEL_BITS).astype(np.int32)
    # Painter's algorithm: from the innermost triangle outwards.
    for triangle in np.argsort(radius, kind="stable"):
        cv2.fillConvexPoly(image, fixed_point[triangle], int(triangle), shift=SUBPIXEL_BITS)
    return image


def _hidden(uv: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Triangles (T,) bool that no texel shows because others cover them; corners (T,3,2), radius (T,) dm."""
    triangle_id = _rasterize(uv, radius)
    is_shown = np.zeros(len(uv), bool)
    is_shown[triangle_id[triangle_id >= 0]] = True
    column, row = np.clip(np.rint(_to_texels(uv.mean(1))).astype(int), 0, SIDE - 1).T
    cover = triangle_id[row, column]
    # A visible triangle smaller than a texel may also be shown by none, so a hidden one must lie clearly deeper.
    return ~is_shown & (cover >= 0) & (radius < radius[np.maximum(cover, 0)] - HIDDEN_DM)


def bake(
    atlas: Atlas, view: View, image: np.ndarray, vertices: np.ndarray, colors: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """The texture of a face: the photo where the surface is visible and faces the camera, completed elsewhere.

    Args:
        atlas: of the face model.
        view: the face rendered into `image`.
        image: (H,W,3) uint8.
        vertices: (V,3) dm, camera space.
        colors: (V,3) lit RGB.
        normals: (V,3) unit normals.

    Returns:
        (SIDE,SIDE,3) uint8.
    """
    to_viewer = vertices * [-1, -1, 1]  # in the axes of the normals
    cosine = (to_viewer * normals).sum(-1) / np.maximum(np.linalg.norm(to_viewer, axis=-1), 1e-6)
    canvas_points = np.clip(view.to_canvas(view.points_px), -1e4, 1e4)
    values = np.concatenate([canvas_points, vertices[:, 2:], cosine[:, None], colors], axis=1, dtype=np.float32)
    texels = sum(atlas.weights[:, k, None] * values[atlas.corners[:, k]] for k in range(3))
    positions, depth, cosine = texels[:, None, :2], texels[:, 2], texels[:, 3]
    model_color = np.clip(texels[:, 4:], 0, 1)
    blend = _visible(view, positions, depth) * np.clip((cosine - GRAZING) / (FACING - GRAZING), 0, 1)
    photo = _sample(_on_canvas(view, image), positions, cv2.INTER_LINEAR)
    texels = (photo, blend.astype(np.float32), 255 * model_color, atlas.region)
    texture = texture_fill.complete(*(values[atlas.source] for values in texels), _mirrored_columns())
    return (np.clip(texture, 0, 255) + 0.5).astype(np.uint8)


def _mirrored_columns() -> np.ndarray:
    """For each column of the texture the one that shows the mirror image of the head, (SIDE,) int; -1: none.

    The unwrapping is symmetric about the front, because so are heads nearly.
    """
    columns = round((2 * TURN_OFFSET + TURN_SHARE) * SIDE) - 1 - np.arange(SIDE)
    return np.where((columns >= 0) & (columns < SIDE), columns, -1)


def _sample(image: np.ndarray, positions: np.ndarray, method: int) -> np.ndarray:
    """Values (M[,3]) of an image at positions (M,1,2)."""
    chunks = np.split(positions, range(MAX_REMAP_ROWS, len(positions), MAX_REMAP_ROWS))
    values = [cv2.remap(image, chunk, None, method, borderMode=cv2.BORDER_REPLICATE) for chunk in chunks]
    return np.concatenate(values)[:, 0]


def _on_canvas(view: View, image: np.ndarray) -> np.ndarray:
    """The view's region of an image at the scale of its canvas, float32."""
    (x, y), (width, height) = view.corner, view.size
    region = image[y : y + height, x : x + width]
    size = [max(1, round(length * view.scale)) for length in (width, height)]
    return cv2.resize(region, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _visible(view: View, positions: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether points (M,) at canvas positions (M,1,2) and depths (M,) dm are in the view and not behind its surface."""
    last = np.array(view.size) * view.scale - 1
    surface = np.where(view.covered, view.image[..., 3], np.float32(0))
    nearest_depth = _sample(surface, positions, cv2.INTER_NEAREST)
    inside = ((positions >= 0) & (positions <= last)).all((1, 2))
    return inside & (nearest_depth > 0) & (depth < nearest_depth + HIDDEN_DM)
