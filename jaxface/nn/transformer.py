"""Transformer blocks over tokens (B,N,D) with an optional mask `valid` (B,N); masked tokens affect no other token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxface.nn.mlp import MLP

# Default of PyTorch, as in the XCiT code of the unofficial detector (florisdf/continuous_landmarks).
EPSILON = 1e-5


class CrossCovarianceAttention(nn.Module):
    """Cross-covariance attention (El-Nouby et al., XCiT, NeurIPS 2021, eq. 3), linear in the number of tokens.

    Queries and keys are L2-normalised over the tokens; each head attends over its D/heads channels. Masked tokens are
    set to zero in q and k, so they drop out of the norms and of the products; they keep their values, to which the
    attention of the other tokens is applied.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        batch, count, width = x.shape
        qkv = nn.Dense(3 * width, use_bias=False, name="qkv")(x).reshape(batch, count, 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        if valid is not None:
            q, k = (jnp.where(valid[:, :, None, None], x, 0.0) for x in (q, k))
        temperature = self.param("temperature", nn.initializers.ones, (self.heads, 1, 1))
        scores = jnp.einsum("bnhi,bnhj->bhij", _normalize_over_tokens(q), _normalize_over_tokens(k)) * temperature
        y = jnp.einsum("bhij,bnhj->bnhi", jax.nn.softmax(scores), v)
        return nn.Dense(width, name="project")(y.reshape(batch, count, width))


def _normalize_over_tokens(x: jax.Array) -> jax.Array:
    """L2-normalises (B,N,H,C) over the tokens N, with the norm clamped at 1e-12 as in PyTorch."""
    squared = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


class LocalInteraction(nn.Module):
    """XCiT's local patch interaction with 1x1 depthwise kernels, as in the unofficial detector.

    Per-channel affine map, GELU, batch norm, per-channel affine map. Batch statistics exclude masked tokens and are
    synchronised over `axis_name`. The running variance is biased (PyTorch: unbiased).
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        x = jax.nn.gelu(_ChannelAffine(name="affine0")(x), approximate=False)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=EPSILON, axis_name=self.axis_name, name="norm"
        )
        x = norm(x, mask=None if valid is None else valid[:, :, None])
        return _ChannelAffine(name="affine1")(x)


class _ChannelAffine(nn.Module):
    """Scale and bias per channel of (…,D)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return x * scale + self.param("bias", nn.initializers.zeros, x.shape[-1:])


class CrossCovarianceBlock(nn.Module):
    """XCiT block: x += g1 XCA(LN x); with `local` x += g3 LPI(LN x); x += g2 MLP(LN x).

    g are layer scales, initialised to 1; MLP ratio 4. Source: facebookresearch/xcit, with the order and sizes of the
    unofficial continuous detector.
    """

    heads: int
    local: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        width = x.shape[-1]

        def scaled(name: str, y: jax.Array) -> jax.Array:
            return self.param(name, nn.initializers.ones, (width,)) * y

        def norm(name: str) -> jax.Array:
            return nn.LayerNorm(epsilon=EPSILON, name=name)(x)

        x += scaled("scale1", CrossCovarianceAttention(self.heads, name="attention")(norm("norm1"), valid))
        if self.local:
            x += scaled("scale3", LocalInteraction(self.axis_name, name="local")(norm("norm3"), valid, train))
        return x + scaled("scale2", MLP((4 * width,), width, name="mlp")(norm("norm2")))


class AttentionBlock(nn.Module):
    """Pre-norm self-attention block, MLP ratio 4 (Vaswani et al. 2017; pre-norm: Xiong et al. 2020)."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        del train
        width = x.shape[-1]
        mask = None if valid is None else valid[:, None, None, :]
        y = nn.LayerNorm(epsilon=EPSILON, name="norm1")(x)
        x += nn.MultiHeadDotProductAttention(self.heads, name="attention")(y, mask=mask)
        y = nn.LayerNorm(epsilon=EPSILON, name="norm2")(x)
        return x + MLP((4 * width,), width, name="mlp")(y)
