"""Pools, query encoder and predictors of the continuous network (`model`). Shapes: B images, N queries, C features.

"Unofficial" marks what follows the PyTorch reimplementation florisdf/continuous_landmarks, "ours" what deviates from it
and from the paper (Chandran et al., CVPR 2023).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn import soft_argmax
from jaxface.nn.convnext import Block
from jaxface.nn.mlp import MLP, gelu
from jaxface.nn.transformer import AttentionBlock, CrossCovarianceBlock
from jaxface.parallel import AXIS

GRID_CHANNELS = 32
# Stride of the finest map that `MapPool` keeps.
MAP_STRIDE = 8


class GridPool(nn.Module):
    """Flattens the last map instead of averaging it: LayerNorm, 1x1 convolution, flatten, Dense, GELU. (B,width).

    Ours, for small encoders: it keeps the position of features, and requires a fixed image size.
    """

    width: int

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(maps[-1].astype(jnp.float32))
        x = nn.Dense(GRID_CHANNELS, name="reduce")(x)
        return gelu(nn.Dense(self.width, name="dense")(x.reshape(x.shape[0], -1)))


class MapPool(nn.Module):
    """Feature pyramid (B,H/8,W/8,width) of the encoder's maps from stride 8 on, without pooling (ours).

    Coarse maps are upsampled and added to finer ones; one ConvNeXt block and a LayerNorm follow.
    """

    width: int

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        fused = None
        for index in range(len(maps) - 1, 0, -1):
            x = nn.LayerNorm(epsilon=1e-6, name=f"norm{index}")(maps[index].astype(jnp.float32))
            x = nn.Dense(self.width, name=f"reduce{index}")(x)
            fused = x if fused is None else x + jax.image.resize(fused, x.shape, "linear")
        return nn.LayerNorm(epsilon=1e-6, name="norm")(Block(layer_scale=1.0, name="block")(fused))


class QueryEncoder(nn.Module):
    """Encodes template positions (…,3) as codes (…,width) with an MLP of two layers, each followed by GELU.

    The input is extended by `fourier_bands` octaves of sines and cosines (ours; the paper has none).
    """

    width: int
    fourier_bands: int = 0

    @nn.compact
    def __call__(self, queries: jax.Array) -> jax.Array:
        angles = queries[..., None] * (jnp.pi * 2.0 ** jnp.arange(self.fourier_bands))
        fourier = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*queries.shape[:-1], -1)
        return MLP((self.width, self.width), name="mlp")(jnp.concatenate([queries, fourier], -1))


class ConditionedDense(nn.Module):
    """Linear layer (B,N,width) on concatenated codes (B,N,Q) and image features (B,C).

    Its matrix is split in two, so that the features are multiplied once per image instead of once per query.
    """

    width: int

    @nn.compact
    def __call__(self, code: jax.Array, features: jax.Array) -> jax.Array:
        shared = nn.Dense(self.width, name="features")(features)
        return nn.Dense(self.width, use_bias=False, name="code")(code) + shared[:, None]


class PointwisePredictor(nn.Module):
    """MLP of `layers` hidden layers with GELU and `outputs` per query (3). Queries do not influence each other."""

    width: int
    layers: int
    outputs: int = 3

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        del valid, train
        x = gelu(ConditionedDense(self.width, name="first")(code, features))
        return MLP((self.width,) * (self.layers - 1), self.outputs, name="mlp")(x)


class SoftArgmaxPredictor(nn.Module):
    """Soft-argmax over a feature map (B,h,w,C), refined by an MLP on the attended features (ours).

    Regression from one feature vector has to learn the position of every template point. Here a query only has to
    match the local appearance of its point, which takes far fewer examples. Queries do not influence each other. Sows
    "log_attention" (B,N,h*w), which `losses.training_loss` supervises as a heat map.
    """

    width: int
    layers: int

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        del valid, train
        batch, height, width, channels = features.shape
        cells = features.reshape(batch, height * width, channels)
        query = MLP((self.width,), channels, name="seek")(code)
        logits = jnp.einsum("bnc,btc->bnt", query, cells) / channels**0.5
        self.sow("intermediates", "log_attention", nn.log_softmax(logits))
        attention = nn.softmax(logits)
        position = soft_argmax.expectation(attention, cell_centers(height, width))
        attended = jnp.concatenate([code, soft_argmax.expectation(attention, cells), position], -1)
        out = MLP((self.width,) * self.layers, 3, name="mlp")(attended)
        return out.at[..., :2].add(position)


def cell_centers(height: int, width: int) -> jax.Array:
    """Centres (height * width, 2) of a map's cells, row by row, as x, y in `crop_units`."""
    return soft_argmax.cell_centers(height, width, extent=2.0) - 1


class TransformerPredictor(nn.Module):
    """Transformer over the queries of an image, so an output depends on the whole query set.

    `kind`: "transformer" (unofficial; cross-covariance attention with batch norm), "xca" (the same without batch norm)
    or "mhsa" (ours; pre-norm self-attention).
    """

    kind: str
    width: int
    layers: int
    heads: int
    outputs: int = 3

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        x = ConditionedDense(self.width, name="first")(code, features)
        for index in range(self.layers):
            x = self._block(f"block{index}")(x, valid, train)
        if self.kind == "mhsa":
            x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.outputs, name="last")(x)

    def _block(self, name: str) -> nn.Module:
        if self.kind == "mhsa":
            return AttentionBlock(self.heads, name=name)
        return CrossCovarianceBlock(self.heads, local=self.kind == "transformer", axis_name=AXIS, name=name)
