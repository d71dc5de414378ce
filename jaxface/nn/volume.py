"""3D convolutions that downsample a volume, as matrix products: XLA's convolutions take minutes on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.convolution import product

# PyTorch's initialisation: uniform within ±1/sqrt(fan-in).
INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=(0, 1, 2, 3), out_axis=4)
KERNEL = 4
# Up to this number of input channels all 64 taps go into one matrix product; above it eight products are summed.
MAX_GATHERED_CHANNELS = 4


class HalvingConv(nn.Module):
    """4x4x4 convolution with stride 2, padding 1 and bias: (B,2n,2n,2n,C) to (B,n,n,n,width).

    Space-to-depth: the padded volume is cut into blocks of 2x2x2 voxels whose 8C values become channels, so that the
    kernel covers 2x2x2 blocks. Parameters: `kernel` (4,4,4,C,width) and `bias` (width,), float32; `dtype` is the type
    of the computation.
    """

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", INIT, (KERNEL, KERNEL, KERNEL, channels, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        # Tap k along an axis is voxel k % 2 of block k // 2.
        taps = kernel.reshape(2, 2, 2, 2, 2, 2, channels, self.width).transpose(0, 2, 4, 1, 3, 5, 6, 7)
        taps = taps.reshape(8, 8 * channels, self.width).astype(self.dtype)
        near = _neighbours(_blocks(x.astype(self.dtype)))
        if channels <= MAX_GATHERED_CHANNELS:
            return product(jnp.concatenate(near, -1), taps.reshape(-1, self.width)) + bias
        return sum((product(values, tap) for values, tap in zip(near, taps, strict=True)), bias)


def _blocks(x: jax.Array) -> jax.Array:
    """Space-to-depth of (B,2n,2n,2n,C) padded by 1: (B,n+1,n+1,n+1,8C)."""
    batch, *sides, channels = x.shape
    d, h, w = (side // 2 + 1 for side in sides)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, d, 2, h, 2, w, 2, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, d, h, w, 8 * channels)


def _neighbours(blocks: jax.Array) -> list[jax.Array]:
    """The 8 blocks that the kernel covers at each output, each (B,n,n,n,8C)."""
    d, h, w = (side - 1 for side in blocks.shape[1:4])
    return [blocks[:, i : i + d, j : j + h, k : k + w] for i in range(2) for j in range(2) for k in range(2)]


class WholeConv(nn.Module):
    """Convolution over the whole volume, with bias: (B,4,4,4,C) to (B,width). Parameters as in `HalvingConv`."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", INIT, (KERNEL, KERNEL, KERNEL, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        x, kernel = x.reshape(x.shape[0], -1).astype(self.dtype), kernel.reshape(-1, self.width).astype(self.dtype)
        return product(x, kernel) + bias.astype(self.dtype)
