"""Tiling noise textures, sampled by position: patterns of skin, hair, cloth and backgrounds at the cost of a gather."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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


def sample(u: jax.Array, v: jax.Array, offset: jax.Array) -> jax.Array:
    """Texture values (…,4), bilinear, at texel coordinates u, v (…) displaced by `offset` (2,) in [0,1] textures."""
    table = jnp.asarray(texture()).reshape(-1, CHANNELS)
    u, v = u + SIDE * offset[0], v + SIDE * offset[1]
    column, row = jnp.floor(u), jnp.floor(v)
    fu, fv = (u - column)[..., None], (v - row)[..., None]
    column, row = column.astype(jnp.int32), row.astype(jnp.int32)

    def at(dx: int, dy: int) -> jax.Array:
        return table[((row + dy) % SIDE) * SIDE + (column + dx) % SIDE]

    upper = at(0, 0) * (1 - fu) + at(1, 0) * fu
    lower = at(0, 1) * (1 - fu) + at(1, 1) * fu
    return upper * (1 - fv) + lower * fv


def nearest(u: jax.Array, v: jax.Array, offset: jax.Array) -> jax.Array:
    """As `sample`, without interpolation: for noise that is finer than a pixel."""
    column = jnp.floor(u + SIDE * offset[0]).astype(jnp.int32) % SIDE
    row = jnp.floor(v + SIDE * offset[1]).astype(jnp.int32) % SIDE
    return jnp.asarray(texture()).reshape(-1, CHANNELS)[row * SIDE + column]


def resized(key: jax.Array, cells: int, size: int, channels: int) -> jax.Array:
    """Smooth noise (size,size,channels) of unit variance at its nodes, with `cells` nodes along each side."""
    values = jax.random.normal(key, (cells, cells, channels))
    return jax.image.resize(values, (size, size, channels), "cubic")
