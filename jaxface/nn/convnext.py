"""ConvNeXt V1 (Liu et al., CVPR 2022) and V2 (Woo et al., CVPR 2023), NHWC.

Source: `models/convnext.py` and `models/convnextv2.py` of the official repositories and timm's `convnext.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.depthwise import Depthwise
from jaxface.nn.mlp import gelu
from jaxface.nn.remat import by_block

# Size names of timm: (blocks per stage, channels per stage).
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
    """Non-overlapping patch embedding, (B,H,W,C) to (B,H//size,W//size,width), as one matrix product.

    Equivalent to a convolution with kernel and stride `size` and no padding: rows and columns that do not fill a patch
    are dropped, as in PyTorch. The kernel has shape (size,size,C,width).
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
        cropped = image[:, : rows * size, : columns * size].astype(self.dtype)
        patches = cropped.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
        return patches.reshape(batch, rows, columns, -1) @ kernel.reshape(-1, self.width) + bias


class GlobalResponseNorm(nn.Module):
    """Global response normalisation of (B,H,W,C) (ConvNeXt V2, §3); scale and bias are initialised to zero."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True)
        # Double where: the gradient of the norm of an all-zero channel is 0, as in PyTorch, instead of NaN.
        norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
        relative = norm / (norm.mean(-1, keepdims=True) + EPSILON)
        return x + (scale * (x * relative) + bias).astype(x.dtype)


class Block(nn.Module):
    """ConvNeXt block: depthwise 7x7, LayerNorm, C to 4C, GELU, 4C to C, layer scale (V1) or GRN (V2), residual."""

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
    """ConvNeXt backbone without classifier: normalised image (B,H,W,3) to (pooled features (B,C), feature maps).

    Pooled features are the spatial mean of the last map. The feature maps are the outputs (B,h,w,C) of the stages, at
    strides 4, 8, 16 and 32, before any final norm. Sides are floored to multiples of the stride, as in
    PyTorch.

    Attributes:
        depths: blocks per stage, see `SIZES`.
        dims: channels per stage.
        version: 1 or 2.
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0 at the first block. Applied
            per sample, in training only, from the "dropout" random stream.
        layer_scale: initial layer scale (version 1).
        final_norm: whether LayerNorm is applied to the pooled features, as before the official classifier.
        dtype: type of the computation; parameters are float32.
        remat: whether the activations of a block are recomputed for its gradient instead of kept in memory.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    version: int = 1
    drop_path: float = 0.0
    layer_scale: float = LAYER_SCALE
    final_norm: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        maps: list[jax.Array] = []
        block = by_block(Block, self.remat)
        x, block_index, last_index = image, 0, max(sum(self.depths) - 1, 1)
        for stage, (depth, width) in enumerate(zip(self.depths, self.dims, strict=True)):
            x = self._downsample(x, stage, width)
            for index in range(depth):
                rate = self.drop_path * block_index / last_index
                x = block(self.version, rate, self.layer_scale, self.dtype, name=f"stage{stage}_block{index}")(x, train)
                block_index += 1
            maps.append(x)
        pooled = x.astype(jnp.float32).mean((1, 2))
        return (nn.LayerNorm(epsilon=EPSILON, name="norm")(pooled) if self.final_norm else pooled), maps

    def _downsample(self, x: jax.Array, stage: int, width: int) -> jax.Array:
        """Stem (patch embedding, then norm) or downsampling layer (norm, then patch embedding)."""
        if stage == 0:
            x = PatchEmbedding(width, 4, self.dtype, name="stem")(x)
            return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="stem_norm")(x)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=f"stage{stage}_norm")(x)
        return PatchEmbedding(width, 2, self.dtype, name=f"stage{stage}_downsample")(x)
