"""ConvNeXt V1 (Liu et al., CVPR 2022) and V2 (Woo et al., CVPR 2023), NHWC.

Matches `models/convnext.py` and `models/convnextv2.py` of the official repositories and timm's `convnext.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.depthwise import Depthwise
from jaxface.nn.mlp import gelu

# timm's names: blocks per stage and channels per stage.
SIZES = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}
LAYER_SCALE = 1e-6
EPSILON = 1e-6
INIT = nn.initializers.normal(0.02)


class PatchEmbedding(nn.Module):
    """Convolution with kernel = stride = `size` and no padding, as one matrix product: (B,H,W,C) to (B,H//s,W//s,D).

    Rows and columns that fill no whole patch are dropped, as PyTorch does. The kernel is (size,size,C,D), D = `width`.
    """

    width: int
    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        batch, height, width, channels = image.shape
        size, rows, columns = self.size, height // self.size, width // self.size
        kernel = self.param("kernel", INIT, (size, size, channels, self.width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        whole = image[:, : rows * size, : columns * size].astype(self.dtype)
        patches = whole.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
        return patches.reshape(batch, rows, columns, -1) @ kernel.reshape(-1, self.width) + bias


class GlobalResponseNorm(nn.Module):
    """V2's competition between channels, over H and W of (B,H,W,C); scale and bias start at zero."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True)
        # Double where: the gradient of the norm of an all-zero channel is 0, as in PyTorch, and not NaN.
        norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
        relative = norm / (norm.mean(-1, keepdims=True) + EPSILON)
        return x + (scale * (x * relative) + bias).astype(x.dtype)


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, C to 4C, GELU, 4C to C, layer scale (V1) or response norm (V2), residual."""

    version: int = 1
    drop_path: float = 0.0
    layer_scale: float = LAYER_SCALE
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        channels = x.shape[-1]
        y = Depthwise(dtype=self.dtype, name="depthwise")(x)
        y = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(y)
        y = gelu(nn.Dense(4 * channels, kernel_init=INIT, dtype=self.dtype, name="expand")(y))
        if self.version == 2:
            y = GlobalResponseNorm(name="response")(y)
        y = nn.Dense(channels, kernel_init=INIT, dtype=self.dtype, name="project")(y)
        if self.version == 1:
            y *= self.param("scale", nn.initializers.constant(self.layer_scale), (channels,)).astype(self.dtype)
        return x + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


class ConvNeXt(nn.Module):
    """The backbone without a classifier: image (B,H,W,3), normalised, to pooled features (B,C) and each stage's map.

    `depths`, `dims`: as in `SIZES`. The maps (B,h,w,C) are not normalised; with `final_norm` the pooled mean of the
    last one is, as before the official classifier. `drop_path`: rate of the last block, growing linearly from 0 at the
    first; per sample, in training only, drawn from the "dropout" stream. `layer_scale`: V1's initial one. `dtype` is
    that of the computation; parameters are float32. Sizes that 32 does not divide are floored as in PyTorch.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    version: int = 1
    drop_path: float = 0.0
    layer_scale: float = LAYER_SCALE
    final_norm: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        maps: list[jax.Array] = []
        x, done, last = image, 0, max(sum(self.depths) - 1, 1)
        for stage, (depth, width) in enumerate(zip(self.depths, self.dims, strict=True)):
            x = self._reduce(x, stage, width)
            for index in range(depth):
                rate = self.drop_path * done / last
                x = Block(self.version, rate, self.layer_scale, self.dtype, name=f"stage{stage}_block{index}")(x, train)
                done += 1
            maps.append(x)
        pooled = x.astype(jnp.float32).mean((1, 2))
        return (nn.LayerNorm(epsilon=EPSILON, name="norm")(pooled) if self.final_norm else pooled), maps

    def _reduce(self, x: jax.Array, stage: int, width: int) -> jax.Array:
        """The stem (patches, then norm) or a downsampling (norm, then patches)."""
        if stage == 0:
            x = PatchEmbedding(width, 4, self.dtype, name="stem")(x)
            return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="stem_norm")(x)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=f"stage{stage}_norm")(x)
        return PatchEmbedding(width, 2, self.dtype, name=f"stage{stage}_downsample")(x)
