"""R-Net of Deep3DFaceReconstruction: a ResNet that regresses the coefficients of a morphable face, its pose and light.

Deng et al., CVPRW 2019, §3; models/networks.py (ReconNetWrapper) of Deep3DFaceRecon_pytorch: pictures in [0,1] without
ImageNet's mean and deviation, seven linear heads that start at zero, so that the first answer is the mean face.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.nn.init import initialize
from jaxface.nn.resnet import SIZES, ResNet
from jaxface.parallel import AXIS
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.networks import confidence_net, map_fit, refine
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Sizes

BACKBONES = ("resnet18", "resnet50")
REGRESSORS = ("linear", "map_fit")
# The heads whose outputs the regressor "map_fit" uses as a prior only, in its order.
FITTED = ("identity", "expression", "angles", "translation", "depth")
IN_PLANE = 2
LANDMARKS = 68


class RNet(nn.Module):
    """Pictures (B,S,S,3) RGB in [0,1] to coefficients (B,sizes.total), by the given `regressor`.

    `refine`: how many steps `answer` goes on from there.
    """

    backbone: ResNet
    sizes: Sizes
    regressor: str = "linear"
    num_dense_points: int = 0
    refine: int = 0

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return self.regress(image, train)[0]

    @nn.compact
    def regress(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """coefficients (B,sizes.total), the pooled feature (B,C) and the first stage's map (B,S/4,S/4,C1)."""
        maps = self.backbone(image, train)
        pooled = maps[-1].mean((1, 2))
        if self.regressor == "linear":
            return jnp.concatenate([*self._heads(pooled).values()], -1), pooled, maps[0]
        look = map_fit.Reader(LANDMARKS + self.num_dense_points, self.backbone.axis_name, name="reader")
        features, *landmarks = look(maps, train)
        parts = self._heads(features)
        fitted = {name: parts[name] for name in FITTED}
        found = map_fit.Fit(self.sizes, name=map_fit.NAME)(jnp.concatenate([*fitted.values()], -1), *landmarks)
        ends = np.cumsum([part.shape[-1] for part in fitted.values()])
        parts |= zip(fitted, jnp.split(found, ends[:-1], axis=-1), strict=True)
        return jnp.concatenate([*parts.values()], -1), pooled, maps[0]

    def _heads(self, features: jax.Array) -> dict[str, jax.Array]:
        zeros, heads = nn.initializers.zeros, heads_of(self.sizes)
        return {name: nn.Dense(count, kernel_init=zeros, name=name)(features) for name, count in heads.items()}


def heads_of(sizes: Sizes) -> dict[str, int]:
    """The linear heads in the order of their outputs; the translation has two, in the picture's plane and in depth."""
    counts = dict(sizes.groups)
    depth = counts.pop("translation") - IN_PLANE
    return {**counts, "translation": IN_PLANE, "depth": depth}


def sizes_from_config(config: ml_collections.ConfigDict) -> Sizes:
    """The coefficient counts of `config.model`."""
    return Sizes(config.identity, config.expression, config.albedo, config.white_light)


def model_from_config(config: ml_collections.ConfigDict) -> RNet:
    """The network of `config.model`. UserError names what is wrong. Its keys:

    image_size: int, side of the crop in pixels: 224 as published.
    backbone: "resnet18" or "resnet50"; width: channels of the first stage, 64 as published.
    regressor: "linear", as published: linear heads on the pooled features; "map_fit" (ours): the face is fitted to
        landmarks that the network predicts.
    num_dense_points: number of face points that "map_fit" predicts besides the 68 landmarks; even.
    refine: number of steps of `refine.refine` (ours) after "map_fit" at inference; 0: none.
    identity, expression, albedo: how many coefficients, 80, 64, 80 as published.
    white_light: one set of nine light coefficients, as in the paper (239 in all), or one a channel, as in both codes.
    confidence: whether there is a `CNet` beside it, for several pictures of a person.
    """
    for key, allowed in (("backbone", BACKBONES), ("regressor", REGRESSORS)):
        if config[key] not in allowed:
            raise UserError(f"config.model.{key} is {config[key]!r}; use one of {', '.join(allowed)}")
    count = config.num_dense_points
    if count % 2 or count < 0 or (count and config.regressor != "map_fit"):
        raise UserError(f"config.model.num_dense_points is {count}; use an even number, and 0 without 'map_fit'")
    if config.refine < 0 or (config.refine and config.regressor != "map_fit"):
        raise UserError(f"config.model.refine is {config.refine}; use 0, or more with the regressor 'map_fit'")
    depths, bottleneck = SIZES[config.backbone]
    backbone = ResNet(depths, bottleneck, config.width, AXIS)
    return RNet(backbone, sizes_from_config(config), config.regressor, count, config.refine)


