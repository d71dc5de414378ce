"""R-Net of Deep3DFaceReconstruction: a ResNet that regresses the coefficients, pose and lighting of a morphable face.

Source: Deng et al., CVPRW 2019, §3; ReconNetWrapper in models/networks.py of Deep3DFaceRecon_pytorch. As there, images
are in [0,1] without ImageNet normalisation, and the seven linear output layers are zero-initialised, so an untrained
network predicts the mean face.

Ours: the regressor "map_fit", which predicts landmarks and fits the face to them, and the photometric refinement of
`networks.refine` after it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface import crops
from jaxface.errors import UserError
from jaxface.geometry.map_estimate import Observation
from jaxface.nn.batch_norm import statistics_axis
from jaxface.nn.init import initialize
from jaxface.nn.resnet import SIZES, ResNet
from jaxface.parallel import AXIS
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.networks import confidence_net, map_fit, refine, size_net
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Sizes

BACKBONES = ("resnet18", "resnet50")
REGRESSORS = ("linear", "map_fit")
# The output layers that give the prior mean of the regressor "map_fit", in the order of its unknowns.
FITTED_OUTPUTS = ("identity", "expression", "angles", "translation", "depth")
# The output layer "translation" predicts x and y, the layer "depth" predicts z.
IN_PLANE = 2
LANDMARKS = 68


class RNet(nn.Module):
    """Regresses coefficients (B,sizes.total) from aligned crops (B,S,S,3), RGB in [0,1].

    Attributes:
        backbone: the ResNet.
        sizes: number of coefficients of each kind.
        regressor: "linear" (published), linear layers on the pooled feature; "map_fit" (ours), a MAP fit to landmarks.
        num_dense_points: number of face points that "map_fit" predicts besides the 68 landmarks.
        refine: number of Gauss-Newton steps of `regress_and_refine`; the module itself does not use it.
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
        """Regresses coefficients, and returns the two features that the C-Net reads.

        Args:
            image: (B,S,S,3), RGB in [0,1].
            train: whether batch norm uses the statistics of the batch.

        Returns:
            Coefficients (B,sizes.total), the pooled feature (B,C), and the first stage's map (B,S/4,S/4,C1).
        """
        maps = [features.astype(jnp.float32) for features in self.backbone(image, train)]
        pooled = maps[-1].mean((1, 2))
        outputs = self._output_layers(pooled) if self.regressor == "linear" else self._fit_landmarks(maps, train)
        return jnp.concatenate([*outputs.values()], -1), pooled, maps[0]

    def _fit_landmarks(self, maps: list[jax.Array], train: bool) -> dict[str, jax.Array]:
        """The outputs of the layers, with FITTED_OUTPUTS replaced by their MAP estimate given predicted landmarks."""
        count = LANDMARKS + self.num_dense_points
        predict_landmarks = map_fit.SoftArgmaxHead(count, self.backbone.axis_name, name=map_fit.SOFT_ARGMAX)
        features, points, covariance = predict_landmarks(maps, train)
        outputs = self._output_layers(features)
        prior_mean = jnp.concatenate([outputs[name] for name in FITTED_OUTPUTS], -1)
        estimate = map_fit.MAPFitLayer(self.sizes, name=map_fit.NAME)(prior_mean, points, covariance)
        ends = np.cumsum([outputs[name].shape[-1] for name in FITTED_OUTPUTS])
        fitted = jnp.split(estimate, ends[:-1], axis=-1)
        return outputs | dict(zip(FITTED_OUTPUTS, fitted, strict=True))

    def _output_layers(self, features: jax.Array) -> dict[str, jax.Array]:
        zeros, counts = nn.initializers.zeros, output_sizes(self.sizes)
        return {name: nn.Dense(count, kernel_init=zeros, name=name)(features) for name, count in counts.items()}


def output_sizes(sizes: Sizes) -> dict[str, int]:
    """Widths of the linear output layers, in the order of the coefficient vector, translation split into xy and z."""
    counts = dict(sizes.groups)
    depth = counts.pop("translation") - IN_PLANE
    return {**counts, "translation": IN_PLANE, "depth": depth}


def sizes_from_config(config: ml_collections.ConfigDict) -> Sizes:
    """The coefficient counts of `config.model`."""
    return Sizes(config.identity, config.expression, config.albedo, config.white_light)


