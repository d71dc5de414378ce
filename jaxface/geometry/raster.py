"""Differentiable z-buffer rasteriser: a visibility pass, then interpolation of vertex attributes.

The visibility pass splats triangles into square windows of pixels at their bounding boxes. Triangles are sorted into
tiers by window size, so that the work is proportional to the pixels touched. Visibility carries no gradient;
`interpolate` recomputes the barycentrics of the visible triangles and is differentiable, like nvdiffrast without
antialiasing (Laine et al., SIGGRAPH Asia 2020, §3). T triangles, V vertices, pixel centres at integers.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import depth_test
from jaxface.geometry.depth_test import NO_TRIANGLE, Candidates, Form, Image

Tiers = tuple[tuple[int, int | None], ...]

# Mask of the upper half of a float32 mantissa: products of halves are exact (Dekker's splitting).
UPPER_BITS = -4096
# Pixels tested per step of a tier's loop: enough to occupy the machine, with little waste in the last step.
STEP_PIXELS = 65536


class Visibility(NamedTuple):
    """Result of the visibility pass.

    Attributes:
        triangle_id: (H,W) int32, -1 for background.
        overflow: () int32, number of triangles beyond the capacity or the windows of the tiers, which are not drawn.
    """

    triangle_id: jax.Array
    overflow: jax.Array


class _Setup(NamedTuple):
    """Triangle setup: values of N triangles as separate vectors (N,), contiguous for vector units."""

    corners: tuple[jax.Array, ...]  # x0 y0 x1 y1 x2 y2
    inverse_depth: tuple[jax.Array, ...]
    column: jax.Array  # first pixel of the bounding box, clipped to the image
    row: jax.Array
    triangle: jax.Array


def _split(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Upper and lower half of the mantissa: value = upper + lower."""
    bits = lax.bitcast_convert_type(lax.stop_gradient(value), jnp.int32)
    upper = lax.bitcast_convert_type(bits & UPPER_BITS, jnp.float32)
    return upper, value - upper


def _cross(ax: jax.Array, ay: jax.Array, bx: jax.Array, by: jax.Array) -> jax.Array:
    """ax by - ay bx with about twice the precision of float32.

    Every product is exact, so the sign does not depend on fused multiply-adds, and swapping a and b flips it exactly:
    triangles that share an edge leave no gap on any device.
    """
    (axu, axl), (ayu, ayl), (bxu, bxl), (byu, byl) = map(_split, (ax, ay, bx, by))
    middle = (axu * byl + axl * byu) - (ayu * bxl + ayl * bxu)
    return (axu * byu - ayu * bxu) + (middle + (axl * byl - ayl * bxl))


def _edges(corners: list[jax.Array], x: jax.Array, y: jax.Array) -> list[jax.Array]:
    """Edge functions at (x, y): twice the signed area spanned with the edge opposite each corner [x0,y0,…,y2]."""
    dx = [corner - x for corner in corners[0::2]]
    dy = [corner - y for corner in corners[1::2]]
    return [_cross(dx[(k + 1) % 3], dy[(k + 1) % 3], dx[(k + 2) % 3], dy[(k + 2) % 3]) for k in range(3)]


def _prepare(points_px, depth, triangles, height, width, near) -> tuple[_Setup, jax.Array]:
    """(setup of all triangles, extent (T,) int32: longer side of the clipped bounding box in pixels, 0 if culled)."""
    index = [triangles[:, k] for k in range(3)]
    corners = tuple(points_px[i, axis] for i in index for axis in (0, 1))
    depths = [depth[i] for i in index]
    in_front = (depths[0] >= near) & (depths[1] >= near) & (depths[2] >= near)
    on_screen = in_front
    firsts, sides = [], []
    for axis, size in ((0, width), (1, height)):
        a, b, c = corners[axis::2]
        first = jnp.maximum(jnp.ceil(jnp.minimum(jnp.minimum(a, b), c)), 0.0)
        last = jnp.minimum(jnp.floor(jnp.maximum(jnp.maximum(a, b), c)), size - 1.0)
        on_screen &= first <= last
        firsts.append(first)
        sides.append(last - first + 1)
    column, row = (jnp.where(on_screen, first, 0.0).astype(jnp.int32) for first in firsts)
    extent = jnp.where(on_screen, jnp.maximum(*sides), 0.0).astype(jnp.int32)
    inverse_depth = tuple(1.0 / z for z in depths)
    return _Setup(corners, inverse_depth, column, row, jnp.arange(len(triangles), dtype=jnp.int32)), extent


