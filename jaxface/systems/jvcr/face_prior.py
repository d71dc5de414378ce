"""A learned linear face, fitted to points that were read one by one, so that together they make a face. Ours.

The paper's encoder learns from examples how landmarks hang together when a head turns. Here the turning is known: the
shape is a mean and learned modes under a similarity, found by Gauss-Newton as the most probable one given the points.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jaxface.geometry.map_estimate import Observation, map_shape_and_pose
from jaxface.heads import canonical
from jaxface.systems.jvcr import transforms

MODES, POSE = 48, 7
UNKNOWNS = MODES + POSE
STEPS = 3
# Crops reach over about 220 mm, and the template's unit is 100 mm.
UNIT = 0.45
CENTER = 0.5
# First deviations: of what was read in x, y and z, of a mode's points, and of rotation, scale and place.
READ, MODE, LOOSE = (0.02, 0.02, 0.06), 0.01, 0.1
# How much of what the face cannot explain is believed at first: logit.
BELIEVED = -2.0


class FacePrior(nn.Module):
    """Points (B,N,3) of the crop, in [0,1] and z away from the viewer, and a guess (B,UNKNOWNS), to better points.

    The unknowns are the weights of the modes, a rotation vector, the logarithm of a scale and a shift. Mean and modes,
    and how much each coordinate and each guess is trusted, are learned.
    """

    points: int

    @nn.compact
    def __call__(self, read: jax.Array, guess: jax.Array) -> jax.Array:
        mean = self.param("mean", lambda key: jnp.asarray(mean_face()[: self.points]))
        modes = self.param("modes", nn.initializers.normal(MODE), (MODES, self.points, 3))
        deviation = self.param("log_deviation", lambda key: jnp.tile(jnp.log(jnp.array(READ)), (self.points, 1)))
        first = np.repeat([1.0, LOOSE], [MODES, POSE])
        precision = self.param("log_precision", lambda key: -jnp.log(jnp.float32(first)))
        believed = self.param("believed", nn.initializers.constant(BELIEVED), (self.points, 3))

        def fitted(read: jax.Array, guess: jax.Array) -> jax.Array:
            observation = Observation(guess, jnp.exp(precision), read, jnp.exp(-deviation)[..., None] * jnp.eye(3))
            return map_shape_and_pose(_posed, mean - CENTER, modes, observation, STEPS)[1]

        with jax.default_matmul_precision("highest"):
            face = jax.vmap(fitted)(read, guess)
        return face + nn.sigmoid(believed) * (read - face)


def mean_face() -> np.ndarray:
    """The canonical face (71,3) in the middle of a crop, looking at the viewer."""
    face = UNIT * canonical.queries("68") * np.array([1, -1, -1])
    return transforms.with_centers(face - face.mean(0) + CENTER).astype(np.float32)


def _posed(pose: jax.Array, point: jax.Array) -> jax.Array:
    """Where a point (3,) of the face is in the crop under a pose (POSE,)."""
    turn, size, shift = jnp.split(pose, [3, 4])
    return jnp.exp(size) * jaxlie.SO3.exp(turn).as_matrix() @ point + shift + CENTER
