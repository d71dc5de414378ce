"""The compact volume: one Gaussian a landmark, all in one channel, the greatest wins. Drawn on the accelerator."""

import functools

import jax
import jax.numpy as jnp

from jaxface.system import Batch, Tree

# The Gaussian has a sigma of one cell and reaches three cells.
REACH = 3


def compact_volume(mode: str, points: jax.Array, drawn: jax.Array, size: int, depth: int, side: int) -> jax.Array:
    """Volumes (B,side,side,depth), axes y, x, z, of crop points (B,N,3) in pixels of a crop of `size`.

    drawn (B,N) bool: which points are. Zhang et al., ICPR 2018, §2.1. `clean` puts each Gaussian exactly where its
    point is. `reference`, as draw_labelvolume of the original: on whole cells, one cell before the point in x, y and z
    and rounded towards zero; the far edge of a Gaussian cut where rounding moved it; none at all where its depth is
    negative (the original wraps around there).
    """
    cells = (side, side, depth)
    parts = _reference_axes(points, cells, size) if mode == "reference" else _exact_axes(points, cells, size)
    return jax.vmap(functools.partial(_drawn, cells))(parts, drawn)


def _exact_axes(points: jax.Array, cells: tuple[int, ...], size: int) -> list[tuple[jax.Array, jax.Array]]:
    axes = []
    for axis, count in enumerate(cells):
        place = (points[..., axis, None] + 0.5) * (count / size) - 0.5
        index = jnp.round(place).astype(jnp.int32) + jnp.arange(-REACH, REACH + 1)
        axes.append((index, jnp.exp(-((index - place) ** 2) / 2)))
    return axes


def _reference_axes(points: jax.Array, cells: tuple[int, ...], size: int) -> list[tuple[jax.Array, jax.Array]]:
    offsets = jnp.arange(-REACH, REACH + 1)
    weight = jnp.exp(-(offsets.astype(jnp.float32) ** 2) / 2)
    axes = []
    for axis, count in enumerate(cells):
        place = points[..., axis, None] * (count / size) - 1
        if axis < 2:
            index = jnp.trunc(place - REACH).astype(jnp.int32) + REACH + offsets
            inside = index < jnp.trunc(place + REACH + 1).astype(jnp.int32)
        else:
            center = jnp.trunc(place).astype(jnp.int32)
            index, inside = center + offsets, center >= 0
        axes.append((index, jnp.where(inside, weight, 0.0)))
    return axes


def _drawn(cells: tuple[int, ...], axes: list[tuple[jax.Array, jax.Array]], drawn: jax.Array) -> jax.Array:
    """One volume of indices and weights (N,7) along x, y, z."""
    (x, wx), (y, wy), (z, wz) = axes
    width, height, depth = cells
    # A negative index would count from the end; beyond the end it is dropped.
    x, y, z = (jnp.where(index < 0, count, index) for index, count in zip((x, y, z), cells, strict=True))
    values = wy[:, :, None, None] * wx[:, None, :, None] * wz[:, None, None, :] * drawn[:, None, None, None]
    places = y[:, :, None, None], x[:, None, :, None], z[:, None, None, :]
    return jnp.zeros((height, width, depth)).at[places].max(values, mode="drop")


def add_volumes(
    mode: str, depths: tuple[int, ...], size: int, side: int, batch: Batch, key: jax.Array, constants: Tree
) -> Batch:
    """`System.preprocess_on_device`: the batch with `volumes`, one (B,side,side,D) for each D of `depths`."""
    del key, constants
    draw = {
        depth: compact_volume(mode, batch["coordinates"], batch["drawn"], size, depth, side) for depth in set(depths)
    }
    return {**batch, "volumes": [draw[depth] for depth in depths]}
