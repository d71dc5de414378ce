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


def weighted_mean(identity: jax.Array, confidence: jax.Array) -> jax.Array:
    """Identities (B,I) of B persons: the mean of identity (B,N,I) of N images, weighted by confidence (B,N,I)."""
    return (identity * confidence).sum(1) / confidence.sum(1)
