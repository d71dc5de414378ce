"""The MLP of DeepSDF (Park et al., CVPR 2019) as NPHM uses it: softplus, and the input once more half way.

Position and latent code enter together, and a code is the same for many points: its share of a layer is folded into
that layer's bias. Official file: models/EnsembledDeepSDF.py and models/deepSDF.py of SimonGiebenhain/NPHM.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxface.errors import UserError
from jaxface.systems.nphm.networks import safe_norm

Params = dict[str, dict[str, jax.Array]]
Weights = tuple[tuple[jax.Array, ...], ...]
HALF = 1 / math.sqrt(2)


@dataclasses.dataclass(frozen=True)
class SkipMLP:
    """Shape of the network: [xyz 3 | code] -> `layers` hidden of `width` -> `out`.

    Layer layers // 2 takes [hidden | input] / sqrt(2). With `narrow` the layer before it gives up the input's width,
    as in the reference; else it keeps its own.
    """

    code: int
    out: int
    width: int
    layers: int
    narrow: bool = True

    def __post_init__(self):
        if self.narrow and self.width <= 3 + self.code:
            raise UserError(
                f"config.model: width {self.width} leaves nothing before the skip connection, whose input has "
                f"{3 + self.code}; make it wider, the codes shorter, or set narrow_skip to False"
            )

    @property
    def skip(self) -> int:
        """The layer that sees the input again."""
        return self.layers // 2

    def shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer, the last included."""
        inside = 3 + self.code
        outs = [self.width] * self.layers + [self.out]
        if self.narrow:
            outs[self.skip - 1] -= inside
        ins = [inside, *outs[:-1]]
        ins[self.skip] += inside
        return list(zip(ins, outs, strict=True))

    def init(self, key: jax.Array) -> Params:
        """Parameters as PyTorch's Linear starts: kernel (in,out) and bias uniform within 1/sqrt(in)."""
        params = {}
        for index, (inputs, outputs) in enumerate(self.shapes()):
            keys = jax.random.split(jax.random.fold_in(key, index))
            params[f"layer{index}"] = uniform_linear(*keys, inputs, outputs)
        return params

    def weights(self, params: Params) -> Weights:
        """What multiplies hidden values and positions: (kernel,), at the skip (hidden kernel, position kernel)."""
        made: list[tuple[jax.Array, ...]] = []
        for index in range(self.layers + 1):
            kernel = params[f"layer{index}"]["kernel"]
            if index == self.skip:
                hidden, position, _ = self._parts(kernel)
                made.append((HALF * hidden, HALF * position))
            else:
                made.append((kernel[:3],) if index == 0 else (kernel,))
        return tuple(made)

    def biases(self, params: Params, code: jax.Array) -> tuple[jax.Array, ...]:
        """Biases per layer with the share of `code` (…,code) folded in: (…,width) at the input and the skip."""
        made = [params[f"layer{index}"]["bias"] for index in range(self.layers + 1)]
        made[0] = made[0] + code @ params["layer0"]["kernel"][3:]
        made[self.skip] = made[self.skip] + HALF * (code @ self._parts(params[f"layer{self.skip}"]["kernel"])[2])
        return tuple(made)

    def apply(self, weights: Weights, biases: tuple[jax.Array, ...], points: jax.Array) -> jax.Array:
        """Values (…,N,out) at `points` (…,N,3); folded biases broadcast over the points, so they are (…,1,width)."""
        hidden = points
        for index, (kernels, bias) in enumerate(zip(weights, biases, strict=True)):
            value = hidden @ kernels[0] + bias
            if index == self.skip:
                value = value + points @ kernels[1]
            hidden = safe_norm.softplus(value) if index < self.layers else value
        return hidden

    def __call__(self, params: Params, code: jax.Array, points: jax.Array) -> jax.Array:
        """Values (…,N,out) at `points` (…,N,3) for codes that broadcast against them, (…,1,code) or (…,N,code)."""
        return self.apply(self.weights(params), self.biases(params, code), points)

    def _parts(self, kernel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The rows of the skip layer's kernel for hidden values, position and code."""
        start = kernel.shape[0] - 3 - self.code
        return kernel[:start], kernel[start : start + 3], kernel[start + 3 :]


def uniform_linear(kernel_key: jax.Array, bias_key: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
    """A layer as PyTorch's Linear starts it."""
    bound = 1 / math.sqrt(inputs)
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(bias_key, (outputs,), jnp.float32, -bound, bound),
    }
