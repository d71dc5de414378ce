"""Convolution as PyTorch pads it, whose gradient is quick on CPUs as well.

On a CPU XLA takes up to five times as long for the gradient of a kernel as for the convolution itself. There it is
written as matrix products over a few pictures at a time, so that what is multiplied stays in the processor's cache.
GPUs and TPUs keep XLA's form.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Numbers of the input that are taken at a time: a megabyte.
CHUNK = 2**18
# With fewer channels, as a picture has, matrix products gain nothing.
FEW_CHANNELS = 8


def _plain(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    margin = kernel.shape[0] // 2
    sides = ((margin, margin),) * 2
    return lax.conv_general_dilated(image, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kernel_gradient_plain(image: jax.Array, cotangent: jax.Array, size: int, stride: int) -> jax.Array:
    like = jnp.zeros((size, size, image.shape[-1], cotangent.shape[-1]), image.dtype)
    return jax.linear_transpose(functools.partial(_plain, image, stride=stride), like)(cotangent)[0]


def _kernel_gradient_products(image: jax.Array, cotangent: jax.Array, size: int, stride: int) -> jax.Array:
    batch, _, _, channels = image.shape
    margin = size // 2
    at_once = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * image[0].size <= CHUNK))
    height, width, outputs = cotangent.shape[1:]
    down, across = stride * (height - 1) + 1, stride * (width - 1) + 1

    def add(total: jax.Array, some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, cotangent = some
        padded = jnp.pad(image, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        columns = jnp.concatenate([padded[:, :, x : x + across : stride] for x in range(size)], -1)
        columns = lax.optimization_barrier(columns)
        products = [jnp.tensordot(cotangent, columns[:, y : y + down : stride], ((0, 1, 2),) * 2) for y in range(size)]
        return total + jnp.stack(products), None

    chunks = [values.reshape(-1, at_once, *values.shape[1:]) for values in (image, cotangent)]
    nothing = jnp.zeros((size, outputs, size * channels), image.dtype)
    total, _ = lax.scan(add, nothing, tuple(chunks))
    return total.reshape(size, outputs, size, channels).transpose(0, 2, 3, 1)


def convolve(image: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """image (B,H,W,C) convolved with kernel (K,K,C,D), K odd, zeros around: (B,h,w,D).

    h and w are H and W over `stride`, rounded up: outputs are centred on pixels 0, stride, … as in PyTorch.
    Differentiable once in both arrays (reverse mode).
    """
    if kernel.shape[0] == 1:
        return image[:, ::stride, ::stride] @ kernel[0, 0]
    form = _plain if image.shape[-1] < FEW_CHANNELS else _spatial
    return form(image, kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spatial(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _plain(image, kernel, stride)


def _forward(image, kernel, stride):
    return _plain(image, kernel, stride), (image, kernel)


def _backward(stride, residuals, cotangent):
    image, kernel = residuals
    image_gradient = jax.linear_transpose(lambda image: _plain(image, kernel, stride), image)(cotangent)[0]
    products, plain = (
        functools.partial(form, size=kernel.shape[0], stride=stride)
        for form in (_kernel_gradient_products, _kernel_gradient_plain)
    )
    return image_gradient, lax.platform_dependent(image, cotangent, cpu=products, default=plain)


_spatial.defvjp(_forward, _backward)


class Conv(nn.Module):
    """Convolution with kernel (size,size,C,width), and `bias` (width,) where wanted: (B,H,W,C) to (B,h,w,width)."""

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
