"""Convolution with PyTorch's padding and CPU-specific implementations of its forward pass and gradients.

On CPUs XLA needs up to five times as long for the kernel gradient of a convolution as for the convolution itself.
There the gradient is computed as matrix products over a few rows at a time, so that the operands stay in cache, and
large 3x3 convolutions use `winograd`. GPUs and TPUs use XLA's convolution.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxface.nn import winograd

# Elements of the input or of the output per matrix product (half a megabyte of float32), unless the kernel is larger.
CHUNK = 2**17
# Below this number of input channels (images) all taps of the kernel go into one matrix product.
FEW_CHANNELS = 8


def _plain(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if kernel.shape[0] == 1:
        return image[:, ::stride, ::stride] @ kernel[0, 0]
    margin = kernel.shape[0] // 2
    sides = ((margin, margin),) * 2
    return lax.conv_general_dilated(image, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kernel_gradient_plain(image: jax.Array, cotangent: jax.Array, size: int, stride: int) -> jax.Array:
    like = jnp.zeros((size, size, image.shape[-1], cotangent.shape[-1]), image.dtype)
    return jax.linear_transpose(functools.partial(_plain, image, stride=stride), like)(cotangent)[0]


def _kernel_gradient_products(image: jax.Array, cotangent: jax.Array, size: int, stride: int) -> jax.Array:
    margins = (size // 2,) * 2
    image = jnp.pad(image, ((0, 0), margins, margins, (0, 0)))
    batch, height, width, outputs = cotangent.shape
    across, channels = image.shape[2:]
    row = max(stride * across * channels, width * outputs)
    # The accumulator has the size of the kernel and is read and written once per chunk.
    chunk = max(CHUNK, size**2 * channels * outputs)
    rows = _largest_divisor(height, chunk // row)
    images = _largest_divisor(batch, chunk // (rows * row)) if rows == height else 1
    bands, down = height // rows, stride * (rows - 1) + 1
    # Kernel rows per matrix product.
    kernel_rows = size if channels < FEW_CHANNELS else 1

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        first, top = number // bands * images, number % bands * rows
        image_rows = lax.dynamic_slice(image, (first, stride * top, 0, 0), (images, down + size - 1, across, channels))
        cotangent_rows = lax.dynamic_slice(cotangent, (first, top, 0, 0), (images, rows, width, outputs))
        columns = [image_rows[:, :, x : x + stride * (width - 1) + 1 : stride] for x in range(size)]
        if kernel_rows > 1:
            columns = [column[:, y : y + down : stride] for y in range(size) for column in columns]
        columns = lax.optimization_barrier(jnp.concatenate(columns, -1))
        taps = [columns] if kernel_rows > 1 else [columns[:, y : y + down : stride] for y in range(size)]
        axes, dtype = ((0, 1, 2),) * 2, jnp.float32
        products = [jnp.tensordot(cotangent_rows, tap, axes, preferred_element_type=dtype) for tap in taps]
        return total + jnp.stack(products), None

    # The chunks are summed in float32: bfloat16 would lose most of them.
    zeros = jnp.zeros((size // kernel_rows, outputs, kernel_rows * size * channels), jnp.float32)
    total, _ = lax.scan(add, zeros, jnp.arange(batch // images * bands))
    total = total.astype(image.dtype)
    kernel = total.reshape(size // kernel_rows, outputs, kernel_rows, size, channels).transpose(0, 2, 3, 4, 1)
    return kernel.reshape(size, size, channels, outputs)


def _largest_divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that does not exceed `most`, at least 1."""
    return max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))


def convolve(image: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution of image (B,H,W,C) with kernel (K,K,C,D), K odd, zero padding K//2: (B,h,w,D).

    h = ceil(H/stride) and w = ceil(W/stride): outputs are centred on pixels 0, stride, … as in PyTorch. Supports
    first-order reverse-mode differentiation in both arrays.
    """
    if kernel.shape[0] == 1 and stride > 1:
        # The barrier keeps XLA:GPU from fusing the slice into the matrix product, on which jaxlib 0.11 aborts.
        image, stride = lax.optimization_barrier(image[:, ::stride, ::stride]), 1
    return _spatial(image, kernel, stride)


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Product of x (B,…,C) and matrix (C,D), as a 1x1 convolution: (B,…,D)."""
    rows = x.reshape(x.shape[0], -1, 1, x.shape[-1])
    return convolve(rows, matrix[None, None]).reshape(*x.shape[:-1], matrix.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spatial(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    plain = functools.partial(_plain, stride=stride)
    if not winograd.pays(image, kernel, stride):
        return plain(image, kernel)
    return lax.platform_dependent(image, kernel, cpu=winograd.convolve, default=plain)


def _forward(image, kernel, stride):
    return _spatial(image, kernel, stride), (image, kernel)


def _image_gradient(image: jax.Array, cotangent: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    def plain(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda image: _plain(image, kernel, stride), image)(cotangent)[0]

    if not winograd.pays(cotangent, kernel, stride):
        return plain(cotangent, kernel)
    return lax.platform_dependent(cotangent, kernel, cpu=winograd.image_gradient, default=plain)


def _backward(stride, residuals, cotangent):
    image, kernel = residuals
    products, plain = (
        functools.partial(implementation, size=kernel.shape[0], stride=stride)
        for implementation in (_kernel_gradient_products, _kernel_gradient_plain)
    )
    kernel_gradient = lax.platform_dependent(image, cotangent, cpu=products, default=plain)
    return _image_gradient(image, cotangent, kernel, stride), kernel_gradient


_spatial.defvjp(_forward, _backward)


class Conv(nn.Module):
    """Convolution layer, (B,H,W,C) to (B,h,w,width); parameters `kernel` (size,size,C,width) and `bias` (width,)."""

    width: int
    size: int
    stride: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, image.shape[-1], self.width))
        y = convolve(image.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)


class Pointwise(nn.Module):
    """Linear layer over the last axis, (B,…,C) to (B,…,width); parameters as in `flax.linen.Dense`."""

    width: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return product(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)
