"""Batch normalisation with PyTorch's semantics, optionally synchronised over devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5
# PyTorch's default: the weight of the new batch in the running statistics.
MOMENTUM = 0.1


class BatchNorm(nn.Module):
    """Normalises (…,C) per channel, with batch statistics in training and running statistics otherwise.

    The running variance is unbiased, as in PyTorch (flax uses the biased one). If `axis_name` is given, statistics are
    averaged over that device axis. Parameters: `scale` and `bias`; collection "batch_stats": `mean` and `var`; all
    (C,) float32.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = self._statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = (1 - MOMENTUM) * running_mean.value + MOMENTUM * mean
                running_var.value = (1 - MOMENTUM) * running_var.value + MOMENTUM * unbiased
        factor = scale * lax.rsqrt(var + EPSILON)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Returns (mean (C,), biased variance (C,), number of values per channel)."""
        values = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        moments = values.mean(axes), (values * values).mean(axes)
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - mean * mean, 0.0), count
