"""Batch normalisation with PyTorch's semantics, optionally synchronised over devices."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxface.errors import UserError

EPSILON = 1e-5
# PyTorch's default: the weight of the new batch in the running statistics.
MOMENTUM = 0.1


class DeviceGroups(NamedTuple):
    """A device axis in groups of `size` consecutive devices."""

    axis_name: str
    size: int


# Devices over which batch statistics are averaged: all of an axis, groups of them, or None for each on its own.
StatisticsAxis = str | DeviceGroups | None


def statistics_axis(axis_name: str, group: int) -> StatisticsAxis:
    """The axis for groups of `group` devices; 0 for all devices in one group, 1 for each device on its own."""
    if group == 1:
        return None
    return DeviceGroups(axis_name, group) if group else axis_name


class BatchNorm(nn.Module):
    """Normalises (…,C) per channel, with batch statistics in training and running statistics otherwise.

    The running variance is unbiased, as in PyTorch (flax uses the biased one). If `axis_name` is given, statistics are
    averaged over that device axis, or within groups of it: one all-reduce forwards and one backwards. Parameters:
    `scale` and `bias`; collection "batch_stats": `mean` and `var`; all (C,) float32.
    """

    axis_name: StatisticsAxis = None

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
        mean, square = values.mean(axes), (values * values).mean(axes)
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            mean, square, devices = _mean_over_devices(mean, square, self.axis_name)
            count *= devices
        return mean, jnp.maximum(square - mean * mean, 0.0), count


def _mean_over_devices(
    mean: jax.Array, square: jax.Array, axis: str | DeviceGroups
) -> tuple[jax.Array, jax.Array, int]:
    """(mean of `mean`, mean of `square`, number of devices). Raises UserError if the groups do not divide the axis."""
    name, group = (axis, 0) if isinstance(axis, str) else axis
    devices = lax.axis_size(name)
    if devices == 1:
        return mean, square, 1
    groups = None
    if group and group < devices:
        if devices % group:
            raise UserError(
                f"config.model.batch_norm_group: {group} does not divide the {devices} devices; use a divisor, or 0"
            )
        groups = [list(range(first, first + group)) for first in range(0, devices, group)]
    # One array, because compilers for CPUs do not combine the all-reduces of two.
    both = lax.pmean(jnp.stack([mean, square]), name, axis_index_groups=groups)
    return both[0], both[1], min(group or devices, devices)
