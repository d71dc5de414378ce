"""Continuous landmark detection with 3D queries (Chandran et al., CVPR 2023): any point of a template, found in 2D.

One feature vector per image (ConvNeXt), a code per query (MLP on its template position), and a predictor that turns
both into a place in the crop with its uncertainty. The paper leaves sizes open: where they follow the unofficial
PyTorch rebuild florisdf/continuous_landmarks or are our own, it is said below.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxface.errors import UserError
from jaxface.nn.convnext import SIZES, Block, ConvNeXt
from jaxface.nn.init import initialize
from jaxface.nn.mlp import MLP, gelu
from jaxface.nn.transformer import AttentionBlock, CrossCovarianceBlock
from jaxface.parallel import AXIS

GRID_CHANNELS = 32
LOG_SIGMA_RANGE = (-7.0, 3.0)
SIGMA_FLOOR = 1e-3  # 0.11 px of a 224 px crop: without a floor the likelihood is unbounded.


class GridPool(nn.Module):
    """Ours, for small nets: the last map (B,h,w,C) kept in place: norm, 1x1 convolution, flattened, Dense, GELU."""

    width: int

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(maps[-1].astype(jnp.float32))
        x = nn.Dense(GRID_CHANNELS, name="reduce")(x)
        return gelu(nn.Dense(self.width, name="dense")(x.reshape(x.shape[0], -1)))


class MapPool(nn.Module):
    """Ours: no pooling. The stages' maps from stride 8 on, coarse added to fine, and one block: (B,H/8,W/8,width)."""

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
    """Template position (…,3) to code (…,width): two layers with GELU, after `fourier_bands` octaves of waves."""

    width: int
    fourier_bands: int = 0

    @nn.compact
    def __call__(self, queries: jax.Array) -> jax.Array:
        angles = queries[..., None] * (jnp.pi * 2.0 ** jnp.arange(self.fourier_bands))
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*queries.shape[:-1], -1)
        return MLP((self.width, self.width), name="mlp")(jnp.concatenate([queries, waves], -1))


class Conditioned(nn.Module):
    """One linear layer on (code, features), split so that the features (B,F) are multiplied once, not per query."""

    width: int

    @nn.compact
    def __call__(self, code: jax.Array, features: jax.Array) -> jax.Array:
        shared = nn.Dense(self.width, name="features")(features)
        return nn.Dense(self.width, use_bias=False, name="code")(code) + shared[:, None]


