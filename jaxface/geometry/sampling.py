"""Pictures read at arbitrary places: bilinear warps on the device. Pixel centres at integers."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxface.geometry import alignment


def sample(image: jax.Array, points: jax.Array, padding: Literal["zeros", "edge"] = "zeros") -> jax.Array:
    """Bilinear values (…,C) of `image` (H,W,C) at pixel coordinates `points` (…,2), x right, y down.

    Outside the picture: "zeros" continues it in black, fading over the last half pixel as OpenCV's constant border
    does, "edge" repeats its border. Differentiable in both arguments.
    """
    height, width = image.shape[:2]
    low = jnp.floor(points)
    fraction = points - low
    column, row = jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    total = jnp.zeros((*points.shape[:-1], image.shape[-1]), image.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = column + dx, row + dy
            weight = jnp.abs(1 - dx - fraction[..., 0]) * jnp.abs(1 - dy - fraction[..., 1])
            if padding == "zeros":
                weight = jnp.where((x >= 0) & (x < width) & (y >= 0) & (y < height), weight, 0.0)
            value = image[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
            total += weight[..., None].astype(image.dtype) * value
    return total


def warp(
    image: jax.Array, matrix: jax.Array, height: int, width: int, padding: Literal["zeros", "edge"] = "zeros"
) -> jax.Array:
    """`image` (H,W,C) moved by `matrix` (2,3), which maps its pixels to those of the result (height,width,C).

    As cv2.warpAffine with INTER_LINEAR, in full precision. Batches by vmap. Shrinking does not smooth: reduce first.
    """
    row, column = jnp.indices((height, width)).astype(matrix.dtype)
    targets = jnp.stack([column, row], -1).reshape(-1, 2)
    sources = alignment.apply_affine(alignment.invert_affine(matrix), targets)
    return sample(image, sources.reshape(height, width, 2), padding)
