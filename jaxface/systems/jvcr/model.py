"""Joint voxel and coordinate regression: image to compact volume of all landmarks to 3D coordinates.

Zhang et al., "Joint Voxel and Coordinate Regression for Accurate 3D Facial Landmark Localization", ICPR 2018, fig. 2;
official code HongwenZhang/JVCR-3Dlandmark, models/{hourglass,coordRegressor,pix2vox2coord}.py. Volumes are
(B,y,x,depth) here and (B,depth,y,x) in the original.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxface import crops
from jaxface.errors import UserError
from jaxface.nn import soft_argmax
from jaxface.nn.batch_norm import BatchNorm, StatisticsAxis
from jaxface.nn.convolution import Conv
from jaxface.nn.hourglass import INIT, Bottleneck, Hourglass, Residuals, max_pool, pointwise
from jaxface.nn.init import initialize
from jaxface.nn.remat import by_block
from jaxface.nn.volume import HalvingConv, WholeConv
from jaxface.system import Tree
from jaxface.systems.jvcr import face_prior
from jaxface.systems.jvcr.face_prior import FacePrior

# Pixels of the image per cell of the volume.
STRIDE = 4
# Side of the volume at the coordinate regressor's last convolution, whose kernel covers it completely.
LAST_SIDE = 4
# Negative slope of the coordinate regressor's leaky ReLUs.
LEAKY_SLOPE = 0.2
# Initial inverse temperature of the softmax along a volume's columns, whose peaks are 1.
SHARPNESS = 8.0
POINTS = (68, 71)
REGRESSORS = ("encoder", "soft_argmax")


class Pix2Vox(nn.Module):
    """Stacked hourglass: images (B,S,S,3) in [0,1] to one volume (B,S/4,S/4,D) per stack, with D from `depths`.

    Returns the volumes, which are linear outputs, and the features (B,S/4,S/4,width) that the last one is computed
    from.

    Attributes:
        depths: depth of each stack's volume.
        width: channels of the features.
        levels: resolution halvings inside an hourglass.
        blocks: bottlenecks per branch.
        axis_name: devices over which batch statistics are averaged.
        dtype: type of the computation; volumes and features are float32.
        remat: whether the activations of a bottleneck are recomputed for its gradient.
    """

    depths: tuple[int, ...]
    width: int
    levels: int
    blocks: int
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        x = self._stem(image, train)
        volumes, last = [], len(self.depths) - 1
        sizes = self.width // 2, self.blocks, self.axis_name, self.dtype, self.remat
        for index, depth in enumerate(self.depths):
            y = Hourglass(self.levels, *sizes, name=f"hourglass{index}")(x, train)
            y = Residuals(*sizes, name=f"residual{index}")(y, train)
            y = pointwise(self.width, f"fc{index}", self.dtype)(y)
            y = nn.relu(BatchNorm(self.axis_name, name=f"bn{index}")(y, train))
            volumes.append(pointwise(depth, f"score{index}")(y))
            if index < last:
                x = x + pointwise(self.width, f"fc_back{index}", self.dtype)(y)
                x = x + pointwise(self.width, f"score_back{index}", self.dtype)(volumes[-1])
        return volumes, y.astype(jnp.float32)

    def _stem(self, image: jax.Array, train: bool) -> jax.Array:
        quarter, half = self.width // 4, self.width // 2
        bottleneck, common = by_block(Bottleneck, self.remat), (self.axis_name, self.dtype)
        x = Conv(quarter, 7, 2, kernel_init=INIT, dtype=self.dtype, name="conv1")(image)
        x = nn.relu(BatchNorm(self.axis_name, name="bn_stem")(x, train))
        x = max_pool(bottleneck(quarter, *common, name="layer1")(x, train))
        x = bottleneck(half, *common, name="layer2")(x, train)
        return bottleneck(half, *common, name="layer3")(x, train)


class Vox2Coord(nn.Module):
    """Volume (B,n,n,n) to coordinates (B,points,3) x, y, z by 3D convolutions (paper); n = 4 * 2**len(channels).

    `features` is unused; it is there for the signature of `SoftArgmaxRegressor`.

    Attributes:
        channels: channels of the convolutions that halve the volume.
        width: outputs of the convolution over the remaining 4 x 4 x 4 cells.
        points: number of points.
        axis_name: devices over which batch statistics are averaged.
        dtype: type of the computation; coordinates are float32.
    """

    channels: tuple[int, ...]
    width: int
    points: int
    axis_name: StatisticsAxis = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, volume: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        del features
        x = volume[..., None]
        for index, channels in enumerate(self.channels):
            x = HalvingConv(channels, self.dtype, name=f"conv{index}")(x)
            x = BatchNorm(self.axis_name, name=f"bn{index}")(x, train)
            x = nn.leaky_relu(x, LEAKY_SLOPE)
        embedding = WholeConv(self.width, self.dtype, name=f"conv{len(self.channels)}")(x)
        return pointwise(3 * self.points, "coordinates")(embedding).reshape(volume.shape[0], self.points, 3)


class SoftArgmaxRegressor(nn.Module):
    """Volume (B,n,n,D) to coordinates (B,points,3) by soft-argmax and a learned face prior (ours, for short trainings).

    Each landmark has an attention over the n x n columns of the volume, computed from the features (B,n,n,C). The depth
    of a column is the soft-argmax along it. A coordinate is the expected position under the attention, plus the
    expected value of a linear map of the features (integral regression, Sun et al., ECCV 2018). `FacePrior` then
    replaces the points by a MAP estimate of the whole face, whose prior mean comes from an MLP of `width`. Sows
    "log_attention" (B,n*n,points).
    """

    points: int
    width: int

    @nn.compact
    def __call__(self, volume: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        del train
        batch, side, _, depth = volume.shape
        features = features.reshape(batch, side * side, -1)
        log_attention = nn.log_softmax(pointwise(self.points, "attention")(features), axis=1)
        self.sow("intermediates", "log_attention", log_attention)
        sharpness = self.param("sharpness", nn.initializers.constant(SHARPNESS), ())
        column = nn.softmax(sharpness * volume.reshape(batch, side * side, depth))
        z = (column * ((jnp.arange(depth) + 0.5) / depth)).sum(-1, keepdims=True)
        xy = jnp.broadcast_to(soft_argmax.cell_centers(side, side), (batch, side * side, 2))
        shift = nn.Dense(3 * self.points, kernel_init=nn.initializers.zeros, name="shift")(features)
        shift = shift.reshape(batch, side * side, self.points, 3)
        attention = jnp.exp(log_attention)
        coordinates = soft_argmax.expectation(attention, jnp.concatenate([xy, z], -1), axis=1)
        coordinates += jnp.einsum("btk,btkc->bkc", attention, shift)
        return FacePrior(self.points, name="prior")(coordinates, self._prior_mean(coordinates, features.mean(1)))

    def _prior_mean(self, coordinates: jax.Array, context: jax.Array) -> jax.Array:
        """Mean (B,UNKNOWNS) of the prior on the face, from the centred points and the mean features (B,C)."""
        shape = coordinates - coordinates.mean(1, keepdims=True)
        shape = nn.LayerNorm(name="norm_shape")(shape.reshape(coordinates.shape[0], -1))
        x = jnp.concatenate([shape, nn.LayerNorm(name="norm_context")(context)], -1)
        for layer in ("hidden1", "hidden2"):
            x = nn.gelu(nn.Dense(self.width, name=layer)(x))
        return nn.Dense(face_prior.UNKNOWNS, kernel_init=nn.initializers.zeros, name="guess")(x)


class JVCR(nn.Module):
    """Both networks: images (B,S,S,3) in [0,1] to (volumes, coordinates (B,N,3)).

    A landmark in crop pixels is (S-1) * coordinate; z is away from the viewer, see `transforms`.
    """

    pix2vox: Pix2Vox
    vox2coord: Vox2Coord | SoftArgmaxRegressor

    def voxels(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        """The volume of every stack, the last one the finest, and the features that it is computed from."""
        return self.pix2vox(image, train)

    def regress(self, volume: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        """Coordinates (B,N,3) from the last volume and its features."""
        return self.vox2coord(volume, features, train)

    def __call__(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        volumes, features = self.voxels(image, train)
        return volumes, self.regress(volumes[-1], features, train)


def model_from_config(config: ml_collections.ConfigDict, axis_name: StatisticsAxis = None) -> JVCR:
    """The network of `config.model`. Raises UserError for values that do not fit together. Keys:

    image_size: side S of the crop in pixels; volumes have side S/4.
    stacks: number of hourglasses. depths: depth of each stack's volume, the last one S/4; a single depth is used for
        all stacks.
    width: channels of the hourglasses (256). levels: resolution halvings inside one (4). blocks: bottlenecks per
        branch (1).
    regressor: "encoder" (paper) or "soft_argmax" (ours).
    channels: of the encoder's 3D convolutions, each of which halves the volume, down to side 4.
    embedding: width of the encoder's last convolution, or of the soft-argmax regressor's MLP.
    points: 71, or 68 without the centres of eyes and mouth.
    dtype: "float32" or "bfloat16", of the computation of hourglasses and encoder; volumes and coordinates are float32.
    remat: whether the activations of a bottleneck are recomputed for its gradient.

    batch_norm_group: number of devices over which batch statistics are averaged; 0: all.

    Batch statistics are averaged over the device axis `axis_name`; None: each device has its own.
    """
    depths = tuple(config.depths) * (config.stacks if len(config.depths) == 1 else 1)
    dtype = jnp.dtype(config.dtype)
    _check(config, depths)
    if config.regressor == "encoder":
        regressor = Vox2Coord(tuple(config.channels), config.embedding, config.points, axis_name, dtype)
    else:
        regressor = SoftArgmaxRegressor(config.points, config.embedding)
    sizes = depths, config.width, config.levels, config.blocks
    return JVCR(Pix2Vox(*sizes, axis_name, dtype, config.remat), regressor)


def _check(config: ml_collections.ConfigDict, depths: tuple[int, ...]) -> None:
    side, halvings = config.image_size // STRIDE, len(config.channels)
    if len(depths) != config.stacks:
        raise UserError(
            f"config.model.depths has {len(depths)} depths for {config.stacks} stacks; give one, or one per stack"
        )
    if config.image_size % (STRIDE * 2**config.levels):
        multiple = STRIDE * 2**config.levels
        raise UserError(f"config.model.image_size {config.image_size} is not a multiple of {multiple}; choose one")
    if config.regressor == "encoder" and not depths[-1] == side == LAST_SIDE * 2**halvings:
        raise UserError(
            f"config.model: the last volume is {depths[-1]} deep and {side} wide; an encoder with {halvings} channels "
            f"needs {LAST_SIDE * 2**halvings} for both"
        )
    if config.width % 4:
        raise UserError(f"config.model.width {config.width} is not a multiple of 4; choose one")


def init(model: JVCR, image_size: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Randomly initialised (params, {"batch_stats": …})."""
    return initialize(model, key, jnp.zeros((1, image_size, image_size, 3)))


def raw(model: JVCR, image_size: int, params: Tree, model_state: Tree, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """`System.raw`: the network on prepared arrays.

    Args:
        model: the network.
        image_size: S.
        params: parameters.
        model_state: batch statistics.
        arrays: `image` (B,S,S,3) RGB in [0,1]; no crop or contrast stretch is applied.

    Returns:
        `coordinates` (B,N,3), a landmark in crop pixels being (S-1) times its coordinate, and `volume` (B,depth,y,x).

    Raises:
        UserError: `image` is missing or has another shape.
    """
    return _apply(model, {"params": params, **model_state}, crops.image_input(arrays, image_size))


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: JVCR, variables: Tree, image: jax.Array) -> dict[str, jax.Array]:
    volumes, coordinates = model.apply(variables, image)
    return {"coordinates": coordinates, "volume": volumes[-1].transpose(0, 3, 1, 2)}
