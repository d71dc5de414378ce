"""A differentiable z-buffer: which triangle each pixel shows, then one interpolation of what the vertices carry.

Visibility is decided by splatting. A triangle owns a window of pixels at its bounding box; small triangles are many
and get small windows, so the work is proportional to the pixels touched. The choice carries no gradient;
`interpolate` recomputes the barycentrics of the chosen triangle and is differentiable, as nvdiffrast without
antialiasing (Laine et al., SIGGRAPH Asia 2020, §3). T triangles, V vertices, pixel centres at integers.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Tiers = tuple[tuple[int, int | None], ...]

# Keeps the upper half of a float32 mantissa, so that products of the halves are exact.
UPPER_BITS = -4096
# Pixels tested per step of a tier's loop: enough to fill the machine, few enough to waste little in the last step.
STEP_PIXELS = 65536
NOTHING = jnp.iinfo(jnp.int32).max


class Visibility(NamedTuple):
    """triangle_id (H,W) int32, -1 where nothing is; overflow () int32: triangles that found no place in any tier."""

    triangle_id: jax.Array
    overflow: jax.Array


class _Candidates(NamedTuple):
    """Possible hits, flat: pixel (row * width + column, or height * width for a miss), nearness, triangle id.

    Nearness is the bit pattern of the positive float 1 / Z: ordered alike, and integers are faster to compare.
    """

    pixel: jax.Array
    nearness: jax.Array
    triangle: jax.Array


class _Image(NamedTuple):
    """Per pixel (P,) the nearness, 0 for none, and the triangle of the winner, NOTHING for none."""

    nearness: jax.Array
    triangle: jax.Array


class _Setup(NamedTuple):
    """What the windows need of N triangles, as separate vectors (N,): they stay contiguous for vector units."""

    corners: tuple[jax.Array, ...]  # x0 y0 x1 y1 x2 y2
    inverse_depth: tuple[jax.Array, ...]
    column: jax.Array  # first pixel of the box, clipped to the image
    row: jax.Array
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


def _prepare(points_px, depth, triangles, height, width, near) -> tuple[_Setup, jax.Array]:
    """Setup of all triangles and their extents (T,) int32: the longer side of the clipped box in pixels, 0 to skip."""
    index = [triangles[:, k] for k in range(3)]
    corners = tuple(points_px[i, axis] for i in index for axis in (0, 1))
    depths = [depth[i] for i in index]
    drawn = (depths[0] >= near) & (depths[1] >= near) & (depths[2] >= near)
    firsts, sides = [], []
    for axis, size in ((0, width), (1, height)):
        a, b, c = corners[axis::2]
        first = jnp.maximum(jnp.ceil(jnp.minimum(jnp.minimum(a, b), c)), 0.0)
        last = jnp.minimum(jnp.floor(jnp.maximum(jnp.maximum(a, b), c)), size - 1.0)
        drawn &= first <= last
        firsts.append(first)
        sides.append(last - first + 1)
    column, row = (jnp.where(drawn, first, 0.0).astype(jnp.int32) for first in firsts)
    extent = jnp.where(drawn, jnp.maximum(*sides), 0.0).astype(jnp.int32)
    inverse_depth = tuple(1.0 / z for z in depths)
    return _Setup(corners, inverse_depth, column, row, jnp.arange(len(triangles), dtype=jnp.int32)), extent


def _splat(setup: _Setup, valid: jax.Array, window: int, height: int, width: int) -> _Candidates:
    """Candidates of N triangles, of which `valid` (N,) count, in their windows of window x window pixels."""
    column = setup.column + jnp.arange(window, dtype=jnp.int32)[:, None]

    def splat_row(offset):
        row = setup.row + offset
        areas = _edges(setup.corners, column.astype(jnp.float32), row.astype(jnp.float32))
        lowest, highest = (f(f(areas[0], areas[1]), areas[2]) for f in (jnp.minimum, jnp.maximum))
        # Both windings pass; all areas zero means that the triangle has none, and passes neither.
        inside = (lowest >= 0) != (highest <= 0)
        inside &= valid & (column < width) & (row < height)
        total = jnp.where(inside, areas[0] + areas[1] + areas[2], 1.0)
        # Quotients, not products, are added: no fused rounding can tell equal depths apart.
        a, b, c = setup.inverse_depth
        nearness = c + (areas[0] * (a - c) / total + areas[1] * (b - c) / total)
        pixel = jnp.where(inside, row * width + column, height * width)
        return pixel, lax.bitcast_convert_type(nearness, jnp.int32)

    # A loop, as XLA would fuse straight code into the scatters: evaluated again for each, one element at a time.
    pixel, nearness = lax.map(splat_row, jnp.arange(window, dtype=jnp.int32))
    triangle = jnp.broadcast_to(setup.triangle, pixel.shape)
    return _Candidates(*(array.reshape(-1) for array in (pixel, nearness, triangle)))


def _scatter(candidates: _Candidates, pixels: int) -> _Image:
    """The nearest candidate of every pixel, the smallest id among equals, by two scatters."""
    pixel, nearness, triangle = candidates
    nearest = jnp.zeros(pixels, jnp.int32).at[pixel].max(nearness, mode="drop")
    wins = nearest.at[pixel].get(mode="fill", fill_value=-1) == nearness
    winner = jnp.full(pixels, NOTHING).at[jnp.where(wins, pixel, pixels)].min(triangle, mode="drop")
    return _Image(nearest, winner)


def _sort(candidates: _Candidates, pixels: int) -> _Image:
    """As `_scatter`, by one sort and a scatter to distinct places: for TPUs, which serialise clashing scatters."""
    pixel, farness, triangle = lax.sort((candidates.pixel, -candidates.nearness, candidates.triangle), num_keys=3)
    first = jnp.concatenate([jnp.ones(1, bool), pixel[1:] != pixel[:-1]])
    place = jnp.where(first, pixel, pixels + jnp.arange(len(pixel), dtype=jnp.int32))
    nearest = jnp.zeros(pixels, jnp.int32).at[place].set(-farness, mode="drop", unique_indices=True)
    winner = jnp.full(pixels, NOTHING).at[place].set(triangle, mode="drop", unique_indices=True)
    return _Image(nearest, winner)


def _merge(one: _Image, other: _Image) -> _Image:
    nearer = other.nearness > one.nearness
    nearer |= (other.nearness == one.nearness) & (other.triangle < one.triangle)
    return jax.tree.map(functools.partial(jnp.where, nearer), other, one)


def _draw(image: _Image, setup: _Setup, member, capacity: int, step: int, splat, resolve) -> _Image:
    """`image` with up to `capacity` triangles of `member` (T,) added, `step` at a time, as many steps as needed."""
    count = jnp.minimum(member.sum(), capacity)

    def draw(image):
        chosen = jnp.nonzero(member, size=-(-capacity // step) * step, fill_value=0)[0]

        def body(index, image):
            part = lax.dynamic_slice(chosen, (index * step,), (step,))
            valid = index * step + jnp.arange(step) < count
            return _merge(image, resolve(splat(jax.tree.map(operator.itemgetter(part), setup), valid)))

        return lax.fori_loop(0, -(-count // step), body, image)

    return lax.cond(count > 0, draw, lambda image: image, image)


VISIBILITY = {"scatter": _scatter, "sort": _sort}


def default_tiers(height: int, width: int) -> Tiers:
    """Tiers that draw every triangle of any mesh in an image of height x width pixels: overflow is always 0."""
    largest = max(height, width)
    return tuple((window, None) for window in (2, 4, 8, 16, 64) if window < largest) + ((largest, None),)


def _visible(points_px, depth, triangles, *, height, width, tiers, near, resolve) -> Visibility:
    """`rasterize` for one image."""
    setup, extent = _prepare(points_px, depth, triangles, height, width, near)
    resolve = functools.partial(resolve, pixels=height * width)
    image = _Image(jnp.zeros(height * width, jnp.int32), jnp.full(height * width, NOTHING))
    overflow, below = (extent > tiers[-1][0]).sum(), 0
    for window, capacity in tiers:
        member = (extent > below) & (extent <= window)
        splat = functools.partial(_splat, window=window, height=height, width=width)
        if below == 0 and capacity is None:
            image = resolve(splat(setup, member))
        else:
            capacity = len(triangles) if capacity is None else min(capacity, len(triangles))
            overflow += jnp.maximum(member.sum() - capacity, 0)
            image = _draw(image, setup, member, capacity, max(1, STEP_PIXELS // window**2), splat, resolve)
        below = window
    winner = jnp.where(image.triangle == NOTHING, -1, image.triangle)
    return Visibility(winner.reshape(height, width), overflow.astype(jnp.int32))


def _one_by_one_on_cpu(function: Callable) -> Callable:
    """`function` of arrays, with a vmap that is a loop on the CPU: there a batch leaves the cache and takes 3-7x."""

    @jax.custom_batching.custom_vmap
    def batchable(*arrays):
        return function(*arrays)

    @batchable.def_vmap
    def batch(size, batched, *arrays):
        def one(index):
            return batchable(*(a[index] if is_batched else a for a, is_batched in zip(arrays, batched, strict=True)))

        axes = [0 if is_batched else None for is_batched in batched]
        found = lax.platform_dependent(
            *arrays, cpu=lambda *_: lax.map(one, jnp.arange(size)), default=jax.vmap(function, axes, axis_size=size)
        )
        return found, jax.tree.map(lambda _: True, found)

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
    visibility: str = "scatter",
) -> Visibility:
    """Which triangle every pixel shows; no gradient. Batches by vmap.

    points_px (V,2) float32, x right, y down; depth (V,) along the camera axis; triangles (T,3) int32, both windings.
    A pixel belongs to a triangle when its centre is inside or on the border; the nearest one wins, the smallest id
    among equals. Triangles with a corner nearer than `near` (> 0) are dropped whole. `tiers`: rising (window px,
    capacity or None for all), `default_tiers` if None: a triangle goes to the first window that covers its box clipped
    to the image. What exceeds a capacity or the last window is not drawn and counted in `overflow`.
    `visibility`: "scatter", or "sort" for TPUs; the result is the same.
    """
    points_px, depth = lax.stop_gradient((points_px.astype(jnp.float32), depth.astype(jnp.float32)))
    visible = functools.partial(
        _visible,
        height=height,
        width=width,
        tiers=tiers or default_tiers(height, width),
        near=near,
        resolve=VISIBILITY[visibility],
    )
    return _one_by_one_on_cpu(visible)(points_px, depth, triangles)


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
