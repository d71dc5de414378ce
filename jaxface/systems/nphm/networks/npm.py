"""The identity model of the baseline NPM (Palafox et al., ICCV 2021) in NPHM's release: one global DeepSDF network."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP

# Noise of the output layer's kernel in the geometric initialisation.
LAST_KERNEL_STD = 1e-5


@dataclasses.dataclass(frozen=True)
class NPM:
    """An identity model with one network and no anchors; it has the methods of `ensemble.Ensemble`.

    Attributes:
        code_dim: length of an identity code.
        width, layers, narrow_skip: architecture of the network, see `SkipMLP`.
        anchor_count: always 0.
        dtype, remat: computation of the network, see `SkipMLP`.
    """

    code_dim: int
    width: int
    layers: int
    narrow_skip: bool = True
    anchor_count: int = 0
    dtype: str = "float32"
    remat: bool = False

    @property
    def mlp(self) -> SkipMLP:
        """The network."""
        return SkipMLP(self.code_dim, 1, self.width, self.layers, self.narrow_skip, self.dtype, self.remat)

    def init(self, key: jax.Array) -> Params:
        """Layers initialised as in PyTorch, the last one geometrically.

        With the geometric initialisation (Atzmon & Lipman, CVPR 2020) the network starts close to the SDF of a sphere.
        """
        params = self.mlp.init(key)
        last = params[f"layer{self.layers}"]
        kernel = math.sqrt(math.pi / self.width) + LAST_KERNEL_STD * jax.random.normal(key, last["kernel"].shape)
        return {**params, f"layer{self.layers}": {"kernel": kernel, "bias": jnp.full_like(last["bias"], -1.0)}}

    def anchors(self, params: Params, codes: jax.Array) -> jax.Array:
        """An empty array (B,0,3)."""
        del params
        return jnp.zeros((codes.shape[0], 0, 3), codes.dtype)

    def sdf(self, params: Params, codes: jax.Array, points: jax.Array) -> jax.Array:
        """Signed distances (B,N) of codes (B,code_dim) at points (B,N,3); positive outside."""
        return self.mlp(params, codes[:, None], points)[..., 0]

    def sdf_and_gradient(
        self, params: Params, codes: jax.Array, points: jax.Array, replicate_last_point_bug: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """(sdf (B,N), its spatial gradient (B,N,3)). This network is not affected by the official evaluation bug."""
        del replicate_last_point_bug
        weights, biases = self.mlp.weights(params), self.mlp.biases(params, codes[:, None])
        values, pull = jax.vjp(lambda points: self.mlp.apply(weights, biases, points)[..., 0], points)
        return values, pull(jnp.ones_like(values))[0]


IdentityModel = Ensemble | NPM


@functools.partial(jax.jit, static_argnums=0)
def jit_anchors(model: IdentityModel, params: Params, codes: jax.Array) -> jax.Array:
    """`model.anchors`, compiled."""
    return model.anchors(params, codes)
