"""Tiling noise textures, sampled by position: patterns of skin, hair, cloth and backgrounds at the cost of a gather."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Side of the texture in texels, and standard deviation in texels of the Gaussian that correlates its values.
SIDE = 128
SMOOTHNESS = 1.2
CHANNELS = 4


@functools.cache
def texture() -> np.ndarray:
    """Texture (SIDE,SIDE,4) float32 of Gaussian noise: two independent values of unit variance, gradient of the first.

    The gradient is per texel along columns and rows.
    """
    frequency = np.fft.fftfreq(SIDE)
    power = np.exp(-2 * (np.pi * SMOOTHNESS) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    spectrum = np.fft.fft2(np.random.default_rng(7).normal(size=(2, SIDE, SIDE))) * power
    value, other = np.fft.ifft2(spectrum).real
    value, other = value / value.std(), other / other.std()
    along_columns, along_rows = ((np.roll(value, -1, axis) - np.roll(value, 1, axis)) / 2 for axis in (1, 0))
    return np.stack([value, other, along_columns, along_rows], axis=-1).astype(np.float32)


@functools.cache
def _cells() -> np.ndarray:
    """Values (SIDE**2,16) of each texel, its right and lower neighbours and the one between them."""
    values = texture()
    right = np.roll(values, -1, 1)
    cells = np.concatenate([values, right, np.roll(values, -1, 0), np.roll(right, -1, 0)], axis=-1)
    return cells.reshape(-1, 4 * CHANNELS)


def sample(u: jax.Array, v: jax.Array, offset: jax.Array) -> jax.Array:
    """Texture values (…,4), bilinear, at texel coordinates u, v (…) displaced by `offset` (2,) in [0,1] textures."""
    u, v = u + SIDE * offset[0], v + SIDE * offset[1]
    column, row = jnp.floor(u), jnp.floor(v)
    fu, fv = (u - column)[..., None], (v - row)[..., None]
    index = (row.astype(jnp.int32) % SIDE) * SIDE + column.astype(jnp.int32) % SIDE
    # One gather of a cache line. Without the barrier XLA repeats it in every use.
    cell = lax.optimization_barrier(jnp.asarray(_cells())[index])
    upper = cell[..., :4] * (1 - fu) + cell[..., 4:8] * fu
    lower = cell[..., 8:12] * (1 - fu) + cell[..., 12:] * fu
    return upper * (1 - fv) + lower * fv


def nearest(u: jax.Array, v: jax.Array, offset: jax.Array) -> jax.Array:
    """As `sample`, without interpolation: for noise that is finer than a pixel."""
    column = jnp.floor(u + SIDE * offset[0]).astype(jnp.int32) % SIDE
    row = jnp.floor(v + SIDE * offset[1]).astype(jnp.int32) % SIDE
    return lax.optimization_barrier(jnp.asarray(texture().reshape(-1, CHANNELS))[row * SIDE + column])


def resized(key: jax.Array, cells: int, size: int, channels: int) -> jax.Array:
    """Smooth noise (size,size,channels) of unit variance at its nodes, with `cells` nodes along each side."""
    values = jax.random.normal(key, (cells, cells, channels))
    return jax.image.resize(values, (size, size, channels), "cubic")
