"""C-Net: how much each picture of a person can be trusted for each coefficient of identity. Ours, after the paper.

Deng et al., CVPRW 2019, §5, describe it in words and published no code and no weights: it reads R-Net's first residual
stage and its pooled feature, gives positive confidences c_j for the identity of picture j only, and is trained without
labels, R-Net fixed, on the identity sum(c_j * a_j) / sum(c_j) in every picture. Its layers are our choice.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

NAME = "confidence"
WIDTHS = (64, 96, 128)
HIDDEN = 256
# A confidence is at least this, so that the weights of a set never all vanish.
FLOOR = 1e-3


class CNet(nn.Module):
    """pooled (N,C) and early (N,h,w,C1) of N pictures to confidences (N,identity) in (0,1]; all equal when fresh."""

    identity: int

    @nn.compact
    def __call__(self, pooled: jax.Array, early: jax.Array) -> jax.Array:
        for width in WIDTHS:
            early = nn.relu(nn.LayerNorm()(nn.Conv(width, (3, 3), 2)(early)))
        x = jnp.concatenate([early.mean((1, 2)), nn.LayerNorm()(pooled)], -1)
        x = nn.relu(nn.Dense(HIDDEN)(x))
        x = nn.Dense(self.identity, kernel_init=nn.initializers.zeros)(x)
        return FLOOR + (1 - FLOOR) * nn.sigmoid(x)


def apply(params: Any, identity: int, pooled: jax.Array, early: jax.Array) -> jax.Array:
    """The confidences (N,identity) of a C-Net that lies in `params` beside its R-Net."""
    return CNet(identity).apply({"params": params[NAME]}, pooled, early)


def weighted_mean(identity: jax.Array, confidence: jax.Array) -> jax.Array:
    """Identities (B,I) of B sets of N pictures: identity (B,N,I) weighed by positive confidence (B,N,I)."""
    return (identity * confidence).sum(1) / confidence.sum(1)
