"""The expression model: a forward deformation field from canonical to posed space.

NPHM §3.3; official file models/deepSDF.py (DeformationNetwork).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP, uniform_linear

# Standard deviation of the noise that training adds to every point's copy of the compressed identity.
NOISE_STD = 1 / 200


@dataclasses.dataclass(frozen=True)
class Deformation:
    """A deformation network.

    Attributes:
        identity_dim: length of the identity code.
        anchor_count: number A of anchors of the identity model.
        code_dim: length of the expression code.
        compressed: dimension to which a linear layer compresses [identity | anchors]; 0 feeds the identity code itself
            (NPM).
        width, layers, narrow_skip: architecture of the network, see `SkipMLP`.
        dtype, remat: its computation, see `SkipMLP`.
    """

    identity_dim: int
    anchor_count: int
    code_dim: int
    compressed: int
    width: int
    layers: int
    narrow_skip: bool = True
    dtype: str = "float32"
    remat: bool = False

    @property
    def mlp(self) -> SkipMLP:
        """The network from [xyz | condition | expression] to an offset."""
        latent_dim = (self.compressed or self.identity_dim) + self.code_dim
        return SkipMLP(latent_dim, 3, self.width, self.layers, self.narrow_skip, self.dtype, self.remat)

    def init(self, key: jax.Array) -> Params:
        """Random parameters {"mlp": layers}, and with compression {"compressor": a linear layer}."""
        keys = jax.random.split(key, 3)
        params = {"mlp": self.mlp.init(keys[0])}
        if self.compressed:
            inputs = self.identity_dim + 3 * self.anchor_count
            params["compressor"] = uniform_linear(*keys[1:], inputs, self.compressed)
        return params

    def condition(self, params: Params, identity: jax.Array, anchors: jax.Array) -> jax.Array:
        """Conditioning on identities (B,identity_dim) with anchors (B,A,3): (B,compressed), or the code itself."""
        if not self.compressed:
            return identity
        layer = params["compressor"]
        inputs = jnp.concatenate([identity, anchors.reshape(anchors.shape[0], -1)], -1)
        return inputs @ layer["kernel"] + layer["bias"]

    def offsets(
        self, params: Params, condition: jax.Array, expression: jax.Array, points: jax.Array, noise: jax.Array = 0.0
    ) -> jax.Array:
        """Offsets from canonical to posed points.

        Args:
            params: as from `init`.
            condition: (B,…) as from `condition`.
            expression: expression codes (B,code_dim).
            points: canonical points (B,N,3).
            noise: (B,N,compressed), added to each point's copy of the condition in training; 0 for none.

        Returns:
            (B,N,3).
        """
        latent = jnp.concatenate([condition, expression], -1)[:, None]
        if jnp.ndim(noise):
            latent = latent + jnp.pad(noise, ((0, 0), (0, 0), (0, self.code_dim)))
        return self.mlp(params["mlp"], latent, points)
