"""C-Net: predicts a confidence for each identity coefficient of each image of a person. Ours, after the paper.

Deng et al., CVPRW 2019, §5, describe it in words and published neither code nor weights. It reads R-Net's first
residual stage and pooled feature and predicts positive confidences c_j for the identity a_j of image j. It is trained
without labels and with R-Net fixed: every image is rendered with the identity sum(c_j * a_j) / sum(c_j). The layers are
our choice.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.geometry import map_estimate

# Key of the C-Net's parameters in R-Net's params.
NAME = "confidence"
WIDTHS = (64, 96, 128)
HIDDEN = 256
# Lower bound of a confidence, so that the weights of a person's images never all vanish.
FLOOR = 1e-3


class CNet(nn.Module):
    """Confidences (N,identity) in (0,1] of N images; all are equal before training.

    Attributes:
        identity: number of identity coefficients.
    """

    identity: int

    @nn.compact
    def __call__(self, pooled: jax.Array, early: jax.Array) -> jax.Array:
        """Confidences from R-Net's pooled feature `pooled` (N,C) and first-stage feature map `early` (N,h,w,C1)."""
        for width in WIDTHS:
            early = nn.relu(nn.LayerNorm()(nn.Conv(width, (3, 3), 2)(early)))
        x = jnp.concatenate([early.mean((1, 2)), nn.LayerNorm()(pooled)], -1)
        x = nn.relu(nn.Dense(HIDDEN)(x))
        x = nn.Dense(self.identity, kernel_init=nn.initializers.zeros)(x)
        return FLOOR + (1 - FLOOR) * nn.sigmoid(x)


def apply(params: Any, identity: int, pooled: jax.Array, early: jax.Array) -> jax.Array:
    """The confidences (N,identity) of the C-Net whose parameters are `params[NAME]`; inputs as in `CNet`."""
    return CNet(identity).apply({"params": params[NAME]}, pooled, early)


def weighted_mean(identity: jax.Array, confidence: jax.Array, information: jax.Array | None = None) -> jax.Array:
    """The identities (B,I) of B persons from N images of each.

    Args:
        identity: (B,N,I) of the single images.
        confidence: (B,N,I), the weights of the published mean.
        information: (B,N,I,I), the inverse covariances L of the identities if they are known (ours). The result is
            then the mean of Gaussians whose inverse covariances are D L D, with D² = diag(confidence). Without it,
            L is the identity matrix, and the result the published mean.
    """
    if information is None:
        return (identity * confidence).sum(1) / confidence.sum(1)
    scale = jnp.sqrt(confidence / confidence.mean((1, 2), keepdims=True))
    information = scale[..., :, None] * information * scale[..., None, :]
    with jax.default_matmul_precision("highest"):
        weighted = jnp.einsum("bnij,bnj->bi", information, identity)
        return jax.vmap(map_estimate.solve)(information.sum(1), weighted)
