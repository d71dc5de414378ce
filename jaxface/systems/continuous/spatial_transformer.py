"""Spatial-transformer normaliser: a learned similarity that crops the face again before it is encoded.

Chandran et al., Infinite 3D Landmarks, CGF 2024; Jaderberg et al., Spatial Transformer Networks, NeurIPS 2015. It has
no loss of its own: the landmarks come back through the transform, and their loss trains it. Its size is ours.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.mlp import gelu

# Side of the image that is looked at, and channels of its layers, each of stride 2.
LOOK_SIZE = 48
CHANNELS = (16, 32, 64)
# Bounds of the shift in crop units, of the logarithm of the scale, and of the rotation in radians.
MAX_SHIFT, MAX_LOG_SCALE, MAX_TURN_RAD = 0.8, 0.9, 0.8
# Numbers of a transform: shift x and y, logarithm of the scale, rotation.
PARAMETERS = 4


class Localiser(nn.Module):
    """The transform (B,4) of images (B,H,W,3) with values around 0: the identity when it is initialised."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = jax.image.resize(image, (len(image), LOOK_SIZE, LOOK_SIZE, image.shape[-1]), "linear")
        for index, channels in enumerate(CHANNELS):
            x = gelu(nn.Conv(channels, (3, 3), strides=2, name=f"conv{index}")(x))
            x = nn.LayerNorm(epsilon=1e-6, name=f"norm{index}")(x)
        last = nn.Dense(PARAMETERS, kernel_init=nn.initializers.zeros, name="last")
        bounds = jnp.array([MAX_SHIFT, MAX_SHIFT, MAX_LOG_SCALE, MAX_TURN_RAD])
        features = x.reshape(len(x), -1)
        # Adam moves each of the many weights by the learning rate: a few steps would saturate the undivided sum.
        return bounds * jnp.tanh(last(features) / features.shape[1] ** 0.5)


def to_crop(transform: jax.Array, points: jax.Array) -> jax.Array:
    """Points (B,N,2) of the crop, in `crop_units`, of points (B,N,2) of the normalised image with transforms (B,4)."""
    shift, log_scale, angle = transform[:, :2], transform[:, 2], transform[:, 3]
    cos, sin = jnp.exp(log_scale) * jnp.cos(angle), jnp.exp(log_scale) * jnp.sin(angle)
    rotation = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    return jnp.einsum("bij,bnj->bni", rotation, points) + shift[:, None]


def scale(transform: jax.Array) -> jax.Array:
    """The scale (B,) of transforms (B,4): lengths in the crop per length in the normalised image."""
    return jnp.exp(transform[:, 2])


def normalise(image: jax.Array, transform: jax.Array) -> jax.Array:
    """The normalised image (B,H,W,C) of crops (B,H,W,C): bilinear samples, those outside repeat the border.

    `crop_units` run from -1 to 1 between the outer edges of the image.
    """
    height, width = image.shape[1:3]
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    grid = jnp.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1).reshape(1, -1, 2)
    sampled = to_crop(transform, jnp.broadcast_to(grid, (len(image), *grid.shape[1:])))
    x = (sampled[..., 0] + 1) * width / 2 - 0.5
    y = (sampled[..., 1] + 1) * height / 2 - 0.5

    def sample(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
        channels = jnp.moveaxis(image, -1, 0)
        return jax.vmap(lambda one: jax.scipy.ndimage.map_coordinates(one, [y, x], order=1, mode="nearest"))(channels)

    return jnp.moveaxis(jax.vmap(sample)(image, y, x), 1, -1).reshape(image.shape)
