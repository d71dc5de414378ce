"""Canonical 3D output: the points of the head in its own frame, and the camera that shows them in the image.

Chandran et al., Infinite 3D Landmarks, CGF 2024: head pose and intrinsics are predicted from the image, and their
projection is supervised in 2D only. The paper leaves sizes open; lengths are template units (100 mm).
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# Distance of the camera, and focal length in crop units, with which a network starts: a portrait that fills the crop.
DISTANCE, FOCAL = 8.0, 6.5
# Displacements of the template start small.
DISPLACEMENT_SCALE = 0.1
# Nearer points do not divide by zero.
NEAREST = 0.5
# Camera axes of a head that looks at the camera: x to the subject's left is right, y up is down, z out is towards it.
FACING = (1.0, -1.0, -1.0)


@flax.struct.dataclass
class HeadCamera:
    """Pose and intrinsics of B images.

    Attributes:
        rotation: (B,3,3), template to camera space (x right, y down, z forward).
        translation: (B,3) template units.
        focal: (B,) in crop units.
    """

    rotation: jax.Array
    translation: jax.Array
    focal: jax.Array

    def project(self, points: jax.Array) -> jax.Array:
        """Points (B,N,2) in crop units of points (B,N,3) in template units."""
        seen = jnp.einsum("bij,bnj->bni", self.rotation, points) + self.translation[:, None]
        return self.focal[:, None, None] * seen[..., :2] / jnp.maximum(seen[..., 2:], NEAREST)


class CameraHead(nn.Module):
    """The `HeadCamera` of image features (B,C): facing the head when it is initialised.

    The rotation is the Gram-Schmidt frame of six numbers (Zhou et al., CVPR 2019).
    """

    @nn.compact
    def __call__(self, features: jax.Array) -> HeadCamera:
        last = nn.Dense(10, kernel_init=nn.initializers.normal(1e-3), name="last")(features)
        first = last[:, :3] + jnp.array([1.0, 0.0, 0.0])
        second = last[:, 3:6] + jnp.array([0.0, 1.0, 0.0])
        first /= jnp.linalg.norm(first, axis=-1, keepdims=True)
        second -= (first * second).sum(-1, keepdims=True) * first
        second /= jnp.linalg.norm(second, axis=-1, keepdims=True)
        turned = jnp.stack([first, second, jnp.cross(first, second)], -1)
        depth = DISTANCE * jnp.exp(last[:, 8])
        translation = jnp.stack([last[:, 6], last[:, 7], depth], -1)
        return HeadCamera(jnp.array(FACING)[:, None] * turned, translation, FOCAL * jnp.exp(last[:, 9]))
