"""A differentiable z-buffer: which triangle each pixel shows, then one interpolation of what the vertices carry.

Visibility is decided by splatting. A triangle owns a window of pixels at its bounding box; small triangles are many
and get small windows, so the work is proportional to the pixels touched. The choice carries no gradient;
`interpolate` recomputes the barycentrics of the chosen triangle and is differentiable, as nvdiffrast without
antialiasing (Laine et al., SIGGRAPH Asia 2020, §3). T triangles, V vertices, pixel centres at integers.
"""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Tiers = tuple[tuple[int, int | None], ...]

DEFAULT_TIERS: Tiers = ((2, None), (4, 16384), (16, 512))
# Keeps the upper half of a float32 mantissa, so that products of the halves are exact.
UPPER_BITS = -4096


class Visibility(NamedTuple):
    """triangle_id (H,W) int32, -1 where nothing is; overflow () int32: triangles that found no place in any tier."""

    triangle_id: jax.Array
    overflow: jax.Array


class _Candidates(NamedTuple):
    """Possible hits, flat: pixel (row * width + column, or height * width for a miss), nearness, triangle id."""

    pixel: jax.Array
    nearness: jax.Array
    triangle: jax.Array


def _split(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    bits = lax.bitcast_convert_type(lax.stop_gradient(value), jnp.int32)
    upper = lax.bitcast_convert_type(bits & UPPER_BITS, jnp.float32)
    return upper, value - upper


def _cross(ax: jax.Array, ay: jax.Array, bx: jax.Array, by: jax.Array) -> jax.Array:
    """ax by - ay bx to about twice float32's precision.

    Every product is exact, so the sign does not depend on whether the compiler fuses multiply and add, and swapping a
    and b flips it exactly: two triangles that share an edge leave no gap on any device.
    """
    (axu, axl), (ayu, ayl), (bxu, bxl), (byu, byl) = map(_split, (ax, ay, bx, by))
    middle = (axu * byl + axl * byu) - (ayu * bxl + ayl * bxu)
    return (axu * byu - ayu * bxu) + (middle + (axl * byl - ayl * bxl))


def _edges(corners: list[jax.Array], x: jax.Array, y: jax.Array) -> list[jax.Array]:
    """Twice the signed areas between (x, y) and the edge opposite to each of the corners [x0,y0,x1,y1,x2,y2]."""
    dx = [corner - x for corner in corners[0::2]]
    dy = [corner - y for corner in corners[1::2]]
    return [_cross(dx[(k + 1) % 3], dy[(k + 1) % 3], dx[(k + 2) % 3], dy[(k + 2) % 3]) for k in range(3)]


def _splat(corners: list[jax.Array], inverse_depth: list[jax.Array], box, triangle, valid, window, height, width):
    """Candidates of N triangles in their windows of window x window pixels."""
    offset_y, offset_x = jnp.divmod(jnp.arange(window * window, dtype=jnp.int32)[:, None], window)
    column, row = box[0] + offset_x, box[1] + offset_y
    areas = _edges(corners, column.astype(jnp.float32), row.astype(jnp.float32))
    lowest, highest = (f(f(areas[0], areas[1]), areas[2]) for f in (jnp.minimum, jnp.maximum))
    # Both windings pass; all areas zero means that the triangle has none, and passes neither.
    inside = (lowest >= 0) != (highest <= 0)
    inside &= valid & (column < width) & (row < height)
    total = jnp.where(inside, areas[0] + areas[1] + areas[2], 1.0)
    # Quotients, not products, are added: no fused rounding can tell equal depths apart.
    first, second, third = inverse_depth
    nearness = third + (areas[0] * (first - third) / total + areas[1] * (second - third) / total)
    pixel = jnp.where(inside, row * width + column, height * width)
    bits = lax.bitcast_convert_type(nearness, jnp.int32)
    return _Candidates(*(a.reshape(-1) for a in (pixel, bits, jnp.broadcast_to(triangle, pixel.shape))))


def _candidates(points_px, depth, triangles, height, width, tiers, near) -> tuple[list[_Candidates], jax.Array]:
    """The candidates of every tier, and how many triangles found no place."""
    index = [triangles[:, k] for k in range(3)]
    corners = [points_px[i, axis] for i in index for axis in (0, 1)]
    corner_depth = [depth[i] for i in index]
    inverse_depth = [1.0 / z for z in corner_depth]
    boxes, sizes = [], []
    drawn = (corner_depth[0] >= near) & (corner_depth[1] >= near) & (corner_depth[2] >= near)
    for axis, size in ((0, width), (1, height)):
        a, b, c = corners[axis::2]
        low = jnp.maximum(jnp.ceil(jnp.minimum(jnp.minimum(a, b), c)), 0.0)
        high = jnp.minimum(jnp.floor(jnp.maximum(jnp.maximum(a, b), c)), size - 1.0)
        drawn &= low <= high
        boxes.append(low)
        sizes.append(high - low + 1)
    box = [jnp.where(drawn, low, 0.0).astype(jnp.int32) for low in boxes]
    extent = jnp.where(drawn, jnp.maximum(*sizes), 0.0).astype(jnp.int32)
    everything = (corners, inverse_depth, box, jnp.arange(len(triangles), dtype=jnp.int32))
    found, overflow, below = [], (extent > tiers[-1][0]).sum(), 0
    for window, capacity in tiers:
        member = (extent > below) & (extent <= window)
        below = window
        part, valid = everything, member
        if capacity is not None and capacity < len(triangles):
            overflow += jnp.maximum(member.sum() - capacity, 0)
            chosen = jnp.nonzero(member, size=capacity, fill_value=0)[0]
            valid = jnp.arange(capacity) < member.sum()
            part = jax.tree.map(operator.itemgetter(chosen), everything)
        found.append(_splat(*part, valid, window, height, width))
    return found, overflow.astype(jnp.int32)


def _scatter(candidates: list[_Candidates], pixels: int, triangles: int) -> jax.Array:
    """The nearest candidate of every pixel (pixels,), the smallest id among equals, by two scatters."""
    nearest = jnp.zeros(pixels, jnp.int32)
    for part in candidates:
        nearest = nearest.at[part.pixel].max(part.nearness, mode="drop")
    winner = jnp.full(pixels, triangles, jnp.int32)
    for part in candidates:
        wins = nearest.at[part.pixel].get(mode="fill", fill_value=-1) == part.nearness
        winner = winner.at[jnp.where(wins, part.pixel, pixels)].min(part.triangle, mode="drop")
    return jnp.where(winner < triangles, winner, -1)


def _sort(candidates: list[_Candidates], pixels: int, triangles: int) -> jax.Array:
    """As `_scatter`, by one sort and a scatter to distinct places: for TPUs, which serialise clashing scatters."""
    pixel, nearness, triangle = (jnp.concatenate(parts) for parts in zip(*candidates, strict=True))
    pixel, _, triangle = lax.sort((pixel, -nearness, triangle), num_keys=3)
    first = jnp.concatenate([jnp.ones(1, bool), pixel[1:] != pixel[:-1]])
    place = jnp.where(first, pixel, pixels + jnp.arange(len(pixel), dtype=jnp.int32))
    empty = jnp.full(pixels, -1, jnp.int32)
    return empty.at[place].set(triangle, mode="drop", unique_indices=True)


VISIBILITY = {"scatter": _scatter, "sort": _sort}


def rasterize(
    points_px: jax.Array,
    depth: jax.Array,
    triangles: jax.Array,
    height: int,
    width: int,
    *,
    tiers: Tiers = DEFAULT_TIERS,
    near: float = 1.0,
    visibility: str = "scatter",
) -> Visibility:
    """Which triangle every pixel shows; no gradient.

    points_px (V,2) float32, x right, y down; depth (V,) along the camera axis; triangles (T,3) int32, both windings.
    A pixel belongs to a triangle when its centre is inside or on the border; the nearest one wins, the smallest id
    among equals. Triangles with a corner nearer than `near` are dropped whole. `tiers`: rising (window px, capacity or
    None for all): a triangle goes to the first window that covers its box clipped to the image. What exceeds a capacity
    or the last window is not drawn and counted in `overflow`.
    """
    points_px, depth = lax.stop_gradient((points_px.astype(jnp.float32), depth.astype(jnp.float32)))
    found, overflow = _candidates(points_px, depth, triangles, height, width, tiers, near)
    # Without the barrier XLA evaluates the windows again inside every scatter: twice the time.
    found = lax.optimization_barrier(found)
    winner = VISIBILITY[visibility](found, height * width, len(triangles))
    return Visibility(winner.reshape(height, width), overflow)


def interpolate(
    attributes: jax.Array, points_px: jax.Array, depth: jax.Array, triangles: jax.Array, triangle_id: jax.Array
) -> jax.Array:
    """Perspective-correct attributes (H,W,C) of the triangles in `triangle_id` (H,W); 0 where it is -1.

    attributes (V,C), points_px (V,2), depth (V,): differentiable in all three, at fixed visibility.
    """
    hit = triangle_id >= 0
    index = triangles[jnp.maximum(triangle_id, 0)]
    row, column = jnp.indices(triangle_id.shape).astype(jnp.float32)
    corners = [points_px[index[..., k], axis] for k in range(3) for axis in (0, 1)]
    areas = _edges(corners, column, row)
    weights = [jnp.where(hit, area, 1.0) / jnp.where(hit, depth[index[..., k]], 1.0) for k, area in enumerate(areas)]
    total = weights[0] + weights[1] + weights[2]
    blended = sum((weights[k] / total)[..., None] * attributes[index[..., k]] for k in range(3))
    return jnp.where(hit[..., None], blended, 0.0)


def visible_points(points_px: jax.Array, depth: jax.Array, depth_image: jax.Array, tolerance: float) -> jax.Array:
    """Which points (N,) bool lie inside the image and not behind the surface.

    points_px (N,2), depth (N,), depth_image (H,W) with 0 where nothing is. One of the four pixels around the point has
    to be empty or no nearer than `tolerance` in front of it: contour points lie between surface and background.
    """
    size = jnp.array(depth_image.shape[::-1])
    inside = ((points_px >= -0.5) & (points_px <= size - 0.5)).all(-1)
    low = jnp.floor(points_px).astype(jnp.int32)
    seen = jnp.zeros(inside.shape, bool)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = jnp.moveaxis(jnp.clip(low + jnp.array(corner), 0, size - 1), -1, 0)
        surface = depth_image[row, column]
        seen |= (surface <= 0) | (depth <= surface + tolerance)
    return inside & seen
