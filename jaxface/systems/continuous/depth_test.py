"""Which points of a predicted face are visible: a depth test against the predicted surface of the template.

The surface has the predicted positions in the image; its depth is that of the template with a closed mouth, in the pose
that the weak perspective of these positions gives. Depths are in template units and grow towards the viewer.
"""

import cv2
import numpy as np

from jaxface.systems.continuous.template_surface import TemplateSurface, with_closed_mouth

# A point is hidden if the surface is nearer to the viewer by more than this (5 mm).
TOLERANCE = 0.05
# Side in pixels of the canvas in which the surface is drawn for the test of points.
CANVAS_PX = 96
# Fixed-point bits of cv2.fillConvexPoly's coordinates.
SUBPIXEL_BITS = 4
EMPTY = -1


def toward_viewer(queries: np.ndarray, points: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """The unit vector (3,) towards the viewer, in template axes: its product with a template point is its depth.

    Weighted least squares for the affine camera of the points; its rows span the image plane.

    Args:
        queries: (N,3) points of the head.
        points: (N,2) px, y down.
        sigma: (N,) px.
    """
    weight = 1 / np.maximum(sigma, 1e-6)[:, None]
    design = np.concatenate([queries, np.ones((len(queries), 1))], axis=1)
    camera = np.linalg.lstsq(weight * design, weight * points, rcond=None)[0][:3].T
    normal = np.cross(camera[1], camera[0])
    return normal / max(np.linalg.norm(normal), 1e-12)


def nearest_triangles(
    points: np.ndarray,
    depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    read: np.ndarray | None = None,
) -> np.ndarray:
    """The nearest front-facing triangle (height,width) int32 of each pixel, EMPTY where there is none.

    Painter's algorithm, from the farthest triangle to the nearest.

    Args:
        points: (S,2) px, y down.
        depth: (S,) towards the viewer.
        triangles: (T,3), counter-clockwise from outside.
        height, width: px.
        read: (P,2) columns and rows of the pixels that are read; the others are undefined. None: all are.
    """
    image = np.full((height, width), EMPTY, np.int32)
    corners = points[triangles]
    (ux, uy), (vx, vy) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    low, high = corners.min(axis=1), corners.max(axis=1)
    inside = (high > -1).all(axis=1) & (low < [width, height]).all(axis=1)
    if read is not None:
        inside &= _may_cover(low, high, read, height, width)
    drawn = np.flatnonzero((ux * vy - uy * vx < 0) & inside)
    order = drawn[np.argsort(depth[triangles[drawn]].sum(axis=1), kind="stable")]
    fixed_point = np.rint(np.clip(corners[order], -1e5, 1e5) * 2**SUBPIXEL_BITS).astype(np.int32)
    for number, corner in zip(order.tolist(), fixed_point, strict=True):
        cv2.fillConvexPoly(image, corner, number, shift=SUBPIXEL_BITS)
    return image


def _may_cover(low: np.ndarray, high: np.ndarray, read: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether bounding boxes (T,2), (T,2) px, with a margin of a pixel, have some of the pixels `read` (P,2) inside."""
    is_read = np.zeros((height, width), np.uint8)
    is_read[read[:, 1], read[:, 0]] = 1
    count = cv2.integral(is_read)  # (height+1,width+1): of the pixels above and to the left
    (left, top), (right, bottom) = (
        np.clip(one, 0, [width, height]).astype(int).T for one in (np.floor(low) - 1, np.ceil(high) + 2)
    )
    return count[bottom, right] - count[top, right] - count[bottom, left] + count[top, left] > 0


def barycentric(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric weights (N,3) in [0,1] of positions (N,2) in triangles (N,3,2), clamped to the triangle."""
    a, b, c = np.moveaxis(corners, 1, 0)
    areas = np.stack([_area(positions, b, c), _area(a, positions, c), _area(a, b, positions)], axis=-1)
    total = areas.sum(axis=-1, keepdims=True)
    weights = np.clip(areas / np.where(total == 0, 1, total), 0, 1)
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / 3)


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area (N,) of triangles with corners (N,2)."""
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return ux * vy - uy * vx


def surface_depth(
    positions: np.ndarray, image: np.ndarray, points: np.ndarray, depth: np.ndarray, triangles: np.ndarray
) -> np.ndarray:
    """The depth (N,) of the drawn surface at positions (N,2) px: the lowest around each, -inf at background.

    Contour points lie between surface and background, so of the four pixels around a position the farthest counts.
    """
    column, row = _around(positions, image.shape).reshape(-1, 2).T
    number = image[row, column]
    index = triangles[np.maximum(number, 0)]
    repeated = np.repeat(positions, 4, axis=0)
    found = (barycentric(repeated, points[index]) * depth[index]).sum(axis=1)
    return np.where(number == EMPTY, -np.inf, found).reshape(-1, 4).min(axis=1)


def _around(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Columns and rows (N,4,2) of the pixels around positions (N,2) px in an image (height,width)."""
    corners = np.floor(positions).astype(int)[:, None] + [(0, 0), (1, 0), (0, 1), (1, 1)]
    return np.clip(corners, 0, np.array(shape[::-1]) - 1)


def visible(
    surface: TemplateSurface,
    surface_points: np.ndarray,
    surface_sigma: np.ndarray,
    queries: np.ndarray,
    points: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Whether predicted points lie in the image and are not behind the predicted surface, (N,) bool.

    Args:
        surface: the template surface of S vertices that can hide points.
        surface_points: (S,2) px, its predicted positions.
        surface_sigma: (S,) px.
        queries: (N,3) template points.
        points: (N,2) px, their predicted positions.
        size: height and width of the image.
    """
    toward = toward_viewer(surface.closed, surface_points, surface_sigma)
    low, high = surface_points.min(axis=0), surface_points.max(axis=0)
    scale = (CANVAS_PX - 3) / max(float((high - low).max()), 1e-6)
    on_canvas, positions = ((one - low) * scale + 1 for one in (surface_points, points))
    depth = surface.closed @ toward
    read = _around(positions, (CANVAS_PX, CANVAS_PX)).reshape(-1, 2)
    drawn = nearest_triangles(on_canvas, depth, surface.triangles, CANVAS_PX, CANVAS_PX, read)
    covered = surface_depth(positions, drawn, on_canvas, depth, surface.triangles)
    outside = ((positions < 0) | (positions > CANVAS_PX - 1)).any(axis=1)
    unoccluded = outside | (with_closed_mouth(queries) @ toward >= covered - TOLERANCE)
    height, width = size
    return unoccluded & (points >= -0.5).all(axis=1) & (points <= [width - 0.5, height - 0.5]).all(axis=1)
