"""Training targets of JVCR: the compact volumetric representation, rendered on the accelerator."""

import functools

import jax
import jax.numpy as jnp

from jaxface.system import Batch, Tree

# Each Gaussian has sigma 1 cell and is cut off after this many cells.
RADIUS = 3


def compact_volume(mode: str, points: jax.Array, in_volume: jax.Array, size: int, depth: int, side: int) -> jax.Array:
    """Compact volumetric representation: one Gaussian per landmark, all in one channel, combined by the maximum.

    Zhang et al., ICPR 2018, §2.1. Mode `clean` centres each Gaussian exactly on its landmark. Mode `reference` follows
    draw_labelvolume of the original: Gaussians on whole cells, one cell before the landmark in x, y and z and truncated
    towards zero; the far edge of a Gaussian is cut where truncation moved it; a landmark of negative depth is not
    rendered (the original wraps around there).

    Args:
        mode: "clean" or "reference".
        points: (B,N,3) landmarks in pixels of a crop of `size` pixels.
        in_volume: (B,N) bool, landmarks that are rendered.
        size: side of the crop in pixels.
        depth: cells along z.
        side: cells along x and y.

    Returns:
        (B,side,side,depth) volumes, axes y, x, z.
    """
    cells = (side, side, depth)
    axes = _reference_axes(points, cells, size) if mode == "reference" else _exact_axes(points, cells, size)
    return jax.vmap(functools.partial(_volume, cells))(axes, in_volume)


def _exact_axes(points: jax.Array, cells: tuple[int, ...], size: int) -> list[tuple[jax.Array, jax.Array]]:
    """Cell indices and Gaussian weights (B,N,7) along x, y and z, centred exactly on the landmarks."""
    axes = []
    for axis, count in enumerate(cells):
        position = (points[..., axis, None] + 0.5) * (count / size) - 0.5
        index = jnp.round(position).astype(jnp.int32) + jnp.arange(-RADIUS, RADIUS + 1)
        axes.append((index, jnp.exp(-((index - position) ** 2) / 2)))
    return axes


def _reference_axes(points: jax.Array, cells: tuple[int, ...], size: int) -> list[tuple[jax.Array, jax.Array]]:
    """Cell indices and Gaussian weights (B,N,7) along x, y and z, by the integer arithmetic of the original."""
    offsets = jnp.arange(-RADIUS, RADIUS + 1)
    weight = jnp.exp(-(offsets.astype(jnp.float32) ** 2) / 2)
    axes = []
    for axis, count in enumerate(cells):
        position = points[..., axis, None] * (count / size) - 1
        if axis < 2:
            index = jnp.trunc(position - RADIUS).astype(jnp.int32) + RADIUS + offsets
            inside = index < jnp.trunc(position + RADIUS + 1).astype(jnp.int32)
        else:
            center = jnp.trunc(position).astype(jnp.int32)
            index, inside = center + offsets, center >= 0
        axes.append((index, jnp.where(inside, weight, 0.0)))
    return axes


def _volume(cells: tuple[int, ...], axes: list[tuple[jax.Array, jax.Array]], in_volume: jax.Array) -> jax.Array:
    """Volume (y,x,z) of one example: the maximum of the separable Gaussians (N,7) along x, y and z."""
    (x, weight_x), (y, weight_y), (z, weight_z) = axes
    width, height, depth = cells
    # JAX wraps negative indices around; indices beyond the end are dropped.
    x, y, z = (jnp.where(index < 0, count, index) for index, count in zip((x, y, z), cells, strict=True))
    plane = weight_y[:, :, None, None] * weight_x[:, None, :, None]
    values = plane * weight_z[:, None, None, :] * in_volume[:, None, None, None]
    index = y[:, :, None, None], x[:, None, :, None], z[:, None, None, :]
    return jnp.zeros((height, width, depth)).at[index].max(values, mode="drop")


def add_volumes(
    mode: str, depths: tuple[int, ...], size: int, side: int, batch: Batch, key: jax.Array, constants: Tree
) -> Batch:
    """`System.preprocess_on_device`: adds `volumes` to the batch, one (B,side,side,D) for each D of `depths`."""
    del key, constants
    render = functools.partial(compact_volume, mode, batch["coordinates"], batch["in_volume"], size, side=side)
    volumes = {depth: render(depth=depth) for depth in set(depths)}
    return {**batch, "volumes": [volumes[depth] for depth in depths]}