def _splat(setup: _Setup, valid: jax.Array, window: int, height: int, width: int) -> Candidates:
    """Candidates of N triangles, masked by `valid` (N,), in windows of window x window pixels."""
    column = setup.column + jnp.arange(window, dtype=jnp.int32)[:, None]

    def splat_row(offset):
        row = setup.row + offset
        areas = _edges(setup.corners, column.astype(jnp.float32), row.astype(jnp.float32))
        lowest, highest = (f(f(areas[0], areas[1]), areas[2]) for f in (jnp.minimum, jnp.maximum))
        # Accepts both windings; a degenerate triangle has all areas zero and passes neither test.
        inside = (lowest >= 0) != (highest <= 0)
        inside &= valid & (column < width) & (row < height)
        total = jnp.where(inside, areas[0] + areas[1] + areas[2], 1.0)
        # Sums of quotients, not of products: fused multiply-adds cannot make equal depths differ.
        a, b, c = setup.inverse_depth
        nearness = c + (areas[0] * (a - c) / total + areas[1] * (b - c) / total)
        pixel = jnp.where(inside, row * width + column, height * width)
        return pixel, lax.bitcast_convert_type(nearness, jnp.int32)

    # A loop, because XLA fuses straight-line code into each of the scatters and evaluates it element by element.
    pixel, nearness = lax.map(splat_row, jnp.arange(window, dtype=jnp.int32))
    triangle = jnp.broadcast_to(setup.triangle, pixel.shape)
    return Candidates(*(array.reshape(-1) for array in (pixel, nearness, triangle)))


