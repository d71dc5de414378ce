"""Random square crops around a face box, the geometric augmentation of training: on the host and in compiled code."""

import jax
import numpy as np

from jaxface.geometry import alignment

# Largest shift along x and y as a fraction of the crop's side; range of the factor of the side, log-uniform.
SHIFT = 0.06
SCALE = (0.85, 1.2)
# Largest rotation about the centre. Compiled code keeps the rounded value that the shipped detectors were trained with.
ROTATION_RAD, COMPILED_ROTATION_RAD = np.deg2rad(15.0), 0.26


def sample(rng: np.random.Generator, box: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A random crop near `alignment.square_crop` of a face box, on the host.

    Args:
        rng: source of four draws: shift in x and y, scale, rotation.
        box: (4,) x0, y0, x1, y1 px.

    Returns:
        centre (2,) px, side px and angle in radians of the crop, as in `alignment.crop_matrix`.
    """
    center, side = alignment.square_crop(box)
    center = center + side * rng.uniform(-SHIFT, SHIFT, 2)
    return center, side * np.exp(rng.uniform(*np.log(SCALE))), rng.uniform(-ROTATION_RAD, ROTATION_RAD)


def sample_matrix(key: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """The matrix (2,3) of a random crop of `size` pixels near a face box (4,) px, in compiled code.

    Same distribution as `sample`, except for COMPILED_ROTATION_RAD; the draws differ.
    """
    shift_key, scale_key, angle_key = jax.random.split(key, 3)
    center, side = alignment.square_crop(box)
    center += side * SHIFT * jax.random.uniform(shift_key, (2,), minval=-1.0)
    scale = SCALE[0] * (SCALE[1] / SCALE[0]) ** jax.random.uniform(scale_key)
    angle = COMPILED_ROTATION_RAD * jax.random.uniform(angle_key, minval=-1.0)
    return alignment.crop_matrix(center, side * scale, size, angle)
