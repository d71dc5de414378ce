"""PIPNet (Jin, Liao, Shao, IJCV 2021; github.com/jhb86253817/PIPNet): landmarks as scores and offsets on a coarse grid.

Five 1x1 convolutions on a backbone's feature map predict the score of each landmark in each cell, its offset inside the
cell, and the offsets of its N nearest neighbours from the same cell. Matches lib/networks.py and lib/networks_gssl.py,
where scores and offsets have no sigmoid either.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxface import crops
from jaxface.errors import UserError
from jaxface.nn import mobilenet, resnet
from jaxface.nn.batch_norm import BatchNorm, statistics_axis
from jaxface.nn.convolution import Conv
from jaxface.nn.init import initialize
from jaxface.nn.mobilenet import MobileNet
from jaxface.nn.resnet import ResNet
from jaxface.parallel import AXIS
from jaxface.systems.pipnet import decoding
from jaxface.systems.pipnet.decoding import Votes

STRIDES = (16, 32, 64, 128)
# Channels of the layers that change a backbone's stride.
EXTRA_WIDTH = 512
HEAD_INIT = nn.initializers.normal(0.001)
BACKBONES = ("custom", *resnet.SIZES, *mobilenet.SIZES)

Maps = dict[str, jax.Array]


class PIPNet(nn.Module):
    """Image (B,H,W,3) RGB in [0,1] to raw maps for L landmarks and N neighbours on a grid of g = image size / stride.

    Returns `cls`, `x`, `y` (B,g,g,L) and `nb_x`, `nb_y` (B,g,g,L*N); neighbour j of landmark i is channel N*i+j. With
    `coarse` also `cls2` (B,g/2,g/2,L) and `cls3` (B,g/4,g/4,L): the score head on the features max-pooled over 2x2 and
    4x4 cells (self-training with curriculum, §3.4).

    Attributes:
        backbone: feature extractor; if it returns several maps, the last one (the coarsest) is used.
        landmarks: L.
        neighbors: N.
        scaling: `config.model.stride` divided by the backbone's stride. 0.5 adds a transposed convolution, 2 one
            strided convolution and 4 two, with 512 channels. The original supports this for ResNet-18 only: its heads
            keep the backbone's width, which fails for deeper ResNets, and its MobileNets ignore the stride.
        mean: (3,) of RGB, subtracted from the image.
        std: (3,) of RGB, by which the image is divided.
        dtype: type of the computation before the heads; heads and maps are float32.
    """

    backbone: ResNet | MobileNet
    landmarks: int
    neighbors: int
    scaling: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.scaling < 1:
            self.deconv1 = nn.ConvTranspose(
                EXTRA_WIDTH, (4, 4), (2, 2), ((2, 2), (2, 2)), use_bias=False, kernel_init=HEAD_INIT, dtype=self.dtype
            )
            self.bn_deconv1 = BatchNorm(self.backbone.axis_name)
        if self.scaling > 1:
            self.layer5, self.bn5 = _strided_conv(self.dtype), BatchNorm(self.backbone.axis_name)
        if self.scaling > 2:
            self.layer6, self.bn6 = _strided_conv(self.dtype), BatchNorm(self.backbone.axis_name)
        counts = {"cls": 1, "x": 1, "y": 1, "nb_x": self.neighbors, "nb_y": self.neighbors}
        self.heads = {
            name: nn.Dense(count * self.landmarks, kernel_init=HEAD_INIT, name=f"{name}_layer")
            for name, count in counts.items()
        }

    def features(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Feature map (B,g,g,C), the input of the heads."""
        x = self.backbone((image - jnp.asarray(self.mean)) / jnp.asarray(self.std), train)
        x = x[-1] if isinstance(x, list) else x
        if self.scaling < 1:
            x = nn.relu(self.bn_deconv1(self.deconv1(x), train))
        if self.scaling > 1:
            x = nn.relu(self.bn5(self.layer5(x), train))
        if self.scaling > 2:
            x = nn.relu(self.bn6(self.layer6(x), train))
        return x.astype(jnp.float32)

    def __call__(self, image: jax.Array, train: bool = False, coarse: bool = False) -> Maps:
        x = self.features(image, train)
        maps = {name: head(x) for name, head in self.heads.items()}
        if coarse:
            for name in ("cls2", "cls3"):
                x = nn.max_pool(x, (2, 2), (2, 2))
                maps[name] = self.heads["cls"](x)
        return maps


