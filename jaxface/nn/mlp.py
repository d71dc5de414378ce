"""Multi-layer perceptron with the exact GELU, PyTorch's default."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Φ(x), computed with erf: erfc, which `jax.nn.gelu` uses, is slower on CPUs."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


class MLP(nn.Module):
    """Dense layers of `widths`, each followed by GELU, and a final linear layer of width `out` unless it is None.

    Maps (…,D) to (…,out or widths[-1]). Layers are named `layer0`, `layer1`, …
    """

    widths: Sequence[int]
    out: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.widths):
            x = gelu(nn.Dense(width, dtype=self.dtype, name=f"layer{index}")(x))
        if self.out is not None:
            x = nn.Dense(self.out, dtype=self.dtype, name=f"layer{len(self.widths)}")(x)
        return x
