"""Functions of single pixels, evaluated on CPUs in bands of rows: the values in between stay in the cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Pixels of a band. One float32 value for each is 32 KiB.
BAND_PIXELS = 8192


def evaluate(function: Callable[[Any], Any], images: Any) -> Any:
    """`function(images)` for a `function` each of whose pixels depends on the same pixel of `images` only.

    Args:
        function: maps a pytree of arrays (R,W,…) to such a pytree. On CPUs it gets bands of R rows, so that it can skip
            (`lax.cond`) what a band does not show; elsewhere it gets whole images.
        images: pytree of arrays (H,W,…).
    """

    def in_bands(images: Any) -> Any:
        height, width = jax.tree.leaves(images)[0].shape[:2]
        count = -(-height * width // BAND_PIXELS)
        rows = -(-height // count)

        def split(image: jax.Array) -> jax.Array:
            padding = [(0, count * rows - height)] + [(0, 0)] * (image.ndim - 1)
            return jnp.pad(image, padding).reshape(count, rows, *image.shape[1:])

        def join(bands: jax.Array) -> jax.Array:
            return bands.reshape(count * rows, *bands.shape[2:])[:height]

        return jax.tree.map(join, lax.map(function, jax.tree.map(split, images)))

    return lax.platform_dependent(images, cpu=in_bands, default=function)


def within(points: jax.Array, corners: jax.Array, margin: float) -> jax.Array:
    """Mask (…) of the points (…,3) in the bounding box of `corners` (N,3), enlarged by `margin` on all sides."""
    low, high = corners.min(0) - margin, corners.max(0) + margin
    # Axes as separate arrays, contiguous for vector units.
    axes = [(points[..., k] > low[k]) & (points[..., k] < high[k]) for k in range(3)]
    return axes[0] & axes[1] & axes[2]


def where_any(mask: jax.Array, paint: Callable[[Any], Any], below: Any) -> Any:
    """`paint(below)` if any element of the bool array `mask` is True, else `below`, a pytree of arrays."""
    return lax.cond(mask.any(), paint, lambda below: below, below)
