"""Continuous landmark detection with 3D queries (Chandran et al., CVPR 2023): 2D positions of any template points.

A ConvNeXt encodes the image into features, an MLP encodes each query (a 3D point of the template) into a code, and a
predictor regresses the query's position (`crop_units`) and its standard deviation from both. The paper leaves sizes
open: docstrings mark what follows the unofficial PyTorch reimplementation florisdf/continuous_landmarks ("unofficial")
and what deviates from both ("ours").
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxface import crops
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.nn import soft_argmax
from jaxface.nn.convnext import SIZES, Block, ConvNeXt
from jaxface.nn.init import initialize
from jaxface.nn.mlp import MLP, gelu
from jaxface.nn.transformer import AttentionBlock, CrossCovarianceBlock
from jaxface.parallel import AXIS
from jaxface.systems.continuous.query_table import OTHER_TEMPLATE

GRID_CHANNELS = 32
LOG_SIGMA_RANGE = (-7.0, 3.0)
# In `crop_units`: 0.11 px in a crop of 224 px. Without a floor the likelihood is unbounded.
SIGMA_FLOOR = 1e-3
TRANSFORMERS = ("transformer", "xca", "mhsa")
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
    """MLP of `layers` hidden layers with GELU and 3 outputs per query (paper). Queries do not influence each other."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        del valid, train
        x = gelu(ConditionedDense(self.width, name="first")(code, features))
        return MLP((self.width,) * (self.layers - 1), 3, name="mlp")(x)


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

    @nn.compact
    def __call__(self, code, features, valid=None, train: bool = False) -> jax.Array:
        x = ConditionedDense(self.width, name="first")(code, features)
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
    """The whole network: encoder, query encoder and predictor. Shapes: B images, N queries, C features.

    An image is encoded once, and any number of query sets can be predicted from its features. Parameters, and all
    computation after the encoder, are float32.

    Attributes:
        encoder: backbone.
        predictor: code and features to position and uncertainty.
        query_encoder: template position to code.
        mean: (3,) of RGB in [0,1], subtracted from the image.
        std: (3,) of RGB in [0,1], by which the image is divided.
        pool: replaces the encoder's global average pooling; None keeps it (paper).
        anchors: template points to which the queries of a transformer attend at inference; () where queries are
            independent.
        log_sigma: whether the third output is log sigma, clamped, with a floor (ours), or log variance (unofficial).
    """

    encoder: ConvNeXt
    predictor: nn.Module
    query_encoder: QueryEncoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: GridPool | MapPool | None = None
    log_sigma: bool = True
    anchors: tuple[tuple[float, float, float], ...] = ()

    def encode(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Features (B,C), or with `MapPool` (B,h,w,C), of images (B,H,W,3) RGB in [0,1], as fed to the predictor."""
        normalised = (image - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        pooled, maps = self.encoder(normalised, train)
        return pooled if self.pool is None else self.pool(maps)

    def query(self, features, queries, valid=None, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Position and standard deviation of each query.

        Args:
            features: output of `encode`.
            queries: (B,N,3) template units.
            valid: (B,N) bool; False marks padding, which does not influence other queries. None: all are valid.
            train: whether to use dropout and batch statistics.

        Returns:
            Points (B,N,2) in `crop_units`, and sigma (B,N), isotropic, in the same unit.
        """
        out = self.predictor(self.query_encoder(queries), features, valid, train)
        if self.log_sigma:
            sigma = jnp.exp(jnp.clip(out[..., 2], *LOG_SIGMA_RANGE)) + SIGMA_FLOOR
        else:
            sigma = jnp.exp(0.5 * out[..., 2])
        return out[..., :2], sigma

    def answer(self, features, queries, asked=None) -> tuple[jax.Array, jax.Array]:
        """`query` for inference: the answer to a query does not depend on which others are asked with it.

        In a transformer the queries then attend to the fixed `anchors` only, so that any number of them can be asked in
        groups of any size. Without anchors, or with a pointwise predictor, this is `query`.
        """
        if not self.anchors:
            return self.query(features, queries, asked)
        anchors = jnp.broadcast_to(jnp.asarray(self.anchors), (len(queries), len(self.anchors), 3))
        seen = jnp.arange(len(self.anchors) + queries.shape[1]) < len(self.anchors)
        tokens = jnp.concatenate([anchors, queries], axis=1)
        outputs = self.query(features, tokens, jnp.broadcast_to(seen, tokens.shape[:2]))
        return tuple(output[:, len(self.anchors) :] for output in outputs)

    def __call__(self, image, queries, valid=None, train: bool = False) -> tuple[jax.Array, jax.Array]:
        return self.query(self.encode(image, train), queries, valid, train)


POOLS = {"grid": GridPool, "map": MapPool}


def model_from_config(config: ml_collections.ConfigDict) -> Continuous:
    """The network of `config.model`. Raises UserError for an unknown encoder and inconsistent widths. Keys:

    encoder: "convnext_<size>" or "convnextv2_<size>" (`nn.convnext.SIZES`), or "custom" (V1) with `depths`, `dims`.
    image_size: side of the crop in pixels (not read here).
    dtype: "float32" or "bfloat16", of the encoder's computation only.
    remat: whether the activations of a block of the encoder are recomputed for its gradient.
    layer_scale: initial layer scale of a V1 block (1e-6 as published; short training runs of shallow nets need 1).
    final_norm: LayerNorm after the mean (unofficial: False); pools other than "mean" have their own.
    drop_path: stochastic depth rate of the last block.
    pool: "mean" (paper), "grid" (ours; needs a fixed image size) or "map" (ours; for predictor "soft_argmax").
    feature_width: width of the features; with pool "mean" it is the encoder's own (768 in the paper).
    query_width: width of the query encoder (64).
    fourier_bands: octaves of sines and cosines that are added to a query (ours), 0 in the paper.
    predictor: "mlp", "transformer" (unofficial layout, with batch norm), "xca" (without batch norm), "mhsa" (ours),
        "soft_argmax" (ours; needs pool "map").
    width, layers, heads: of the predictor. Unofficial: mlp 512, 4; transformer 768, 4, 8. Ours: mhsa 256, 4, 8.
    mean, std: 3 numbers each for RGB in [0,1]: ImageNet's, or (unofficial) 0.5 and 0.2.
    template: the head whose template the queries are points of, "makehuman" or, for models of version 0.1, "procedural"
        (`canonical.in_template`); "other" for weights that were trained on a template of their own (`other_template`).
    sigma: "log" (ours: log sigma, clamped, floor) or "variance" (unofficial: log variance).
    sigma_scale: factor on the sigma of predictions, not on that of `System.raw` (not read here). Training maximises the
        likelihood of rendered points; errors on photographs are larger. Multiply it by `error_over_sigma` of
        `launch.evaluate` on data like yours, so that the mean sigma is the mean error.
    mirror: whether predictions are averaged with those of a mirrored crop (not read here).
    """
    encoder = _encoder(config)
    _check(config, encoder.dims[-1])
    if config.predictor == "mlp":
        predictor = PointwisePredictor(config.width, config.layers)
    elif config.predictor == "soft_argmax":
        predictor = SoftArgmaxPredictor(config.width, config.layers)
    else:
        predictor = TransformerPredictor(config.predictor, config.width, config.layers, config.heads)
    return Continuous(
        encoder=encoder,
        predictor=predictor,
        query_encoder=QueryEncoder(config.query_width, config.fourier_bands),
        mean=tuple(config.mean),
        std=tuple(config.std),
        pool=POOLS[config.pool](config.feature_width) if config.pool in POOLS else None,
        log_sigma=config.sigma == "log",
        anchors=_anchors(config),
    )


def _anchors(config: ml_collections.ConfigDict) -> tuple[tuple[float, ...], ...]:
    """The 68 landmarks for a transformer on our template, whose training always asks for many of them."""
    if config.predictor not in TRANSFORMERS or config.get("template", OTHER_TEMPLATE) == OTHER_TEMPLATE:
        return ()
    points = canonical.in_template(canonical.queries("68"), config.template)
    return tuple(map(tuple, points.astype(float).tolist()))


def _encoder(config: ml_collections.ConfigDict) -> ConvNeXt:
    family, _, size = config.encoder.partition("_")
    if config.encoder == "custom":
        depths, dims = config.depths, config.dims
    elif family in ("convnext", "convnextv2") and size in SIZES:
        depths, dims = SIZES[size]
    else:
        sizes = ", ".join(SIZES)
        raise UserError(
            f"config.model.encoder is {config.encoder!r}; use custom, or convnext_ or convnextv2_ followed by {sizes}"
        )
    return ConvNeXt(
        depths=tuple(depths),
        dims=tuple(dims),
        version=2 if family == "convnextv2" else 1,
        drop_path=config.drop_path,
        layer_scale=config.layer_scale,
        final_norm=config.final_norm and config.pool == "mean",
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
    )


def _check(config: ml_collections.ConfigDict, encoder_width: int) -> None:
    if config.pool == "mean" and config.feature_width != encoder_width:
        raise UserError(
            f'config.model.feature_width is {config.feature_width}; with pool "mean" it must be the encoder\'s width, '
            f"{encoder_width}"
        )
    if (config.pool == "map") != (config.predictor == "soft_argmax"):
        raise UserError(
            f'config.model: pool is "{config.pool}" and predictor is "{config.predictor}"; "map" and "soft_argmax" '
            "require each other"
        )
    if config.predictor in TRANSFORMERS and config.width % config.heads:
        raise UserError(f"config.model.width {config.width} is not a multiple of config.model.heads {config.heads}")


def init(model: Continuous, image_size: int, key: jax.Array) -> tuple[Any, Any]:
    """Randomly initialised (params, model_state); the latter is `{}`, or {"batch_stats": …} of "transformer"."""
    return initialize(model, key, jnp.zeros((1, image_size, image_size, 3)), jnp.zeros((1, 1, 3)))


def raw(model: Continuous, params: Any, model_state: Any, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """`System.raw`: the network on prepared arrays.

    Args:
        model: the network.
        params: its parameters.
        model_state: its batch statistics.
        arrays: `image` (B,H,W,3) RGB in [0,1], and optionally `queries` (B,N,3) in template units.

    Returns:
        `features` (B,C) as fed to the predictor (a map is flattened row by row), and with queries `points` (B,N,2) and
        `sigma` (B,N) in `crop_units`.

    Raises:
        UserError: `image` is missing, or a shape does not fit.
    """
    variables = {"params": params, **model_state}
    image = crops.image_input(arrays)
    features = _apply(model, "encode", variables, image)
    outputs = {"features": features.reshape(image.shape[0], -1)}
    if "queries" in arrays:
        queries = jnp.asarray(arrays["queries"], jnp.float32)
        if queries.ndim != 3 or queries.shape[::2] != (image.shape[0], 3):
            raise UserError(f"queries: the shape is {queries.shape}; it must be ({image.shape[0]},N,3)")
        outputs["points"], outputs["sigma"] = _apply(model, "query", variables, features, queries)
    return outputs


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model: Continuous, method: str, variables: Any, *arrays: jax.Array) -> Any:
    return model.apply(variables, *arrays, method=method)
