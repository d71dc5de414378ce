"""Continuous landmark detection with 3D queries (Chandran et al., CVPR 2023): 2D positions of any template points.

A ConvNeXt or MobileNet encodes the image into features, an MLP encodes each query (a 3D point of the template) into a
code, and a predictor regresses the query's position (`crop_units`) and its standard deviation from both. The paper
leaves sizes open: docstrings mark what follows the unofficial PyTorch reimplementation florisdf/continuous_landmarks
("unofficial") and what deviates from both ("ours").
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
from jaxface.nn import mobilenet
from jaxface.nn.convnext import SIZES, ConvNeXt
from jaxface.nn.init import initialize
from jaxface.parallel import AXIS
from jaxface.systems.continuous import canonical_points, spatial_transformer
from jaxface.systems.continuous.predictors import (
    GridPool,
    MapPool,
    PointwisePredictor,
    QueryEncoder,
    SoftArgmaxPredictor,
    TransformerPredictor,
)
from jaxface.systems.continuous.query_table import OTHER_TEMPLATE

LOG_SIGMA_RANGE = (-7.0, 3.0)
# In `crop_units`: 0.11 px in a crop of 224 px. Without a floor the likelihood is unbounded.
SIGMA_FLOOR = 1e-3
TRANSFORMERS = ("transformer", "xca", "mhsa")


class MobileEncoder(nn.Module):
    """A MobileNet as encoder: image (B,H,W,3) to pooled features (B,C) and maps at strides 4, 8, 16 and 32."""

    variant: mobilenet.Variant
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        net = mobilenet.MobileNet(self.variant, AXIS, self.dtype, self.remat, name="mobilenet")
        maps = net.maps(image, train)
        return maps[-1].astype(jnp.float32).mean((1, 2)), maps


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
        normaliser: finds the similarity with which the image is cropped again before it is encoded; None: none. Its
            transform is the last numbers of the features.
        camera: if the predictor gives displacements of the template, finds the camera that shows the moved points.
        log_sigma: whether the last output is log sigma, clamped, with a floor (ours), or log variance (unofficial).
    """

    encoder: ConvNeXt | MobileEncoder
    predictor: nn.Module
    query_encoder: QueryEncoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: GridPool | MapPool | None = None
    log_sigma: bool = True
    anchors: tuple[tuple[float, float, float], ...] = ()
    normaliser: spatial_transformer.Localiser | None = None
    camera: canonical_points.CameraHead | None = None

    def encode(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Features (B,C), or with `MapPool` (B,h,w,C), of images (B,H,W,3) RGB in [0,1], as fed to the predictor."""
        normalised = (image - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        if self.normaliser is None:
            return self._features(normalised, train)
        transform = self.normaliser(normalised)
        features = self._features(spatial_transformer.normalise(normalised, transform), train)
        return jnp.concatenate([features, transform], axis=-1)

    def _features(self, normalised: jax.Array, train: bool) -> jax.Array:
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
        transform = None
        if self.normaliser is not None:
            transform = features[..., -spatial_transformer.PARAMETERS :]
            features = features[..., : -spatial_transformer.PARAMETERS]
        out = self.predictor(self.query_encoder(queries), features, valid, train)
        if self.log_sigma:
            sigma = jnp.exp(jnp.clip(out[..., -1], *LOG_SIGMA_RANGE)) + SIGMA_FLOOR
        else:
            sigma = jnp.exp(0.5 * out[..., -1])
        points = out[..., :-1]
        if self.camera is not None:
            displacement = canonical_points.DISPLACEMENT_SCALE * points
            self.sow("intermediates", "displacement", displacement)
            points = self.camera(features).project(queries + displacement)
        if transform is not None:
            points = spatial_transformer.to_crop(transform, points)
            sigma = sigma * spatial_transformer.scale(transform)[:, None]
        return points, sigma

    def canonical(self, features, queries) -> tuple[jax.Array, canonical_points.HeadCamera]:
        """Points (B,N,3) of the head in template units, and the camera of the (normalised) images.

        For networks with a `camera`; arguments as in `query`.
        """
        if self.normaliser is not None:
            features = features[..., : -spatial_transformer.PARAMETERS]
        out = self.predictor(self.query_encoder(queries), features, None, False)
        return queries + canonical_points.DISPLACEMENT_SCALE * out[..., :-1], self.camera(features)

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

    encoder: "convnext_<size>" or "convnextv2_<size>" (`nn.convnext.SIZES`), "custom" (V1) with `depths`, `dims`, or
        "mobilenet_v2" or "mobilenet_v3", to which the keys below that name ConvNeXt do not apply.
    image_size: side of the crop in pixels (not read here).
    dtype: "float32" or "bfloat16", of the encoder's computation only.
    remat: whether the activations of a block of the encoder are recomputed for its gradient.
    layer_scale: initial layer scale of a ConvNeXt V1 block (1e-6 as published; short training runs of shallow nets
        need 1).
    final_norm: LayerNorm after the mean of a ConvNeXt (unofficial: False); pools other than "mean" have their own.
    drop_path: stochastic depth rate of the last block of a ConvNeXt.
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
    normaliser: whether the image is cropped again by a learned similarity (`spatial_transformer`).
    output: "image", or "canonical": 3D points of the head, pose and focal length (`canonical_points`). Both are parts
        of Infinite 3D Landmarks and need a predictor other than "soft_argmax", which reads positions in the image.
    sigma_scale: factor on the sigma of predictions, not on that of `System.raw` (not read here). Training maximises the
        likelihood of rendered points; errors on photographs are larger. Multiply it by `error_over_sigma` of
        `launch.evaluate` on data like yours, so that the mean sigma is the mean error.
    mirror: whether predictions are averaged with those of a mirrored crop (not read here).
    """
    encoder = _encoder(config)
    _check(config, encoder.variant.last if isinstance(encoder, MobileEncoder) else encoder.dims[-1])
    in_3d = config.output == "canonical"
    outputs = 4 if in_3d else 3
    if config.predictor == "mlp":
        predictor = PointwisePredictor(config.width, config.layers, outputs)
    elif config.predictor == "soft_argmax":
        predictor = SoftArgmaxPredictor(config.width, config.layers)
    else:
        predictor = TransformerPredictor(config.predictor, config.width, config.layers, config.heads, outputs)
    return Continuous(
        encoder=encoder,
        predictor=predictor,
        query_encoder=QueryEncoder(config.query_width, config.fourier_bands),
        mean=tuple(config.mean),
        std=tuple(config.std),
        pool=POOLS[config.pool](config.feature_width) if config.pool in POOLS else None,
        log_sigma=config.sigma == "log",
        anchors=_anchors(config),
        normaliser=spatial_transformer.Localiser() if config.normaliser else None,
        camera=canonical_points.CameraHead() if in_3d else None,
    )


def _anchors(config: ml_collections.ConfigDict) -> tuple[tuple[float, ...], ...]:
    """The 68 landmarks for a transformer on our template, whose training always asks for many of them."""
    if config.predictor not in TRANSFORMERS or config.get("template", OTHER_TEMPLATE) == OTHER_TEMPLATE:
        return ()
    points = canonical.in_template(canonical.queries("68"), config.template)
    return tuple(map(tuple, points.astype(float).tolist()))


def _encoder(config: ml_collections.ConfigDict) -> ConvNeXt | MobileEncoder:
    if config.encoder in mobilenet.SIZES:
        return MobileEncoder(mobilenet.SIZES[config.encoder], jnp.dtype(config.dtype), config.remat)
    family, _, size = config.encoder.partition("_")
    if config.encoder == "custom":
        depths, dims = config.depths, config.dims
    elif family in ("convnext", "convnextv2") and size in SIZES:
        depths, dims = SIZES[size]
    else:
        sizes = ", ".join(SIZES)
        raise UserError(
            f"config.model.encoder is {config.encoder!r}; use custom, {' or '.join(mobilenet.SIZES)}, or convnext_ or "
            f"convnextv2_ followed by {sizes}"
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
    if config.predictor == "soft_argmax" and (config.normaliser or config.output != "image"):
        raise UserError(
            'config.model.predictor is "soft_argmax", which reads positions in the image; use "mlp" with normaliser or '
            'with output "canonical"'
        )
    if config.predictor in TRANSFORMERS and config.width % config.heads:
        raise UserError(
            f"config.model.width {config.width} is not a multiple of config.model.heads {config.heads}; change one"
        )


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

    With output "canonical" also `canonical` (B,N,3) template units, `rotation` (B,3,3), `translation` (B,3) and
    `focal` (B,) of `canonical_points.HeadCamera`.
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
        if model.camera is not None:
            outputs["canonical"], camera = _apply(model, "canonical", variables, features, queries)
            outputs |= {name: getattr(camera, name) for name in ("rotation", "translation", "focal")}
    return outputs


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(model: Continuous, method: str, variables: Any, *arrays: jax.Array) -> Any:
    return model.apply(variables, *arrays, method=method)