def init(
    model: RNet,
    image_size: int,
    confidence: bool,
    key: jax.Array,
    load_face: Callable[[], FaceModel] | None = None,
) -> tuple[Any, Any]:
    """Initial (params, model_state) with batch statistics. With `confidence` also a C-Net's under its name.

    The regressor "map_fit" needs `load_face()`, whose landmarks become part of `model_state`.
    """
    params, variables = initialize(model, key, jnp.zeros((1, image_size, image_size, 3)))
    if model.regressor == "map_fit":
        variables[map_fit.COLLECTION] = {map_fit.NAME: map_fit.points_model(load_face(), model.num_dense_points)}
    return warm_start(model, image_size, confidence, params, variables, key)


def warm_start(
    model: RNet, image_size: int, confidence: bool, params: Any, model_state: Any, key: jax.Array | None = None
) -> tuple[Any, Any]:
    """The parameters of another run for a run of this model: a C-Net that is wanted and lacking starts fresh."""
    if not confidence or confidence_net.NAME in params:
        return params, model_state
    image = jnp.zeros((1, image_size, image_size, 3))
    regress = functools.partial(model.apply, method="regress")
    _, *features = jax.eval_shape(regress, {"params": params, **model_state}, image)
    empty = [jnp.zeros(feature.shape) for feature in features]
    fresh = jax.jit(confidence_net.CNet(model.sizes.identity).init)(jax.random.key(0) if key is None else key, *empty)
    return {**params, confidence_net.NAME: fresh["params"]}, model_state


def raw(model: RNet, face: Any, params: Any, model_state: Any, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """The network alone, never refined, on arrays: `image` (B,S,S,3) in [0,1], or `coefficients` (B,sizes.total).

    Returns `coefficients`, and where `face()` gives a FaceModel also `vertices` (B,V,3) in camera space, dm,
    `landmarks` (B,68,2) in pixels of the 224 px crop with y up, and `colors` (B,V,3), unclipped, 1 = white. Raises
    UserError where neither input is there or a shape does not fit.
    """
    if "coefficients" in arrays:
        coefficients = jnp.asarray(arrays["coefficients"], jnp.float32)
        if coefficients.ndim != 2 or coefficients.shape[1] != model.sizes.total:
            raise UserError(f"coefficients has shape {coefficients.shape}; it must be (B,{model.sizes.total})")
    elif "image" in arrays:
        image = jnp.asarray(arrays["image"], jnp.float32)
        if image.ndim != 4 or image.shape[-1] != 3:
            raise UserError(f"image has shape {image.shape}; it must be (B,H,W,3)")
        coefficients = regress(model.clone(refine=0), {"params": params, **model_state}, image)
    else:
        raise UserError(f"the arrays have neither image nor coefficients, only {sorted(arrays)}")
    outputs = {"coefficients": coefficients}
    known = face()
    if known is not None:
        decoded = decode(known, model.sizes, coefficients)
        outputs |= {name: getattr(decoded, name) for name in ("vertices", "landmarks", "colors")}
    return outputs


def combine(model: RNet, variables: Any, image: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The identity (I,) of the person that all pictures (N,S,S,3) show, weighed by the C-Net; coefficients (N,n)."""
    return np.asarray(_combine(model, variables, image, coefficients[:, : model.sizes.identity]))


@functools.partial(jax.jit, static_argnums=0)
def _combine(model: RNet, variables: Any, image: jax.Array, identity: jax.Array) -> jax.Array:
    _, pooled, early = model.apply(variables, image, method="regress")
    confidence = confidence_net.apply(variables["params"], model.sizes.identity, pooled, early)
    return confidence_net.weighted_mean(identity[None], confidence[None])[0]


def answer(
    model: RNet, variables: Any, image: jax.Array, face: FaceModel | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `RNet.regress` with the running statistics; where `model.refine`, which needs `face`, better coefficients."""
    if not model.refine:
        return model.apply(variables, image, method="regress")
    (vector, *features), looked = model.apply(variables, image, method="regress", mutable=["intermediates"])
    (evidence,) = looked["intermediates"][map_fit.NAME]["evidence"]
    points = variables[map_fit.COLLECTION][map_fit.NAME]
    return refine.refine(face, model.sizes, points, image, vector, evidence, model.refine), *features


@functools.partial(jax.jit, static_argnums=0)
def regress(model: RNet, variables: Any, image: jax.Array, face: FaceModel | None = None) -> jax.Array:
    """The coefficients (B,sizes.total) of `answer`, compiled."""
    return answer(model, variables, image, face)[0]


@functools.partial(jax.jit, static_argnums=1)
def decode(face: FaceModel, sizes: Sizes, coefficients: jax.Array) -> image_formation.Decoded:
    """`formation.decode` of vectors (B,sizes.total), compiled."""
    return image_formation.decode(face, image_formation.split(coefficients, sizes))