class PointwisePredictor(nn.Module):
    """The MLP: `layers` layers with GELU, then 3 numbers per query. A query's answer does not depend on the others."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        del valid, train
        x = gelu(Conditioned(self.width, name="first")(code, features))
        return MLP((self.width,) * (self.layers - 1), 3, name="mlp")(x)


def cell_centers(height: int, width: int) -> jax.Array:
    """Where the cells of a map lie in the crop: (height * width, 2) as x, y in [-1,1], row by row."""
    y, x = jnp.meshgrid(*((2 * jnp.arange(n) + 1) / n - 1 for n in (height, width)), indexing="ij")
    return jnp.stack([x.ravel(), y.ravel()], -1)


class LocatingPredictor(nn.Module):
    """Ours, on a map (B,h,w,C): the query looks for its place (attention's mean position) and reads what is there.

    A regression from one vector must learn where everything is; here a query only learns what its place looks like,
    which takes far fewer examples. Queries do not see each other. Sows "log_attention" (B,N,h*w) for the loss.
    """

    width: int
    layers: int

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        del valid, train
        batch, height, width, channels = features.shape
        tokens = features.reshape(batch, height * width, channels)
        sought = MLP((self.width,), channels, name="seek")(code)
        logits = jnp.einsum("bnc,btc->bnt", sought, tokens) / channels**0.5
        self.sow("intermediates", "log_attention", nn.log_softmax(logits))
        attention = nn.softmax(logits)
        place = attention @ cell_centers(height, width)
        seen = jnp.concatenate([code, attention @ tokens, place], -1)
        out = MLP((self.width,) * self.layers, 3, name="mlp")(seen)
        return out.at[..., :2].add(place)


class SetPredictor(nn.Module):
    """A transformer over the queries, which see each other; `kind`: "transformer" (unofficial), "xca" or "mhsa"."""

    kind: str
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        x = Conditioned(self.width, name="first")(code, features)
        for index in range(self.layers):
            x = self._block(f"block{index}")(x, valid, train)
        if self.kind == "mhsa":
            x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(3, name="last")(x)

    def _block(self, name: str) -> nn.Module:
        if self.kind == "mhsa":
            return AttentionBlock(self.heads, name=name)
        return CrossCovarianceBlock(self.heads, local=self.kind == "transformer", axis_name=AXIS, name=name)


class Continuous(nn.Module):
    """The whole network. B images, N queries; parameters and everything behind the features are float32.

    `encode(image (B,H,W,3) RGB in [0,1]) -> features (B,C)`, with `MapPool` (B,h,w,C);
    `query(features, queries (B,N,3) in template units, valid (B,N) bool) -> points (B,N,2) in [-1,1], sigma (B,N)`.
    Padded queries (`valid` false) change no other answer. `log_sigma`: the third output is log sigma, clamped, with a
    floor (ours); otherwise it is the logarithm of the variance (unofficial).
    """

    encoder: ConvNeXt
    predictor: nn.Module
    query_encoder: QueryEncoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: GridPool | MapPool | None = None
    log_sigma: bool = True

    def encode(self, image: jax.Array, train: bool = False) -> jax.Array:
        """The features of each image, as fed to the predictor."""
        normalised = (image - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        pooled, maps = self.encoder(normalised, train)
        return pooled if self.pool is None else self.pool(maps)

    def query(self, features, queries, valid=None, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Where each query is in the crop, and how sure: one sigma for x and y, in crop units."""
        out = self.predictor(self.query_encoder(queries), features, valid, train)
        if self.log_sigma:
            sigma = jnp.exp(jnp.clip(out[..., 2], *LOG_SIGMA_RANGE)) + SIGMA_FLOOR
        else:
            sigma = jnp.exp(0.5 * out[..., 2])
        return out[..., :2], sigma

    def __call__(self, image, queries, valid=None, train: bool = False) -> tuple[jax.Array, jax.Array]:
        return self.query(self.encode(image, train), queries, valid, train)


POOLS = {"grid": GridPool, "map": MapPool}


def model_from_config(config: ml_collections.ConfigDict) -> Continuous:
    """The network of `config.model`. Raises UserError for an unknown name or widths that do not fit. Its keys:

    encoder: "convnext_<size>" or "convnextv2_<size>" (`nn.convnext.SIZES`), or "custom" (V1) with `depths`, `dims`.
    image_size: int, side of the crop in pixels (read by `init`).
    dtype: "float32" or "bfloat16", of the encoder's computation only.
    layer_scale: initial weight of a block of V1 (1e-6 as published; a short training of a shallow net wants 1).
    final_norm: LayerNorm after the mean (unofficial: False). drop_path: rate of the last block.
    pool: "mean" (paper), "grid" (ours; needs a fixed image size) or "map" (ours; for predictor "soft_argmax").
    feature_width: width of the features; with pool "mean" it is the encoder's own (768 in the paper).
    query_width: of the query encoder (64). fourier_bands: 0 (paper), or octaves of sin and cos (ours).
    predictor: "mlp", "transformer" (unofficial layout, with batch norm), "xca" (the same without), "mhsa" (ours),
        "soft_argmax" (ours; needs pool "map").
    width, layers, heads: of the predictor. Unofficial: mlp 512, 4; transformer 768, 4, 8. Ours: mhsa 256, 4, 8.
    mean, std: 3 numbers each for RGB in [0,1]: ImageNet's, or (unofficial) 0.5 and 0.2.
    sigma: "log" (ours: log sigma, clamped, floor) or "variance" (unofficial: log variance).
    """
    encoder = _encoder(config)
    _check(config, encoder.dims[-1])
    if config.predictor == "mlp":
        predictor = PointwisePredictor(config.width, config.layers)
    elif config.predictor == "soft_argmax":
        predictor = LocatingPredictor(config.width, config.layers)
    else:
        predictor = SetPredictor(config.predictor, config.width, config.layers, config.heads)
    return Continuous(
        encoder=encoder,
        predictor=predictor,
        query_encoder=QueryEncoder(config.query_width, config.fourier_bands),
        mean=tuple(config.mean),
        std=tuple(config.std),
        pool=POOLS[config.pool](config.feature_width) if config.pool in POOLS else None,
        log_sigma=config.sigma == "log",
    )


def _encoder(config: ml_collections.ConfigDict) -> ConvNeXt:
    family, _, size = config.encoder.partition("_")
    if config.encoder == "custom":
        depths, dims = config.depths, config.dims
    elif family in ("convnext", "convnextv2") and size in SIZES:
        depths, dims = SIZES[size]
    else:
        sizes = ", ".join(SIZES)
        raise UserError(f"config.model.encoder is {config.encoder!r}; use custom, convnext_ or convnextv2_ and {sizes}")
    return ConvNeXt(
        depths=tuple(depths),
        dims=tuple(dims),
        version=2 if family == "convnextv2" else 1,
        drop_path=config.drop_path,
        layer_scale=config.layer_scale,
        final_norm=config.final_norm and config.pool == "mean",
        dtype=jnp.dtype(config.dtype),
    )


def _check(config: ml_collections.ConfigDict, encoder_width: int) -> None:
    choices = {
        "pool": ("mean", *POOLS),
        "predictor": ("mlp", "soft_argmax", "transformer", "xca", "mhsa"),
        "sigma": ("log", "variance"),
    }
    for key, allowed in choices.items():
        if config[key] not in allowed:
            raise UserError(f"config.model.{key} is {config[key]!r}; use one of {', '.join(allowed)}")
    if config.pool == "mean" and config.feature_width != encoder_width:
        raise UserError(f'config.model.feature_width is {config.feature_width}; with pool "mean" it is {encoder_width}')
    if (config.pool == "map") != (config.predictor == "soft_argmax"):
        raise UserError('config.model.pool "map" and config.model.predictor "soft_argmax" go together')
    if config.predictor in ("transformer", "xca", "mhsa") and config.width % config.heads:
        raise UserError(f"config.model.width {config.width} is not a multiple of config.model.heads {config.heads}")


def init(model: Continuous, image_size: int, key: jax.Array) -> tuple[Any, Any]:
    """Fresh (params, model_state); `model_state` is `{}` or {"batch_stats": …} (predictor "transformer")."""
    return initialize(model, key, jnp.zeros((1, image_size, image_size, 3)), jnp.zeros((1, 1, 3)))


def raw(model: Continuous, params: Any, model_state: Any, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """The network on prepared arrays: `image` (B,H,W,3), and `queries` (B,N,3) or none.

    Returns `features` (B,C), a map row by row, and with queries `points` (B,N,2) in [-1,1] of the crop and `sigma`
    (B,N). Raises UserError where `image` is missing or a shape does not fit.
    """
    if "image" not in arrays:
        raise UserError(f"the arrays have no image, only {sorted(arrays)}")
    variables = {"params": params, **model_state}
    image = jnp.asarray(arrays["image"], jnp.float32)
    if image.ndim != 4 or image.shape[-1] != 3:
        raise UserError(f"image has shape {image.shape}; it must be (B,H,W,3)")
    features = _apply(model, "encode", variables, image)
    outputs = {"features": features.reshape(image.shape[0], -1)}
    if "queries" in arrays:
        queries = jnp.asarray(arrays["queries"], jnp.float32)
        if queries.ndim != 3 or queries.shape[::2] != (image.shape[0], 3):
            raise UserError(f"queries has shape {queries.shape}; it must be ({image.shape[0]},N,3)")
        outputs["points"], outputs["sigma"] = _apply(model, "query", variables, features, queries)
    return outputs


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model: Continuous, method: str, variables: Any, *arrays: jax.Array) -> Any:
    return model.apply(variables, *arrays, method=method)