def model_from_config(config: ml_collections.ConfigDict) -> RNet:
    """The network of `config.model`.

    Keys:
        image_size: int, side of the crop in pixels; 224 as published.
        backbone: "resnet18" or "resnet50".
        width: channels of the first stage; 64 as published.
        regressor: "linear", as published: linear layers on the pooled feature; "map_fit" (ours): the face is fitted to
            landmarks that the network predicts.
        num_dense_points: number of face points that "map_fit" predicts besides the 68 landmarks; even.
        refine: number of steps of `refine.refine` (ours) after "map_fit"; 0: none. R-Net itself trains without them.
        identity, expression, albedo: numbers of coefficients; 80, 64, 80 as published.
        white_light: one set of nine lighting coefficients, as in the paper (239 coefficients in total), instead of one
            per colour channel, as in both public codes (257).
        confidence: whether the model has a C-Net, which combines the identities of several images of a person.
        metric_size: whether the model has a SizeNet, which predicts the true size of heads.
        batch_norm_group: number of devices over which batch statistics are averaged; 0: all.
        dtype: "float32" or "bfloat16", of the backbone's computation; all that follows is float32.
        remat: whether the activations of a block of the backbone are recomputed for its gradient.

    Raises:
        UserError: a value does not fit the others.
    """
    count = config.num_dense_points
    if count % 2 or count < 0 or (count and config.regressor != "map_fit"):
        raise UserError(f"config.model.num_dense_points is {count}; use an even number, and 0 without 'map_fit'")
    if config.refine < 0 or (config.refine and config.regressor != "map_fit"):
        raise UserError(f"config.model.refine is {config.refine}; use 0, or more with the regressor 'map_fit'")
    depths, bottleneck = SIZES[config.backbone]
    axis = statistics_axis(AXIS, config.batch_norm_group)
    backbone = ResNet(depths, bottleneck, config.width, axis, jnp.dtype(config.dtype), config.remat)
    return RNet(backbone, sizes_from_config(config), config.regressor, count, config.refine)


def init(
    model: RNet,
    image_size: int,
    parts: Sequence[str],
    key: jax.Array,
    load_face: Callable[[], FaceModel] | None = None,
) -> tuple[Any, Any]:
    """Random initial variables of R-Net, and of the parts that the config asks for.

    Args:
        model: the network.
        image_size: side S of the crop in pixels.
        parts: names of parts in addition to R-Net, see `parts_from_config`.
        key: random key.
        load_face: returns the face model; needed for the regressor "map_fit", whose landmarks it defines.

    Returns:
        (params, model_state): the parameters of a part are under its name; model_state holds the batch
        statistics and, for "map_fit", the mean and modes of its landmarks.
    """
    params, variables = initialize(model, key, jnp.zeros((1, image_size, image_size, 3)))
    if model.regressor == "map_fit":
        variables[map_fit.COLLECTION] = {map_fit.NAME: map_fit.points_model(load_face(), model.num_dense_points)}
    return warm_start(model, image_size, parts, params, variables, key)


def warm_start(
    model: RNet, image_size: int, parts: Sequence[str], params: Any, model_state: Any, key: jax.Array | None = None
) -> tuple[Any, Any]:
    """Adapts (params, model_state) of another run to this model.

    Parts that `params` lacks are randomly initialised from `key`, or from seed 0 if `key` is None. Everything else is
    returned unchanged.
    """
    missing = [name for name in parts if name not in params]
    if not missing:
        return params, model_state
    image = jnp.zeros((1, image_size, image_size, 3))
    abstract_regress = functools.partial(model.apply, method="regress")
    _, *features = jax.eval_shape(abstract_regress, {"params": params, **model_state}, image)
    pooled, early = (jnp.zeros(feature.shape) for feature in features)
    identity = jnp.zeros((1, model.sizes.identity))
    modules = {
        confidence_net.NAME: (confidence_net.CNet(model.sizes.identity), pooled, early),
        size_net.NAME: (size_net.SizeNet(), pooled, identity),
    }
    key = jax.random.key(0) if key is None else key
    added = {}
    for name in missing:
        module, *inputs = modules[name]
        added[name] = jax.jit(module.init)(key, *inputs)["params"]
    return {**params, **added}, model_state


def is_set(image: jax.Array) -> bool:
    """Whether a batch of images is one of sets (B,N,S,S,3), not of single images (B,S,S,3)."""
    return image.ndim == 5


