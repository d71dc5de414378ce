"""Winograd's minimal-filtering algorithm for 3x3 convolutions on CPUs (Lavin and Gray, CVPR 2016).

Two-dimensional, F(2x2, 3x3), with 2.25 times fewer multiplications: input tiles of 4x4 pixels and the kernel are
transformed to 16 values each, whose products (16 matrix products) are transformed to output tiles of 2x2 pixels.
One-dimensional, F(2x1, 3x1), with 1.5 times fewer: the transform is applied along the rows only, with 4 matrix products
that are six times as large; used where the products of the 2D form are too small to occupy two cores. The result
differs from a direct convolution by float32 rounding.

Shapes: images (B,H,W,C), output channels D, tiles h x w with h = ceil(H/2), w = ceil(W/2).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Parts = Sequence[jax.Array]
# With fewer channels the transforms cost more than the multiplications that they save.
MIN_CHANNELS = 64
# Smaller matrix products occupy only one core, while XLA's convolution uses all of them.
MIN_MULTIPLICATIONS = 2**23
# With fewer rows in a matrix product the transform of the kernel costs more than it saves.
MIN_ROWS = 128


def pays(image: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether image (B,H,W,…) and kernel (K,K,C,D) are supported and faster with this algorithm on two cores."""
    # Half precision has no bits to spare for the rounding of the transforms.
    supported = kernel.shape[:2] == (3, 3) and stride == 1 and image.dtype == jnp.float32
    if not supported or min(kernel.shape[2:]) < MIN_CHANNELS:
        return False
    rows = _pixels(image) / 2
    rows_pay = rows >= MIN_ROWS and 3 * rows * math.prod(kernel.shape[2:]) >= MIN_MULTIPLICATIONS
    return rows_pay or _tiles_pay(image, kernel)


def _tiles_pay(image: jax.Array, kernel: jax.Array) -> bool:
    return _pixels(image) / 4 * math.prod(kernel.shape[2:]) >= MIN_MULTIPLICATIONS


def _pixels(image: jax.Array) -> int:
    batch, height, width = image.shape[:3]
    return (batch if isinstance(batch, int) else 1) * height * width  # a symbolic batch may be a single image


def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of image (B,H,W,C) with kernel (3,3,C,D), zero padding 1: (B,H,W,D)."""
    if _tiles_pay(image, kernel):
        return _convolve_tiles(image, kernel, 0)
    return _convolve_rows(image, kernel)


def image_gradient(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """Image gradient (B,H,W,C) of `convolve` from its cotangent (B,H,W,D) and kernel (3,3,C,D)."""
    kernel = kernel[::-1, ::-1]
    if _tiles_pay(cotangent, kernel):
        return _convolve_tiles(cotangent, kernel, 1)
    return _convolve_rows(cotangent, kernel.swapaxes(2, 3))


def _convolve_tiles(image: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """F(2x2, 3x3) of image (B,H,W,…), contracted over `axis` of the kernel's last two axes."""
    images = _both_axes(_pad(image), 1, _image_split, _image_transform)
    kernels = [part[0, 0] for part in _both_axes(kernel, 0, _kernel_split, _kernel_transform)]
    products = [
        lax.dot_general(part, weight, (((3,), (axis,)), ((), ()))) for part, weight in zip(images, kernels, strict=True)
    ]
    return _assemble(products)[:, : image.shape[1], : image.shape[2]]


def _convolve_rows(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """F(2x1, 3x1): the three columns of the kernel are concatenated in each matrix product."""
    batch, height, width, _ = image.shape
    outputs = kernel.shape[-1]
    images = _image_transform(_image_split(_pad(image), 1))
    columns = [jnp.concatenate([part[:, :, x : x + width] for x in range(3)], -1) for part in images]
    kernels = _kernel_transform(_kernel_split(kernel, 0))
    products = [part @ weight.reshape(-1, outputs) for part, weight in zip(columns, kernels, strict=True)]
    pairs = jnp.stack(_output_transform(products), 2)
    return pairs.reshape(batch, 2 * pairs.shape[1], width, outputs)[:, :height]


def _both_axes(
    array: jax.Array, axis: int, split: Callable[[jax.Array, int], Parts], transform: Callable[[Parts], Parts]
) -> Parts:
    """Splits and transforms `array` along `axis`, then each part along the next axis: 16 arrays."""
    rows = transform(split(array, axis))
    return [part for row in rows for part in transform(split(row, axis + 1))]


def _pad(image: jax.Array) -> jax.Array:
    margins = [(1, 1 + side % 2) for side in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), *margins, (0, 0)))


def _image_split(array: jax.Array, axis: int) -> Parts:
    return [lax.slice_in_dim(array, i, i + array.shape[axis] - 3, 2, axis) for i in range(4)]


def _image_transform(d: Parts) -> Parts:
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _kernel_split(array: jax.Array, axis: int) -> Parts:
    return [lax.slice_in_dim(array, i, i + 1, 1, axis) for i in range(3)]


def _kernel_transform(g: Parts) -> Parts:
    outer = g[0] + g[2]
    return g[0], (outer + g[1]) / 2, (outer - g[1]) / 2, g[2]


def _output_transform(m: Parts) -> Parts:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _assemble(products: Parts) -> jax.Array:
    """Output (B,2h,2w,D) from the 16 products (B,h,w,D)."""
    rows = [_output_transform(products[4 * row : 4 * row + 4]) for row in range(4)]
    columns = [_output_transform([row[column] for row in rows]) for column in range(2)]
    tiles = jnp.stack([jnp.stack([column[row] for column in columns], 3) for row in range(2)], 2)
    batch, height, _, width, _, channels = tiles.shape
    return tiles.reshape(batch, 2 * height, 2 * width, channels)
