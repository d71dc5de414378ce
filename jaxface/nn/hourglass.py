"""Stacked-hourglass blocks (Newell et al., ECCV 2016), NHWC. Source: bearpaw/pytorch-pose, `models/hourglass.py`.

1x1 convolutions are matrix products, and 2x2 pooling and upsampling are reshapes: on CPUs XLA runs both several times
faster than its convolution and the gradient of its pooling.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.batch_norm import BatchNorm, StatisticsAxis
from jaxface.nn.convolution import Conv, Pointwise
from jaxface.nn.remat import by_block

EXPANSION = 2
# PyTorch's initialisation of convolutions and linear layers: uniform within 1/sqrt(fan-in).
INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def pointwise(width: int, name: str, dtype: jnp.dtype = jnp.float32) -> Pointwise:
    """A 1x1 convolution with bias to `width` channels."""
    return Pointwise(width, INIT, dtype, name=name)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling with stride 2: (B,H,W,C) to (B,H/2,W/2,C); H and W are even."""
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def upsample(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by 2: (B,H,W,C) to (B,2H,2W,C)."""
    batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return blocks.reshape(batch, 2 * height, 2 * width, channels)


class Bottleneck(nn.Module):
    """Pre-activation residual bottleneck, (B,H,W,C) to (B,H,W,2*planes).

    Three times norm, ReLU, convolution (1x1, 3x3, 1x1). The shortcut is the input, or a 1x1 convolution of it if the
    number of channels changes. If `axis_name` is given, batch statistics are synchronised over that axis. `dtype` is
    the type of the computation.
    """

    planes: int
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        out = EXPANSION * self.planes
        spatial = Conv(self.planes, 3, kernel_init=INIT, dtype=self.dtype, name="conv2")
        layers = pointwise(self.planes, "conv1", self.dtype), spatial, pointwise(out, "conv3", self.dtype)
        y = x
        for number, layer in enumerate(layers, start=1):
            y = layer(nn.relu(BatchNorm(self.axis_name, name=f"bn{number}")(y, train)))
        return y + (x if x.shape[-1] == out else pointwise(out, "shortcut", self.dtype)(x))


class Residuals(nn.Module):
    """Sequence of `blocks` bottlenecks, (B,H,W,C) to (B,H,W,2*planes). `remat` recomputes them for their gradient."""

    planes: int
    blocks: int
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for index in range(self.blocks):
            block = by_block(Bottleneck, self.remat)
            x = block(self.planes, self.axis_name, self.dtype, name=f"block{index}")(x, train)
        return x


class Hourglass(nn.Module):
    """Hourglass of `levels` resolutions with a skip branch at each: (B,H,W,2*planes) to the same shape.

    H and W are multiples of 2**levels. Level 0 is the innermost one, as in the original's lists, and the only one with
    a fourth branch.
    """

    levels: int
    planes: int
    blocks: int = 1
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self._level(self.levels - 1, x, train)

    def _level(self, level: int, x: jax.Array, train: bool) -> jax.Array:
        def branch(number: int, x: jax.Array) -> jax.Array:
            sizes = self.planes, self.blocks, self.axis_name, self.dtype, self.remat
            return Residuals(*sizes, name=f"level{level}_{number}")(x, train)

        skip = branch(0, x)
        low = branch(1, max_pool(x))
        low = self._level(level - 1, low, train) if level else branch(3, low)
        return skip + upsample(branch(2, low))