def parts_from_config(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The names of the parts that `config.model` adds to R-Net: the keys of their parameters."""
    flags = {confidence_net.NAME: config.confidence, size_net.NAME: config.metric_size}
    return tuple(name for name, is_used in flags.items() if is_used)


class Regression(NamedTuple):
    """The output of `regress_and_refine` for B images.

    Attributes:
        coefficients: (B,sizes.total).
        pooled: (B,C) the pooled feature.
        early: (B,h,w,C1) the first stage's map.
        observation: what the regressor "map_fit" fitted the face to; None with another regressor.
    """

    coefficients: jax.Array
    pooled: jax.Array
    early: jax.Array
    observation: Observation | None


def regress_and_refine(model: RNet, variables: Any, image: jax.Array, face: FaceModel | None) -> Regression:
    """`RNet.regress` with the running statistics, then photometric refinement if `model.refine` is positive.

    Args:
        model: the network.
        variables: its params and model_state in one dict.
        image: (B,S,S,3), RGB in [0,1].
        face: the face model, used by the refinement only.
    """
    outputs, sown = model.apply(variables, image, method="regress", mutable=["intermediates"])
    if model.regressor != "map_fit":
        return Regression(*outputs, None)
    coefficients, *features = outputs
    (observation,) = sown["intermediates"][map_fit.NAME]["observation"]
    if model.refine:
        points = variables[map_fit.COLLECTION][map_fit.NAME]
        coefficients = refine.refine(face, model.sizes, points, image, coefficients, observation, model.refine)
    return Regression(coefficients, *features, observation)


@functools.partial(jax.jit, static_argnums=0)
def regress(model: RNet, variables: Any, image: jax.Array, face: FaceModel | None = None) -> jax.Array:
    """The coefficients (B,sizes.total) of `regress_and_refine`, compiled."""
    return regress_and_refine(model, variables, image, face).coefficients


@functools.partial(jax.jit, static_argnums=1)
def decode(face: FaceModel, sizes: Sizes, coefficients: jax.Array) -> image_formation.Decoded:
    """`image_formation.decode` of coefficient vectors (B,sizes.total), compiled."""
    return image_formation.decode(face, image_formation.split(coefficients, sizes))


@functools.partial(jax.jit, static_argnums=0)
def size_ratio(model: RNet, variables: Any, image: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Ratios (B,) of the true size of heads to their reconstructed size.

    Args:
        model: the network.
        variables: its params, which include a SizeNet's, and model_state in one dict.
        image: (B,S,S,3), RGB in [0,1].
        coefficients: (B,sizes.total), predicted for each image.
    """
    _, pooled, _ = model.apply(variables, image, method="regress")
    return jnp.exp(size_net.apply(variables["params"], pooled, coefficients[:, : model.sizes.identity]))


def raw(
    model: RNet,
    load_face: Callable[[], FaceModel | None],
    params: Any,
    model_state: Any,
    arrays: dict[str, Any],
) -> dict[str, jax.Array]:
    """`System.raw`: the network's output on arrays, without refinement, for comparison with other implementations.

    Args:
        model: the network.
        load_face: returns the face model that decodes the coefficients, or None if its file is not configured.
        params: parameters.
        model_state: batch statistics and the constants of `map_fit`.
        arrays: `image` (B,S,S,3), RGB in [0,1], or `coefficients` (B,sizes.total).

    Returns:
        `coefficients` (B,sizes.total); with a face model also `vertices` (B,V,3) in camera space, dm, `landmarks`
        (B,68,2) in pixels of the 224 px crop, y up, and `colors` (B,V,3), lit RGB, unclipped, 1 = white.

    Raises:
        UserError: neither array is present, or it has the wrong shape.
    """
    coefficients = _raw_coefficients(model, {"params": params, **model_state}, arrays)
    outputs = {"coefficients": coefficients}
    face = load_face()
    if face is not None:
        decoded = decode(face, model.sizes, coefficients)
        outputs |= {name: getattr(decoded, name) for name in ("vertices", "landmarks", "colors")}
    return outputs


def _raw_coefficients(model: RNet, variables: Any, arrays: dict[str, Any]) -> jax.Array:
    if "coefficients" in arrays:
        coefficients = jnp.asarray(arrays["coefficients"], jnp.float32)
        if coefficients.ndim != 2 or coefficients.shape[1] != model.sizes.total:
            raise UserError(f"coefficients: the shape is {coefficients.shape}; it must be (B,{model.sizes.total})")
        return coefficients
    if "image" not in arrays:
        raise UserError(f"arrays: there are only {sorted(arrays)}; add image or coefficients")
    return regress(model.clone(refine=0), variables, crops.image_input(arrays))
