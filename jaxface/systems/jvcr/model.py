"""Joint voxel and coordinate regression: image -> compact volume of all landmarks -> 3D coordinates.

Zhang et al., "Joint Voxel and Coordinate Regression for Accurate 3D Facial Landmark Localization", ICPR 2018, fig. 2;
official code HongwenZhang/JVCR-3Dlandmark, models/{hourglass,coordRegressor,pix2vox2coord}.py. Volumes are
(B,y,x,depth) here, the original's (B,depth,y,x).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxface.errors import UserError
from jaxface.nn.batch_norm import BatchNorm
from jaxface.nn.convolution import Conv
from jaxface.nn.hourglass import INIT, Bottleneck, Hourglass, Residuals, max_pool, pointwise
from jaxface.nn.init import initialize
from jaxface.nn.volume import HalvingConv, WholeConv
from jaxface.system import Tree
from jaxface.systems.jvcr import face_prior
from jaxface.systems.jvcr.face_prior import FacePrior

# Pixels of the image to a cell of the volume.
STRIDE = 4
# The side of the volume that the coordinate regressor's last convolution covers whole.
LAST_SIDE = 4
LEAK = 0.2
# The first inverse temperature of a volume's columns, whose peaks are 1.
SHARPNESS = 8.0
POINTS = (68, 71)
REGRESSORS = ("encoder", "soft_argmax")


class Pix2Vox(nn.Module):
    """Image (B,S,S,3) in [0,1] to one volume (B,S/4,S/4,D) a stack, D of `depths`: raw linear outputs.

    Beside them the features (B,S/4,S/4,width) that the last volume was made of.
    """

    depths: tuple[int, ...]
    width: int
    levels: int
    blocks: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        x, volumes, last = self._stem(image, train), [], len(self.depths) - 1
        for index, depth in enumerate(self.depths):
            y = Hourglass(self.levels, self.width // 2, self.blocks, self.axis_name, name=f"hourglass{index}")(x, train)
            y = Residuals(self.width // 2, self.blocks, self.axis_name, name=f"residual{index}")(y, train)
            y = BatchNorm(self.axis_name, name=f"bn{index}")(pointwise(self.width, f"fc{index}")(y), train)
            y = nn.relu(y)
            volumes.append(pointwise(depth, f"score{index}")(y))
            if index < last:
                x = x + pointwise(self.width, f"fc_back{index}")(y)
                x = x + pointwise(self.width, f"score_back{index}")(volumes[-1])
        return volumes, y

    def _stem(self, image: jax.Array, train: bool) -> jax.Array:
        quarter, half = self.width // 4, self.width // 2
        x = Conv(quarter, 7, 2, kernel_init=INIT, name="conv1")(image)
        x = nn.relu(BatchNorm(self.axis_name, name="bn_stem")(x, train))
        x = max_pool(Bottleneck(quarter, self.axis_name, name="layer1")(x, train))
        x = Bottleneck(half, self.axis_name, name="layer2")(x, train)
        return Bottleneck(half, self.axis_name, name="layer3")(x, train)


class Vox2Coord(nn.Module):
    """Volume (B,n,n,n) to coordinates (B,points,3) in x, y, z: the paper's encoder. n = 4 * 2**len(channels)."""

    channels: tuple[int, ...]
    width: int
    points: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, volume: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        del features
        x = volume[..., None]
        for index, channels in enumerate(self.channels):
            x = BatchNorm(self.axis_name, name=f"bn{index}")(HalvingConv(channels, name=f"conv{index}")(x), train)
            x = nn.leaky_relu(x, LEAK)
        embedding = WholeConv(self.width, name=f"conv{len(self.channels)}")(x)
        return pointwise(3 * self.points, "coordinates")(embedding).reshape(volume.shape[0], self.points, 3)


