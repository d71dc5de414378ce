"""Fresh variables of a module."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def initialize(module: nn.Module, key: jax.Array, *inputs: jax.Array) -> tuple[Any, Any]:
    """(params, the other collections, such as {"batch_stats": …}) of `module` called with `inputs`; compiled."""
    # XLA compiles one generator per parameter; the hardware generator's takes a third of the time.
    key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")
    variables = jax.jit(module.init)(key, *inputs)
    params = variables.pop("params")
    return params, variables