def _strided_conv(dtype: jnp.dtype) -> Conv:
    return Conv(EXTRA_WIDTH, 3, 2, kernel_init=HEAD_INIT, dtype=dtype)


def model_from_config(config: ml_collections.ConfigDict) -> PIPNet:
    """The network of `config.model`. Raises UserError for values that do not fit together. Keys:

    backbone: resnet18, resnet34, resnet50, resnet101, mobilenet_v2, mobilenet_v3, or custom: a ResNet of basic blocks
        with `depths` (blocks per stage) and `width` (channels of the first stage).
    image_size: int, side of the crop in pixels. stride: 16, 32 (as published), 64 or 128; it must divide image_size.
    landmarks: L. neighbors: N, the number of nearest mean-face points whose positions each landmark predicts (10).
    layout: name of the landmark layout in results. meanface: 2L numbers x0 y0 x1 y1 … in crop units; (): the data
        set's mean face.
    crop: how inference crops a face: "meanface" for models of annotated photos, "square" for those of rendered heads.
    merge: averaging of the votes, see `decoding.votes`. confidence: whether results have a confidence (ours).
    mean, std: 3 numbers each for RGB in [0,1].
    batch_norm_group: number of devices over which batch statistics are averaged; 0: all.
    dtype: "float32" or "bfloat16", of the computation up to the feature map; heads and maps are float32.
    remat: whether the activations of a block of the backbone are recomputed for its gradient.
    """
    backbone, backbone_stride = _backbone(config)
    scaling = config.stride / backbone_stride
    if config.stride not in STRIDES or not 0.5 <= scaling <= 4:
        raise UserError(f"config.model.stride is {config.stride}; choose one of {', '.join(map(str, STRIDES))}")
    if config.image_size % config.stride or config.image_size < config.stride:
        raise UserError(
            f"config.model.image_size {config.image_size} is not a multiple of the stride {config.stride}; choose one"
        )
    if config.landmarks < 2 or not 1 <= config.neighbors < config.landmarks:
        raise UserError(
            f"config.model.neighbors is {config.neighbors}; with {config.landmarks} landmarks it must be between 1 and "
            f"{config.landmarks - 1}"
        )
    colors = tuple(config.mean), tuple(config.std)
    return PIPNet(backbone, config.landmarks, config.neighbors, scaling, *colors, jnp.dtype(config.dtype))


def _backbone(config: ml_collections.ConfigDict) -> tuple[ResNet | MobileNet, int]:
    """The backbone and its stride."""
    name = config.backbone
    if name not in BACKBONES:
        raise UserError(f"config.model.backbone is {name!r}; choose one of {', '.join(BACKBONES)}")
    axis = statistics_axis(AXIS, config.batch_norm_group)
    options = {"axis_name": axis, "dtype": jnp.dtype(config.dtype), "remat": config.remat}
    if name in mobilenet.SIZES:
        return MobileNet(mobilenet.SIZES[name], **options), 32
    if name == "custom":
        return ResNet(tuple(config.depths), False, config.width, **options), 2 ** (1 + len(config.depths))
    return ResNet(*resnet.SIZES[name], **options), 32


def init(model: PIPNet, image_size: int, key: jax.Array) -> tuple[Any, Any]:
    """Randomly initialised (params, {"batch_stats": …})."""
    return initialize(model, key, jnp.zeros((1, image_size, image_size, 3)))


def predict_landmarks(model: PIPNet, votes: Votes, variables: Any, image: jax.Array) -> dict[str, jax.Array]:
    """Landmarks, scores and votes of images (B,H,W,3): `decoding.decode` of the network's maps."""
    return decoding.decode(model.apply(variables, image), votes)


def raw(model: PIPNet, votes: Votes, params: Any, model_state: Any, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """`System.raw`: the network on prepared arrays.

    Args:
        model: the network.
        votes: weights of the neighbours' votes.
        params: parameters.
        model_state: batch statistics.
        arrays: `image` (B,H,W,3) RGB in [0,1].

    Returns:
        `landmarks` and `landmarks_own` (B,L,2) in crop units and `scores` (B,L), see `decoding.decode`.

    Raises:
        UserError: `image` is missing or has another shape.
    """
    return _landmarks(model, votes, {"params": params, **model_state}, crops.image_input(arrays))


@functools.partial(jax.jit, static_argnums=0)
def _landmarks(model: PIPNet, votes: Votes, variables: Any, image: jax.Array) -> dict[str, jax.Array]:
    outputs = predict_landmarks(model, votes, variables, image)
    return {name: outputs[name] for name in ("landmarks", "landmarks_own", "scores")}
