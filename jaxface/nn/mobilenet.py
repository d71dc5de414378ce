"""MobileNetV2 (Sandler et al., CVPR 2018) and MobileNetV3-Large (Howard et al., ICCV 2019), NHWC.

V2 matches torchvision. V3 matches the PIPNet repository (after d-li14/mobilenetv3.pytorch), which differs from
torchvision: squeeze-and-excitation precedes the second activation and consists of linear layers; widths 200 and 184.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.batch_norm import BatchNorm, StatisticsAxis
from jaxface.nn.convolution import Conv
from jaxface.nn.depthwise import INIT as DEPTHWISE_INIT
from jaxface.nn.depthwise import depthwise
from jaxface.nn.remat import by_block

# torchvision's initialisation: Kaiming normal, fan-out.
INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(NamedTuple):
    """Inverted residual: expansion to `hidden`, depthwise with kernel `size` and `stride`, projection to `out`."""

    size: int
    hidden: int
    out: int
    stride: int
    squeeze: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu6


def _v2() -> tuple[Bottleneck, ...]:
    """MobileNetV2, table 2: rows of (expansion, channels, repetitions, stride)."""
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    blocks, width = [], 32
    for expansion, out, count, stride in rows:
        for index in range(count):
            blocks.append(Bottleneck(3, expansion * width, out, 1 if index else stride))
            width = out
    return tuple(blocks)


def _v3_large() -> tuple[Bottleneck, ...]:
    """MobileNetV3-Large, table 1, with the widths of the PIPNet repository."""
    relu, swish = nn.relu, nn.hard_swish
    return (
        Bottleneck(3, 16, 16, 1, False, relu),
        Bottleneck(3, 64, 24, 2, False, relu),
        Bottleneck(3, 72, 24, 1, False, relu),
        Bottleneck(5, 72, 40, 2, True, relu),
        Bottleneck(5, 120, 40, 1, True, relu),
        Bottleneck(5, 120, 40, 1, True, relu),
        Bottleneck(3, 240, 80, 2, False, swish),
        Bottleneck(3, 200, 80, 1, False, swish),
        Bottleneck(3, 184, 80, 1, False, swish),
        Bottleneck(3, 184, 80, 1, False, swish),
        Bottleneck(3, 480, 112, 1, True, swish),
        Bottleneck(3, 672, 112, 1, True, swish),
        Bottleneck(5, 672, 160, 2, True, swish),
        Bottleneck(5, 960, 160, 1, True, swish),
        Bottleneck(5, 960, 160, 1, True, swish),
    )


class Variant(NamedTuple):
    """A network: channels of the stem, blocks, channels of the last layer, activation of stem and last layer."""

    stem: int
    blocks: tuple[Bottleneck, ...]
    last: int
    activation: Callable[[jax.Array], jax.Array]


SIZES = {
    "mobilenet_v2": Variant(32, _v2(), 1280, nn.relu6),
    "mobilenet_v3": Variant(16, _v3_large(), 960, nn.hard_swish),
}


def round_to_eight(channels: float) -> int:
    """Multiple of 8 nearest to `channels`, at least 8 and at least 90 % of `channels` (`_make_divisible`)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class Squeeze(nn.Module):
    """Squeeze-and-excitation of (B,H,W,C) with reduction 4 and a hard sigmoid."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        pooled = x.mean((1, 2))
        inner = nn.relu(nn.Dense(round_to_eight(channels // 4), dtype=self.dtype, name="reduce")(pooled))
        gate = nn.hard_sigmoid(nn.Dense(channels, dtype=self.dtype, name="expand")(inner))
        return x * gate[:, None, None]


class Block(nn.Module):
    """Inverted residual layer: expand (omitted if `hidden` is the input width), depthwise, squeeze, project."""

    spec: Bottleneck
    axis_name: StatisticsAxis
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        size, hidden, out, stride, squeeze, activation = self.spec

        def norm(name: str, y: jax.Array) -> jax.Array:
            return BatchNorm(self.axis_name, name=name)(y, train)

        y = x
        if hidden != x.shape[-1]:
            y = activation(norm("expand_norm", pointwise(y, hidden, "expand", self.dtype)))
        kernel = self.param("depthwise", DEPTHWISE_INIT, (size, size, 1, hidden))
        y = norm("depthwise_norm", depthwise(y.astype(self.dtype), kernel.astype(self.dtype), stride))
        y = activation(Squeeze(self.dtype, name="squeeze")(y) if squeeze else y)
        y = norm("project_norm", pointwise(y, out, "project", self.dtype))
        return x + y if stride == 1 and x.shape == y.shape else y


def pointwise(x: jax.Array, width: int, name: str, dtype: jnp.dtype) -> jax.Array:
    """1x1 convolution without bias as a submodule of the calling module; kernel (C,width)."""
    return nn.Dense(width, use_bias=False, kernel_init=INIT, dtype=dtype, name=name)(x)


class MobileNet(nn.Module):
    """MobileNet backbone without classifier: normalised image (B,H,W,3) to (B,H/32,W/32,variant.last).

    If `axis_name` is given, batch statistics are synchronised over that axis. `dtype` and `remat` as in `ResNet`.
    """

    variant: Variant
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return self.maps(image, train)[-1]

    @nn.compact
    def maps(self, image: jax.Array, train: bool = False) -> list[jax.Array]:
        """Maps at strides 4, 8, 16 and 32, each the last one of its stride; the last map is that of `__call__`."""
        stem, blocks, last, activation = self.variant
        block = by_block(Block, self.remat)
        x = Conv(stem, 3, 2, use_bias=False, kernel_init=INIT, dtype=self.dtype, name="stem")(image)
        x = activation(BatchNorm(self.axis_name, name="stem_norm")(x, train))
        maps: list[jax.Array] = []
        for number, spec in enumerate(blocks, start=1):
            if spec.stride == 2:
                maps.append(x)
            x = block(spec, self.axis_name, self.dtype, name=f"block{number}")(x, train)
        x = pointwise(x, last, "last", self.dtype)
        return [*maps[1:], activation(BatchNorm(self.axis_name, name="last_norm")(x, train))]
