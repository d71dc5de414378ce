"""The expression model: offsets from canonical to posed space (NPHM §3.3; official file models/canonical_space.py)."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP, uniform_linear

NOISE = 1 / 200  # on each training point's compressed identity


@dataclasses.dataclass(frozen=True)
class Deformation:
    """A deformation network for identities of `identity_code` numbers and A anchors.

    compressed: width to which one linear layer takes [identity | anchors]; 0 feeds the identity code itself (NPM).
    """

    identity_code: int
    anchor_count: int
    code: int
    compressed: int
    width: int
    layers: int
    narrow: bool = True

    @property
    def mlp(self) -> SkipMLP:
        """[xyz | identity | expression] to an offset."""
        return SkipMLP((self.compressed or self.identity_code) + self.code, 3, self.width, self.layers, self.narrow)

    def init(self, key: jax.Array) -> Params:
        """{"mlp": layers} and with compression {"compressor": a layer}."""
        keys = jax.random.split(key, 3)
        params = {"mlp": self.mlp.init(keys[0])}
        if self.compressed:
            inputs = self.identity_code + 3 * self.anchor_count
            params["compressor"] = uniform_linear(*keys[1:], inputs, self.compressed)
        return params

    def condition(self, params: Params, identity: jax.Array, anchors: jax.Array) -> jax.Array:
        """What the network sees of identities (B,identity_code) with anchors (B,A,3): (B,compressed) or the code."""
        if not self.compressed:
            return identity
        layer = params["compressor"]
        whole = jnp.concatenate([identity, anchors.reshape(anchors.shape[0], -1)], -1)
        return whole @ layer["kernel"] + layer["bias"]

    def offsets(
        self, params: Params, condition: jax.Array, expression: jax.Array, points: jax.Array, noise: jax.Array = 0.0
    ) -> jax.Array:
        """Offsets (B,N,3) at canonical points (B,N,3) for conditions (B,…) and expressions (B,code).

        noise (B,N,compressed), in training, is added to every point's own copy of the condition.
        """
        whole = jnp.concatenate([condition, expression], -1)[:, None]
        if jnp.ndim(noise):
            whole = whole + jnp.pad(noise, ((0, 0), (0, 0), (0, self.code)))
        return self.mlp(params["mlp"], whole, points)
