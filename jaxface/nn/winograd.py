"""3x3 convolutions with 2.25 times fewer multiplications, for CPUs: Winograd's F(2x2, 3x3), Lavin and Gray, CVPR 2016.

Every second square of four by four pixels becomes 16 numbers, sums and differences of its pixels, and so does a kernel;
their products, 16 matrix products, become two by two pixels of the output. The rounding is that of float32 sums.
B pictures of H x W pixels, h x w squares (half of it, rounded up), C channels to D.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Parts = Sequence[jax.Array]
# With fewer channels the sums cost more than the products that they save.
FEWEST_CHANNELS = 64
# Smaller matrix products keep one core busy only, while XLA's convolution has all of them.
FEWEST_PRODUCTS = 2**23


def pays(image: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether image (B,H,W,…) and kernel (K,K,C,D) can be convolved here, and on two cores are quicker by it."""
    batch, height, width = image.shape[:3]
    channels = kernel.shape[2:]
    pictures = batch if isinstance(batch, int) else 1  # a batch of unknown size may be one picture
    fits = kernel.shape[:2] == (3, 3) and stride == 1 and image.dtype == jnp.float32  # half precision has no bits left
    products = pictures * height * width / 4 * math.prod(channels)
    return fits and min(channels) >= FEWEST_CHANNELS and products >= FEWEST_PRODUCTS


def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """image (B,H,W,C) convolved with kernel (3,3,C,D), zeros around: (B,H,W,D)."""
    return _products(image, _kernel_parts(kernel), 0)


def image_gradient(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient (B,H,W,C) of `convolve` by its image, of cotangent (B,H,W,D) and kernel (3,3,C,D)."""
    return _products(cotangent, _kernel_parts(kernel[::-1, ::-1]), 1)


def _products(image: jax.Array, weights: Parts, axis: int) -> jax.Array:
    """The output for image (B,H,W,…) and a kernel's parts, whose `axis` is summed over."""
    pairs = zip(_image_parts(image), weights, strict=True)
    products = [lax.dot_general(part, weight, (((3,), (axis,)), ((), ()))) for part, weight in pairs]
    return _assembled(products)[:, : image.shape[1], : image.shape[2]]


def _both_axes(
    array: jax.Array, axis: int, split: Callable[[jax.Array, int], Parts], transform: Callable[[Parts], Parts]
) -> Parts:
    """`transform` of what `array` is split into along `axis`, then of each along the next axis: 16 arrays."""
    rows = transform(split(array, axis))
    return [part for row in rows for part in transform(split(row, axis + 1))]


def _image_parts(image: jax.Array) -> Parts:
    """16 arrays (B,h,w,C) of image (B,H,W,C)."""
    margins = [(1, 1 + side % 2) for side in image.shape[1:3]]
    padded = jnp.pad(image, ((0, 0), *margins, (0, 0)))

    def split(array: jax.Array, axis: int) -> Parts:
        return [lax.slice_in_dim(array, i, i + array.shape[axis] - 3, 2, axis) for i in range(4)]

    return _both_axes(padded, 1, split, lambda d: (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]))


def _kernel_parts(kernel: jax.Array) -> Parts:
    """16 arrays (C,D) of kernel (3,3,C,D)."""

    def split(array: jax.Array, axis: int) -> Parts:
        return [lax.slice_in_dim(array, i, i + 1, 1, axis) for i in range(3)]

    def transform(g: Parts) -> Parts:
        outer = g[0] + g[2]
        return g[0], (outer + g[1]) / 2, (outer - g[1]) / 2, g[2]

    return [part[0, 0] for part in _both_axes(kernel, 0, split, transform)]


def _assembled(products: Parts) -> jax.Array:
    """The output (B,2h,2w,D) of 16 products (B,h,w,D)."""

    def transform(m: Parts) -> Parts:
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    rows = [transform(products[4 * row : 4 * row + 4]) for row in range(4)]
    columns = [transform([row[column] for row in rows]) for column in range(2)]
    whole = jnp.stack([jnp.stack([column[row] for column in columns], 3) for row in range(2)], 2)
    batch, height, _, width, _, channels = whole.shape
    return whole.reshape(batch, 2 * height, 2 * width, channels)
