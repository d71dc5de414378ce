"""3x3 convolutions with fewer multiplications, for CPUs: Winograd's, Lavin and Gray, CVPR 2016.

By squares, F(2x2, 3x3), with 2.25 times fewer: every second square of four by four pixels becomes 16 numbers, sums and
differences of its pixels, and so does a kernel; their products, 16 matrix products, become two by two pixels of the
output. By rows, F(2x1, 3x1), with 1.5 times fewer: the same from top to bottom only, in 4 products that are six times
as large, for which two cores are used where those of squares are too small. The rounding is that of float32 sums.
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
# With fewer rows in a product the sums of the kernel cost more than it saves.
FEWEST_ROWS = 128


def pays(image: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether image (B,H,W,…) and kernel (K,K,C,D) can be convolved here, and on two cores are quicker by it."""
    fits = kernel.shape[:2] == (3, 3) and stride == 1 and image.dtype == jnp.float32  # half precision has no bits left
    if not fits or min(kernel.shape[2:]) < FEWEST_CHANNELS:
        return False
    rows = _pixels(image) / 2
    enough = rows >= FEWEST_ROWS and 3 * rows * math.prod(kernel.shape[2:]) >= FEWEST_PRODUCTS
    return enough or _squares_pay(image, kernel)


def _squares_pay(image: jax.Array, kernel: jax.Array) -> bool:
    return _pixels(image) / 4 * math.prod(kernel.shape[2:]) >= FEWEST_PRODUCTS


def _pixels(image: jax.Array) -> int:
    batch, height, width = image.shape[:3]
    return (batch if isinstance(batch, int) else 1) * height * width  # a batch of unknown size may be one picture


def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """image (B,H,W,C) convolved with kernel (3,3,C,D), zeros around: (B,H,W,D)."""
    if _squares_pay(image, kernel):
        return _by_squares(image, kernel, 0)
    return _by_rows(image, kernel)


def image_gradient(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient (B,H,W,C) of `convolve` by its image, of cotangent (B,H,W,D) and kernel (3,3,C,D)."""
    kernel = kernel[::-1, ::-1]
    if _squares_pay(cotangent, kernel):
        return _by_squares(cotangent, kernel, 1)
    return _by_rows(cotangent, kernel.swapaxes(2, 3))


def _by_squares(image: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """The output for image (B,H,W,…) and a kernel whose parts are summed over `axis`."""
    images = _both_axes(_padded(image), 1, _image_split, _image_sums)
    kernels = [part[0, 0] for part in _both_axes(kernel, 0, _kernel_split, _kernel_sums)]
    products = [
        lax.dot_general(part, weight, (((3,), (axis,)), ((), ())))
        for part, weight in zip(images, kernels, strict=True)
    ]
    return _assembled(products)[:, : image.shape[1], : image.shape[2]]


def _by_rows(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve`, the three columns of the kernel side by side in each product."""
    batch, height, width, _ = image.shape
    outputs = kernel.shape[-1]
    images = _image_sums(_image_split(_padded(image), 1))
    columns = [jnp.concatenate([part[:, :, x : x + width] for x in range(3)], -1) for part in images]
    kernels = _kernel_sums(_kernel_split(kernel, 0))
    products = [part @ weight.reshape(-1, outputs) for part, weight in zip(columns, kernels, strict=True)]
    pairs = jnp.stack(_output_sums(products), 2)
    return pairs.reshape(batch, 2 * pairs.shape[1], width, outputs)[:, :height]


def _both_axes(
    array: jax.Array, axis: int, split: Callable[[jax.Array, int], Parts], transform: Callable[[Parts], Parts]
) -> Parts:
    """`transform` of what `array` is split into along `axis`, then of each along the next axis: 16 arrays."""
    rows = transform(split(array, axis))
    return [part for row in rows for part in transform(split(row, axis + 1))]


def _padded(image: jax.Array) -> jax.Array:
    margins = [(1, 1 + side % 2) for side in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), *margins, (0, 0)))


def _image_split(array: jax.Array, axis: int) -> Parts:
    return [lax.slice_in_dim(array, i, i + array.shape[axis] - 3, 2, axis) for i in range(4)]


def _image_sums(d: Parts) -> Parts:
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _kernel_split(array: jax.Array, axis: int) -> Parts:
    return [lax.slice_in_dim(array, i, i + 1, 1, axis) for i in range(3)]


def _kernel_sums(g: Parts) -> Parts:
    outer = g[0] + g[2]
    return g[0], (outer + g[1]) / 2, (outer - g[1]) / 2, g[2]


def _output_sums(m: Parts) -> Parts:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _assembled(products: Parts) -> jax.Array:
    """The output (B,2h,2w,D) of 16 products (B,h,w,D)."""
    rows = [_output_sums(products[4 * row : 4 * row + 4]) for row in range(4)]
    columns = [_output_sums([row[column] for row in rows]) for column in range(2)]
    whole = jnp.stack([jnp.stack([column[row] for column in columns], 3) for row in range(2)], 2)
    batch, height, _, width, _, channels = whole.shape
    return whole.reshape(batch, 2 * height, 2 * width, channels)
