"""Learned linear face prior (ours): MAP estimate of shape and pose from independently predicted 3D points.

The paper's encoder learns from examples how landmarks move together when a head turns. Here that geometry is built in:
the face is a mean plus learned modes under a similarity transform, estimated by Gauss-Newton.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jaxface.geometry.map_estimate import Observation, map_shape_and_pose
from jaxface.heads import canonical
from jaxface.systems.jvcr import transforms

# Pose: rotation vector (3), log scale (1), translation (3).
MODES, POSE = 48, 7
UNKNOWNS = MODES + POSE
GAUSS_NEWTON_STEPS = 3
# Crop units ([0,1]) per template unit: crops cover about 220 mm, and the template's unit is 100 mm.
TEMPLATE_SCALE = 0.45
# Centre of the crop on every axis.
CENTER = 0.5
# Initial standard deviations: noise of the observed x, y, z in crop units; initial entries of the modes; pose prior.
OBSERVATION_STD, MODE_STD, POSE_PRIOR_STD = (0.02, 0.02, 0.06), 0.01, 0.1
# Initial logit of the fraction of the residual that is added back.
RESIDUAL_LOGIT = -2.0


class FacePrior(nn.Module):
    """Corrects points (B,N,3) by the MAP estimate of a linear face under a similarity transform.

    The unknowns are mode weights, a rotation vector, a log scale and a translation. Mean, modes, the noise of each
    coordinate and the precision of the prior are learned. A learned fraction of the residual, which the linear face
    cannot represent, is added back.
    """

    points: int

    @nn.compact
    def __call__(self, points: jax.Array, prior_mean: jax.Array) -> jax.Array:
        """The corrected points.

        Args:
            points: (B,N,3) in crop units ([0,1]), z away from the viewer.
            prior_mean: (B,UNKNOWNS); Gauss-Newton starts there.

        Returns:
            (B,N,3) in crop units.
        """
        mean = self.param("mean", lambda key: jnp.asarray(mean_face()[: self.points]))
        modes = self.param("modes", nn.initializers.normal(MODE_STD), (MODES, self.points, 3))
        log_std = self.param(
            "log_deviation", lambda key: jnp.tile(jnp.log(jnp.array(OBSERVATION_STD)), (self.points, 1))
        )
        prior_std = np.repeat([1.0, POSE_PRIOR_STD], [MODES, POSE])
        log_precision = self.param("log_precision", lambda key: -jnp.log(jnp.float32(prior_std)))
        # Some parameter names are those of saved checkpoints.
        residual_logit = self.param("believed", nn.initializers.constant(RESIDUAL_LOGIT), (self.points, 3))

        def fit(points: jax.Array, prior_mean: jax.Array) -> jax.Array:
            whitening = jnp.exp(-log_std)[..., None] * jnp.eye(3)
            observation = Observation(prior_mean, jnp.exp(log_precision), points, whitening)
            return map_shape_and_pose(_apply_pose, mean - CENTER, modes, observation, GAUSS_NEWTON_STEPS)[1]

        with jax.default_matmul_precision("highest"):
            face = jax.vmap(fit)(points, prior_mean)
        return face + nn.sigmoid(residual_logit) * (points - face)


def mean_face() -> np.ndarray:
    """The canonical face (71,3) in crop units, frontal, centred in the crop."""
    face = TEMPLATE_SCALE * canonical.queries("68") * np.array([1, -1, -1])
    return transforms.with_centers(face - face.mean(0) + CENTER).astype(np.float32)


def _apply_pose(pose: jax.Array, point: jax.Array) -> jax.Array:
    """Position (3,) in crop units of a face point (3,), centred, under a pose (POSE,)."""
    rotation, log_scale, translation = jnp.split(pose, [3, 4])
    return jnp.exp(log_scale) * jaxlie.SO3.exp(rotation).as_matrix() @ point + translation + CENTER
