"""MLP with an input skip connection (DeepSDF, Park et al., CVPR 2019), as NPHM uses it.

The network sees [position | latent code]. A code is shared by many points, so its contribution to a layer is computed
once and folded into that layer's bias. Official files: models/EnsembledDeepSDF.py and models/deepSDF.py of
SimonGiebenhain/NPHM.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxface.errors import UserError
from jaxface.systems.nphm.networks import safe_norm

Params = dict[str, dict[str, jax.Array]]
Weights = tuple[tuple[jax.Array, ...], ...]
# The skip layer takes [hidden | input] / sqrt(2).
SKIP_SCALE = 1 / math.sqrt(2)


@dataclasses.dataclass(frozen=True)
class SkipMLP:
    """Architecture of the MLP: [xyz 3 | code] -> `layers` hidden layers with softplus -> output.

    Attributes:
        code_dim: length of the latent code.
        out_dim: number of outputs.
        width: units of the hidden layers.
        layers: number of hidden layers; layer `layers // 2` takes the input again.
        narrow_skip: the layer before the skip is narrowed by the input's width, as in the official code, so that
            [hidden | input] has `width` entries. Otherwise it keeps its width.
        dtype: type of the hidden values and of their products. Products with positions and codes, and the outputs, are
            float32: a position in bfloat16 would be off by up to half a millimetre.
        remat: whether the hidden values are recomputed for the gradient, layer by layer.
    """

    code_dim: int
    out_dim: int
    width: int
    layers: int
    narrow_skip: bool = True
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        if self.narrow_skip and self.width <= self.in_dim:
            raise UserError(
                f"config.model.width: {self.width} leaves no units before the skip connection, whose input has "
                f"{self.in_dim}; use a larger width, shorter codes or narrow_skip=False"
            )

    @property
    def in_dim(self) -> int:
        """Length of the network's input [xyz | code]."""
        return 3 + self.code_dim

    @property
    def skip(self) -> int:
        """Index of the layer that takes the input again."""
        return self.layers // 2

    def layer_shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer, including the output layer."""
        outputs = [self.width] * self.layers + [self.out_dim]
        if self.narrow_skip:
            outputs[self.skip - 1] -= self.in_dim
        inputs = [self.in_dim, *outputs[:-1]]
        inputs[self.skip] += self.in_dim
        return list(zip(inputs, outputs, strict=True))

    def init(self, key: jax.Array) -> Params:
        """Randomly initialised layers "layer0", "layer1", …, each by `uniform_linear`."""
        params = {}
        for index, (inputs, outputs) in enumerate(self.layer_shapes()):
            keys = jax.random.split(jax.random.fold_in(key, index))
            params[f"layer{index}"] = uniform_linear(*keys, inputs, outputs)
        return params

    def weights(self, params: Params) -> Weights:
        """Kernels without the rows of the code: (kernel,) per layer, (hidden kernel, position kernel) at the skip."""
        weights: list[tuple[jax.Array, ...]] = []
        for index in range(self.layers + 1):
            kernel = params[f"layer{index}"]["kernel"]
            if index == self.skip:
                hidden, position, _ = self._split_skip_kernel(kernel)
                weights.append((SKIP_SCALE * hidden, SKIP_SCALE * position))
            else:
                weights.append((kernel[:3],) if index == 0 else (kernel,))
        return tuple(weights)

    def biases(self, params: Params, code: jax.Array) -> tuple[jax.Array, ...]:
        """Biases with the contribution of `code` (…,code_dim) folded in: (…,width) at the input and skip layers."""
        biases = [params[f"layer{index}"]["bias"] for index in range(self.layers + 1)]
        code_kernel = self._split_skip_kernel(params[f"layer{self.skip}"]["kernel"])[2]
        biases[0] = biases[0] + code @ params["layer0"]["kernel"][3:]
        biases[self.skip] = biases[self.skip] + SKIP_SCALE * (code @ code_kernel)
        return tuple(biases)

    def apply(self, weights: Weights, biases: tuple[jax.Array, ...], points: jax.Array) -> jax.Array:
        """Evaluates the network with folded codes.

        Args:
            weights: as returned by `weights`.
            biases: as returned by `biases`; folded ones broadcast over the points, (…,1,width).
            points: (…,N,3).

        Returns:
            (…,N,out_dim).
        """
        hidden = points
        for index, (kernels, bias) in enumerate(zip(weights, biases, strict=True)):
            layer = functools.partial(self._layer, index)
            hidden = (jax.checkpoint(layer) if self.remat else layer)(kernels, bias, hidden, points)
        return hidden

    def _layer(
        self, index: int, kernels: tuple[jax.Array, ...], bias: jax.Array, hidden: jax.Array, points: jax.Array
    ) -> jax.Array:
        """Layer number `index`; `hidden` are the points at the first one."""
        dtype = self.dtype if index else jnp.float32
        kernel = kernels[0].astype(dtype)
        value = jnp.matmul(hidden.astype(dtype), kernel, preferred_element_type=jnp.float32) + bias
        if index == self.skip:
            value = value + points @ kernels[1]
        return safe_norm.softplus(value.astype(self.dtype)) if index < self.layers else value

    def __call__(self, params: Params, code: jax.Array, points: jax.Array) -> jax.Array:
        """Outputs (…,N,out_dim) at points (…,N,3) for codes (…,1,code_dim), or (…,N,code_dim) with one per point."""
        return self.apply(self.weights(params), self.biases(params, code), points)

    def _split_skip_kernel(self, kernel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rows of the skip layer's kernel for the hidden values, the position and the code."""
        start = kernel.shape[0] - self.in_dim
        return kernel[:start], kernel[start : start + 3], kernel[start + 3 :]


def uniform_linear(kernel_key: jax.Array, bias_key: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
    """A linear layer initialised as PyTorch's nn.Linear: kernel (in,out) and bias uniform within ±1/sqrt(in)."""
    bound = 1 / math.sqrt(inputs)
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(bias_key, (outputs,), jnp.float32, -bound, bound),
    }
