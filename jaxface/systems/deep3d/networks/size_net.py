"""SizeNet (ours): the true size of a head, which its image and Deep3D's camera leave open.

A camera shows a head up to a scale, so that the losses of R-Net do not depend on the size of its heads. SizeNet
predicts the ratio of the true size to that of R-Net's head. It is trained on images whose heads are known in
millimetres, with R-Net fixed.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.systems.deep3d.face_model import MM_PER_DM

# Key of SizeNet's parameters in R-Net's params.
NAME = "size"
HIDDEN = 64
# The landmarks by which a size is measured: all but the jaw line, whose points differ most between heads.
FIRST_LANDMARK = 17


class SizeNet(nn.Module):
    """Log of the ratio of true to reconstructed size (N,) of N images; 0 before training."""

    @nn.compact
    def __call__(self, pooled: jax.Array, identity: jax.Array) -> jax.Array:
        """The log ratios, from R-Net's pooled feature `pooled` (N,C) and its `identity` (N,I)."""
        x = jnp.concatenate([nn.LayerNorm()(pooled), identity], -1)
        x = nn.gelu(nn.Dense(HIDDEN)(x))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(x)[:, 0]


def apply(params: Any, pooled: jax.Array, identity: jax.Array) -> jax.Array:
    """The log ratios (N,) of the SizeNet whose parameters are `params[NAME]`; inputs as in `SizeNet`."""
    return SizeNet().apply({"params": params[NAME]}, pooled, identity)


def centroid_size(points: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Centroid size (…,) of landmarks (…,68,K): their root mean square distance from their mean, without the jaw line.

    The measure of size in geometric morphometrics. It does not depend on the pose. Of a numpy array it is computed
    without JAX, for input pipelines.
    """
    points = points[..., FIRST_LANDMARK:, :]
    return ((points - points.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1) ** 0.5


def target(landmarks: jax.Array, size_mm: jax.Array) -> jax.Array:
    """The log ratios (N,) that SizeNet should predict.

    Args:
        landmarks: (N,68,3) dm, of the reconstructed heads with their expressions.
        size_mm: (N,) centroid size of the true landmarks; NaN where it is unknown, and so is the result.
    """
    return jnp.log(size_mm) - jnp.log(MM_PER_DM * centroid_size(landmarks))