class Reader(nn.Module):
    """Volume (B,n,n,D) to coordinates (B,points,3), read where each landmark looks. Ours, for short trainings.

    Each landmark has its own attention over the n x n columns of the volume, made of the features (B,n,n,C); a column's
    depth is the mean of the softmax along it. The coordinate is the mean under the attention of the column's place and
    depth and of a linear map of its features. After integral regression (Sun et al., ECCV 2018). The attention's
    logarithm (B,n*n,points) is sown as "log_attention". Because a face is more than its points, a `FacePrior` is fitted
    to what was read of all of them; an MLP of `width` guesses where the fit begins.
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
        plane = jnp.broadcast_to(cell_centers(side), (batch, side * side, 2))
        shift = nn.Dense(3 * self.points, kernel_init=nn.initializers.zeros, name="shift")(features)
        shift = shift.reshape(batch, side * side, self.points, 3)
        attention = jnp.exp(log_attention)
        read = jnp.einsum("bcn,bck->bnk", attention, jnp.concatenate([plane, z], -1))
        read += jnp.einsum("bcn,bcnk->bnk", attention, shift)
        return FacePrior(self.points, name="prior")(read, self._guess(read, features.mean(1)))

    def _guess(self, read: jax.Array, context: jax.Array) -> jax.Array:
        shape = (read - read.mean(1, keepdims=True)).reshape(read.shape[0], -1)
        x = jnp.concatenate([nn.LayerNorm(name="norm_shape")(shape), nn.LayerNorm(name="norm_context")(context)], -1)
        for layer in ("hidden1", "hidden2"):
            x = nn.gelu(nn.Dense(self.width, name=layer)(x))
        return nn.Dense(face_prior.UNKNOWNS, kernel_init=nn.initializers.zeros, name="guess")(x)


def cell_centers(side: int) -> jax.Array:
    """Centres (side*side,2) in x and y of the cells of a map, row by row; the map reaches from 0 to 1."""
    line = (jnp.arange(side) + 0.5) / side
    return jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)


class JVCR(nn.Module):
    """Both halves: image (B,S,S,3) in [0,1] to (volumes, coordinates (B,N,3)); a landmark is (S-1) * coordinate."""

    pix2vox: Pix2Vox
    vox2coord: Vox2Coord | Reader

    def voxels(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        """The volume of every stack, the last the finest, and the features behind it."""
        return self.pix2vox(image, train)

    def regress(self, volume: jax.Array, features: jax.Array, train: bool = False) -> jax.Array:
        """Coordinates (B,N,3) of the last volume and its features."""
        return self.vox2coord(volume, features, train)

    def __call__(self, image: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
        volumes, features = self.voxels(image, train)
        return volumes, self.regress(volumes[-1], features, train)


def model_from_config(config: ml_collections.ConfigDict, axis_name: str | None = None) -> JVCR:
    """The network of `config.model`. UserError where the values do not fit together. Its keys:

    image_size: side S of the crop; volumes have the side S/4.
    stacks: hourglasses. depths: their volumes' depths, the last S/4; a single one is that of all stacks.
    width: channels of the hourglasses (256). levels: halvings inside one (4). blocks: bottlenecks a branch (1).
    regressor: "encoder" (paper) or "soft_argmax" (ours).
    channels: of the encoder's 3D convolutions, each halving the volume down to a side of 4.
    embedding: width behind the encoder's convolutions, and of the reader's guess.
    points: 71, or 68 without the centres of eyes and mouth.
    """
    depths = tuple(config.depths) * (config.stacks if len(config.depths) == 1 else 1)
    _check(config, depths)
    if config.regressor == "encoder":
        regressor = Vox2Coord(tuple(config.channels), config.embedding, config.points, axis_name)
    else:
        regressor = Reader(config.points, config.embedding)
    return JVCR(Pix2Vox(depths, config.width, config.levels, config.blocks, axis_name), regressor)


def _check(config: ml_collections.ConfigDict, depths: tuple[int, ...]) -> None:
    side, halvings = config.image_size // STRIDE, len(config.channels)
    if config.regressor not in REGRESSORS:
        raise UserError(f"config.model.regressor is {config.regressor!r}; use one of {', '.join(REGRESSORS)}")
    if config.points not in POINTS:
        raise UserError(f"config.model.points is {config.points}; use 71, or 68 without the three centres")
    if len(depths) != config.stacks:
        raise UserError(f"config.model.depths {depths} are not one or {config.stacks}, as config.model.stacks says")
    if config.image_size % (STRIDE * 2**config.levels):
        raise UserError(f"config.model.image_size {config.image_size} is not a multiple of {STRIDE * 2**config.levels}")
    if config.regressor == "encoder" and not depths[-1] == side == LAST_SIDE * 2**halvings:
        raise UserError(
            f"config.model: the last volume is {depths[-1]} deep and {side} wide; for {halvings} channels of the "
            f"encoder both must be {LAST_SIDE * 2**halvings}"
        )
    if config.width % 4:
        raise UserError(f"config.model.width {config.width} is not a multiple of 4")


def init(model: JVCR, image_size: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Fresh (params, model_state = {"batch_stats": …})."""
    return initialize(model, key, jnp.zeros((1, image_size, image_size, 3)))


def raw(model: JVCR, image_size: int, params: Tree, model_state: Tree, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """The network on prepared arrays: `image` (B,S,S,3) RGB in [0,1], as it is.

    Returns `coordinates` (B,N,3), of which a landmark is (S-1) times, and `volume` (B,depth,y,x). UserError: `image` is
    missing or has another shape.
    """
    if "image" not in arrays:
        raise UserError(f"the arrays have no image, only {sorted(arrays)}")
    image = jnp.asarray(arrays["image"], jnp.float32)
    if image.ndim != 4 or image.shape[1:] != (image_size, image_size, 3):
        raise UserError(f"image has shape {image.shape}; it must be (B,{image_size},{image_size},3)")
    return _apply(model, {"params": params, **model_state}, image)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: JVCR, variables: Tree, image: jax.Array) -> dict[str, jax.Array]:
    volumes, coordinates = model.apply(variables, image)
    return {"coordinates": coordinates, "volume": volumes[-1].transpose(0, 3, 1, 2)}
