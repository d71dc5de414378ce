"""The baseline NPM (Palafox et al., ICCV 2021) in NPHM's release: one large network on position and code."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP

LAST_SPREAD = 1e-5


@dataclasses.dataclass(frozen=True)
class Single:
    """An identity model without anchors; the interface is that of `ensemble.Ensemble`."""

    code: int
    width: int
    layers: int
    narrow: bool = True
    anchor_count: int = 0

    @property
    def mlp(self) -> SkipMLP:
        """The one network."""
        return SkipMLP(self.code, 1, self.width, self.layers, self.narrow)

    def init(self, key: jax.Array) -> Params:
        """PyTorch's start, except that the last layer begins as the distance to a ball (Atzmon & Lipman, CVPR 2020)."""
        params = self.mlp.init(key)
        last = params[f"layer{self.layers}"]
        kernel = math.sqrt(math.pi / self.width) + LAST_SPREAD * jax.random.normal(key, last["kernel"].shape)
        return {**params, f"layer{self.layers}": {"kernel": kernel, "bias": jnp.full_like(last["bias"], -1.0)}}

    def anchors(self, params: Params, codes: jax.Array) -> jax.Array:
        """None: (B,0,3)."""
        del params
        return jnp.zeros((codes.shape[0], 0, 3), codes.dtype)

    def sdf(self, params: Params, codes: jax.Array, points: jax.Array) -> jax.Array:
        """Signed distances (B,N) of codes (B,code) at points (B,N,3); positive outside."""
        return self.mlp(params, codes[:, None], points)[..., 0]

    def sdf_and_gradient(
        self, params: Params, codes: jax.Array, points: jax.Array, last_is_one: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """(sdf (B,N), its gradient (B,N,3)); the reference's fault at the last point is none of this network."""
        del last_is_one
        weights, biases = self.mlp.weights(params), self.mlp.biases(params, codes[:, None])
        values, pull = jax.vjp(lambda points: self.mlp.apply(weights, biases, points)[..., 0], points)
        return values, pull(jnp.ones_like(values))[0]