def _draw(image: Image, setup: _Setup, member: jax.Array, capacity: int, step: int, splat, form: Form) -> Image:
    """Adds up to `capacity` triangles of the mask `member` (T,) to `image`, `step` triangles at a time."""
    step = min(step, len(member))
    count, length = jnp.minimum(member.sum(), capacity), max(capacity, step)
    span = jnp.arange(step)

    def draw(image):
        selection = form.select(setup, member, jnp.zeros(length, jnp.int32))

        def body(index, image):
            # The last step may repeat triangles of the one before, which changes nothing.
            start = jnp.minimum(index * step, length - step)
            candidates = splat(form.part(selection, start, span), start + span < count)
            return depth_test.merge(image, form.nearest(candidates, image))

        return lax.fori_loop(0, -(-count // step), body, image)

    return lax.cond(count > 0, draw, lambda image: image, image)


def default_tiers(height: int, width: int) -> Tiers:
    """Tiers without capacity limits for a height x width image: every triangle is drawn, overflow is always 0."""
    largest = max(height, width)
    return tuple((window, None) for window in (2, 4, 8, 16, 64) if window < largest) + ((largest, None),)


def _visible(points_px, depth, triangles, *, height, width, tiers, near, form: Form) -> Visibility:
    """`rasterize` for one image."""
    setup, extent = _prepare(points_px, depth, triangles, height, width, near)
    image = depth_test.empty(height * width)
    overflow, below = (extent > tiers[-1][0]).sum(), 0
    for window, capacity in tiers:
        member = (extent > below) & (extent <= window)
        splat = functools.partial(_splat, window=window, height=height, width=width)
        if below == 0 and capacity is None:
            image = form.nearest(splat(setup, member), image)
        else:
            capacity = len(triangles) if capacity is None else min(capacity, len(triangles))
            overflow += jnp.maximum(member.sum() - capacity, 0)
            image = _draw(image, setup, member, capacity, max(1, STEP_PIXELS // window**2), splat, form)
        below = window
    winner = jnp.where(image.triangle == NO_TRIANGLE, -1, image.triangle)
    return Visibility(winner.reshape(height, width), overflow.astype(jnp.int32))


def _sequential_vmap_on_cpu(function: Callable) -> Callable:
    """`function` of arrays whose vmap is a loop on CPUs, where a batch exceeds the cache and is 3-7 times slower."""

    @jax.custom_batching.custom_vmap
    def batchable(*arrays):
        return function(*arrays)

    @batchable.def_vmap
    def batch(size, batched, *arrays):
        def one(index):
            return batchable(*(a[index] if is_batched else a for a, is_batched in zip(arrays, batched, strict=True)))

        axes = [0 if is_batched else None for is_batched in batched]
        outputs = lax.platform_dependent(
            *arrays, cpu=lambda *_: lax.map(one, jnp.arange(size)), default=jax.vmap(function, axes, axis_size=size)
        )
        return outputs, jax.tree.map(lambda _: True, outputs)

    return batchable


def rasterize(
    points_px: jax.Array,
    depth: jax.Array,
    triangles: jax.Array,
    height: int,
    width: int,
    *,
    tiers: Tiers | None = None,
    near: float = 1.0,
    visibility: str = "platform",
) -> Visibility:
    """Visible triangle of each pixel. Carries no gradient; batch it with vmap.

    A pixel belongs to a triangle if its centre is inside or on the border; the nearest triangle wins, the smallest id
    among equals.

    Args:
        points_px: (V,2) float32, x right, y down.
        depth: (V,) along the camera axis.
        triangles: (T,3) int32, either winding.
        height, width: of the image in pixels.
        tiers: increasing (window px, capacity or None for all triangles); `default_tiers` if None. A triangle goes to
            the first window that covers its bounding box clipped to the image. Triangles beyond a capacity or larger
            than the last window are not drawn and counted in `overflow`.
        near: triangles with a vertex nearer than this (> 0) are culled.
        visibility: "scatter", "sort", or "platform" for the faster one where the program runs; all give the same
            result.
    """
    points_px, depth = lax.stop_gradient((points_px.astype(jnp.float32), depth.astype(jnp.float32)))
    visible = functools.partial(
        _visible,
        height=height,
        width=width,
        tiers=tiers or default_tiers(height, width),
        near=near,
        form=depth_test.form(visibility),
    )
    return _sequential_vmap_on_cpu(visible)(points_px, depth, triangles)


def interpolate(
    attributes: jax.Array, points_px: jax.Array, depth: jax.Array, triangles: jax.Array, triangle_id: jax.Array
) -> jax.Array:
    """Perspective-correct interpolation of vertex attributes: (H,W,C), 0 where `triangle_id` (H,W) is -1.

    Differentiable in attributes (V,C), points_px (V,2) and depth (V,) at fixed visibility. triangles (T,3).
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
    """Depth test of points: (N,) bool, True for points inside the image and not behind the surface.

    points_px (N,2), depth (N,), depth_image (H,W) with 0 for background. A point is visible if one of the four pixels
    around it is background or at most `tolerance` in front of it: contour points lie between surface and background.
    """
    size = jnp.array(depth_image.shape[::-1])
    inside = ((points_px >= -0.5) & (points_px <= size - 0.5)).all(-1)
    low = jnp.floor(points_px).astype(jnp.int32)
    unoccluded = jnp.zeros(inside.shape, bool)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = jnp.moveaxis(jnp.clip(low + jnp.array(corner), 0, size - 1), -1, 0)
        surface = depth_image[row, column]
        unoccluded |= (surface <= 0) | (depth <= surface + tolerance)
    return inside & unoccluded
