"""ResNet v1.5 (He et al., CVPR 2016; stride in the bottleneck's 3x3), NHWC. Source: torchvision's `resnet.py`."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.batch_norm import BatchNorm, StatisticsAxis
from jaxface.nn.convolution import Conv
from jaxface.nn.pooling import max_pool
from jaxface.nn.remat import by_block

# (blocks per stage, whether they are bottlenecks).
SIZES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
EXPANSION = 4
# torchvision's initialisation: Kaiming normal for ReLU, fan-out.
INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    x: jax.Array, width: int, size: int, stride: int, name: str, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Convolution without bias as a submodule of the calling module; kernel (size,size,C,width), PyTorch's padding."""
    return Conv(width, size, stride, use_bias=False, kernel_init=INIT, dtype=dtype, name=name)(x)


class Block(nn.Module):
    """Residual block, then ReLU: two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 with 4 * `width` outputs.

    (B,H,W,C) to (B,H/stride,W/stride,`width` or 4 * `width`).
    """

    width: int
    stride: int
    bottleneck: bool
    axis_name: StatisticsAxis
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        out = self.width * (EXPANSION if self.bottleneck else 1)
        # (outputs, kernel size, stride) of each convolution.
        layers = [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)]
        if not self.bottleneck:
            layers = [(out, 3, self.stride), (out, 3, 1)]
        y = x
        for number, layer in enumerate(layers, start=1):
            y = self._conv_norm(y, str(number), *layer, train)
            if number < len(layers):
                y = nn.relu(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = self._conv_norm(x, "_shortcut", out, 1, self.stride, train)
        return nn.relu(x + y)

    def _conv_norm(self, x: jax.Array, suffix: str, width: int, size: int, stride: int, train: bool) -> jax.Array:
        x = convolution(x, width, size, stride, f"conv{suffix}", self.dtype)
        return BatchNorm(self.axis_name, name=f"bn{suffix}")(x, train)


class ResNet(nn.Module):
    """ResNet backbone without classifier: normalised image (B,H,W,3) to one feature map (B,h,w,C) per stage.

    Stage s has stride 4 * 2**s and C = width * 2**s channels, four times as many with bottlenecks. The input of the
    official classifier is the mean of the last map. `depths` and `bottleneck` are listed in `SIZES`. If `axis_name` is
    given, batch statistics are synchronised over that axis. `dtype` is the type of the computation and of the maps;
    parameters and batch statistics are float32. `remat`: the activations of a block are recomputed for its gradient.
    """

    depths: Sequence[int]
    bottleneck: bool = False
    width: int = 64
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> list[jax.Array]:
        block = by_block(Block, self.remat)
        x = convolution(image, self.width, 7, 2, "conv1", self.dtype)
        x = nn.relu(BatchNorm(self.axis_name, name="bn1")(x, train))
        x = max_pool(x)
        maps = []
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                width = self.width * 2**stage
                x = block(width, stride, self.bottleneck, self.axis_name, self.dtype, name=name)(x, train)
            maps.append(x)
        return maps
