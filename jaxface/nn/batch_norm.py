"""Batch normalisation as PyTorch has it, optionally over all devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5
# What is kept of the running statistics at each step; PyTorch calls 1 minus this the momentum.
KEPT = 0.9


class BatchNorm(nn.Module):
    """(…,C) normalised per channel by the batch's statistics in training, by the running ones otherwise.

    The running variance is the unbiased one, as in PyTorch (flax: biased). With `axis_name` the statistics are those of
    all devices of that axis. Parameters `scale`, `bias`, and `mean`, `var` in "batch_stats", all (C,) float32.
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
                running_mean.value = KEPT * running_mean.value + (1 - KEPT) * mean
                running_var.value = KEPT * running_var.value + (1 - KEPT) * unbiased
        factor = scale * lax.rsqrt(var + EPSILON)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean, biased variance and the number of values of each channel."""
        values = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        moments = values.mean(axes), (values * values).mean(axes)
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - mean * mean, 0.0), count
