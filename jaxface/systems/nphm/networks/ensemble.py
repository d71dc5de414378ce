"""The identity model of NPHM: an ensemble of local SDFs around anchor points, blended with Gaussian weights.

Giebenhain et al., CVPR 2023, §3.2; official file models/EnsembledDeepSDF.py (FastEnsembleDeepSDFMirrored). The members
of the ensemble are, in this order: mirrored pairs that share a network, single members on the mid-sagittal plane, and a
background member without an anchor. An identity code is [global | local 0 | local 1 | … | local background].
Coordinates: units of 250 mm (FLAME's metres times 4), x to the subject's left, y up, z out of the face.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP, uniform_linear

# Gaussian weights are exp(-distance^2 / BLEND_VARIANCE), without the usual factor 2.
BLEND_VARIANCE = 0.1**2
# Constant squared distance of the background member to every point.
BACKGROUND_SQUARED_DISTANCE = 0.2
# Added to the sum of the weights; damps the SDF to 0 where all anchors are far away.
WEIGHT_SUM_EPSILON = 1e-6
DISTANCE_EPSILON = 1e-5
MIRROR_X = (-1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An identity model with A anchors and A + 1 members.

    Attributes:
        mean_anchors: 3A coordinates of the mean anchors.
        pairs: the first 2 * pairs anchors are mirrored pairs; members of a pair share their network.
        global_dim: length of the global code.
        local_dim: length of each local code.
        width, layers, narrow_skip: architecture of the members' networks, see `SkipMLP`.
        position_width: hidden units of the anchor MLP.
        dtype, remat: computation of the members' networks, see `SkipMLP`.
    """

    mean_anchors: tuple[float, ...]
    pairs: int
    global_dim: int
    local_dim: int
    width: int
    layers: int
    position_width: int
    narrow_skip: bool = True
    dtype: str = "float32"
    remat: bool = False

    @property
    def anchor_count(self) -> int:
        """Number A of anchors."""
        return len(self.mean_anchors) // 3

    @property
    def member_count(self) -> int:
        """Number of members: one per anchor, and the background."""
        return self.anchor_count + 1

    @property
    def network_count(self) -> int:
        """Number of networks: one per pair, and one per other member."""
        return self.member_count - self.pairs

    @property
    def code_dim(self) -> int:
        """Length of an identity code."""
        return self.global_dim + self.member_count * self.local_dim

    @property
    def mlp(self) -> SkipMLP:
        """Architecture of the members' networks."""
        code_dim = self.global_dim + self.local_dim
        return SkipMLP(code_dim, 1, self.width, self.layers, self.narrow_skip, self.dtype, self.remat)

    def init(self, key: jax.Array) -> Params:
        """Random parameters.

        Returns:
            {"members": layers with a leading axis of networks, pairs first; "positions": layers of the anchor MLP}.
        """
        keys = jax.random.split(key, 7)
        widths = (self.global_dim, self.position_width, self.position_width, 3 * self.anchor_count)
        sizes = zip(widths[:-1], widths[1:], strict=True)
        positions = {f"layer{i}": uniform_linear(keys[2 * i], keys[2 * i + 1], *size) for i, size in enumerate(sizes)}
        members = jax.vmap(self.mlp.init)(jax.random.split(keys[6], self.network_count))
        return {"members": members, "positions": positions}

    def anchors(self, params: Params, codes: jax.Array) -> jax.Array:
        """Anchors (B,A,3) of codes (B,code_dim): mean anchors plus offsets, an MLP of the global code."""
        hidden, layers = codes[:, : self.global_dim], params["positions"]
        for index in range(len(layers)):
            layer = layers[f"layer{index}"]
            hidden = hidden @ layer["kernel"] + layer["bias"]
            hidden = jax.nn.relu(hidden) if index < len(layers) - 1 else hidden
        return hidden.reshape(-1, self.anchor_count, 3) + np.float32(self.mean_anchors).reshape(-1, 3)

    def local_codes(self, codes: jax.Array) -> jax.Array:
        """Local codes (B,member_count,local_dim) of identity codes (B,code_dim)."""
        return codes[:, self.global_dim :].reshape(codes.shape[0], self.member_count, self.local_dim)

    def centers(self, anchors: jax.Array) -> jax.Array:
        """Origins (B,member_count,3) of the members' local coordinates: the anchors (B,A,3), 0 for the background."""
        return jnp.concatenate([anchors, jnp.zeros_like(anchors[:, :1])], 1)

    def mirror_signs(self) -> np.ndarray:
        """Signs (member_count,3) of local coordinates: the second member of each pair has x mirrored."""
        index = np.arange(self.member_count)
        mirrored = (index % 2 == 1) & (index < 2 * self.pairs)
        return np.where(mirrored[:, None], np.float32(MIRROR_X), np.float32(1))

    def sdf(self, params: Params, codes: jax.Array, points: jax.Array) -> jax.Array:
        """Signed distances (B,N) of identity codes (B,code_dim) at points (B,N,3); positive outside."""
        anchors = self.anchors(params, codes)
        values = self.member_sdfs(params, codes, anchors, points)[0]
        weights = self.gaussian_weights(anchors, points)
        return (weights * values).sum(1) / (weights.sum(1) + WEIGHT_SUM_EPSILON)

    def sdf_and_gradient(
        self, params: Params, codes: jax.Array, points: jax.Array, replicate_last_point_bug: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Signed distances and their spatial gradient; differentiable in all arguments, also at an anchor.

        Args:
            params: as from `init`.
            codes: identity codes (B,code_dim).
            points: (B,N,3).
            replicate_last_point_bug: reproduces a bug of the official code in evaluation mode, for comparison with its
                numbers: it means to set the background member to 1, but sets all members to 1 at the last point.

        Returns:
            (sdf (B,N), gradient (B,N,3)).
        """
        anchors = self.anchors(params, codes)
        values, gradients = self.member_sdfs(params, codes, anchors, points, gradient=True)
        if replicate_last_point_bug:
            values, gradients = values.at[..., -1].set(1.0), gradients.at[..., -1, :].set(0.0)
        weights = self.gaussian_weights(anchors, points)
        total = weights.sum(1) + WEIGHT_SUM_EPSILON
        sdf = (weights * values).sum(1) / total
        # Quotient rule: sum_m (w_m grad f_m + (f_m - sdf) grad w_m) / total.
        by_values = jnp.einsum("bmn,bmnd->bnd", weights, gradients)
        weight_gradients = self._weight_gradients(anchors, points, weights)
        by_weights = jnp.einsum("ban,band->bnd", (values - sdf[:, None])[:, :-1], weight_gradients)
        return sdf, (by_values + by_weights) / total[..., None]

    def member_sdfs(
        self, params: Params, codes: jax.Array, anchors: jax.Array, points: jax.Array, gradient: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """Each member's SDF before blending.

        Args:
            params: as from `init`.
            codes: identity codes (B,code_dim).
            anchors: (B,A,3).
            points: (B,N,3).
            gradient: whether to compute spatial gradients.

        Returns:
            (values (B,member_count,N), gradients (B,member_count,N,3) or None).
        """
        global_shape = (codes.shape[0], self.member_count, self.global_dim)
        global_codes = jnp.broadcast_to(codes[:, None, : self.global_dim], global_shape)
        latents = jnp.concatenate([global_codes, self.local_codes(codes)], -1)
        centers, signs = self.centers(anchors), self.mirror_signs()
        mlp = self.mlp

        def network(layers: Params, latents: jax.Array, centers: jax.Array, signs: jax.Array) -> tuple:
            """One network on its k members: latents (B,k,…), centers (B,k,3), signs (k,3)."""
            weights = mlp.weights(layers)
            biases = tuple(b[:, :, None] if b.ndim == 3 else b for b in mlp.biases(layers, latents))
            local = signs[:, None] * (points[:, None] - centers[:, :, None])
            evaluate = lambda local: mlp.apply(weights, biases, local)[..., 0]  # noqa: E731
            if not gradient:
                return (evaluate(local),)
            values, pull = jax.vjp(evaluate, local)
            return values, signs[:, None] * pull(jnp.ones_like(values))[0]

        outputs = []
        for networks, members, size in self._network_groups():
            grouped = [_group(latents, 1, members, size), _group(centers, 1, members, size)]
            grouped.append(_group(signs, 0, members, size))
            if len(grouped[0]):
                layers = jax.tree.map(lambda leaf, networks=networks: leaf[networks], params["members"])
                outputs.append([_ungroup(out) for out in _map_networks(network, (layers, *grouped))])
        joined = [jnp.concatenate(parts, 1) for parts in zip(*outputs, strict=True)]
        return joined[0], joined[1] if gradient else None

    def _network_groups(self) -> tuple[tuple[slice, slice, int], ...]:
        """(networks, members, members per network) of the mirrored pairs and of the other members."""
        first_single = 2 * self.pairs
        return (
            (slice(None, self.pairs), slice(None, first_single), 2),
            (slice(self.pairs, None), slice(first_single, None), 1),
        )

    def gaussian_weights(self, anchors: jax.Array, points: jax.Array) -> jax.Array:
        """Blending weights (B,member_count,N), not normalised, of anchors (B,A,3) at points (B,N,3)."""
        distance = safe_norm.norm(points[:, None] - anchors[:, :, None]) + DISTANCE_EPSILON
        background = jnp.full_like(distance[:, :1], BACKGROUND_SQUARED_DISTANCE)
        return jnp.exp(-jnp.concatenate([distance**2, background], 1) / BLEND_VARIANCE)

    def _weight_gradients(self, anchors: jax.Array, points: jax.Array, weights: jax.Array) -> jax.Array:
        """Spatial gradients (B,A,N,3) of the weights (B,member_count,N); that of the background is 0."""
        offset = points[:, None] - anchors[:, :, None]
        slope = -2 / BLEND_VARIANCE * (safe_norm.norm(offset) + DISTANCE_EPSILON) * weights[:, :-1]
        return slope[..., None] * safe_norm.normalize(offset)


def _map_networks(network, arguments: tuple) -> tuple:
    """Maps `network` over the leading axis: sequentially on CPUs, where that is fastest, otherwise vectorised.

    The platform is that of the compiled program: an exported file has both forms.
    """
    return lax.platform_dependent(
        *arguments,
        cpu=lambda *arrays: lax.map(lambda one: network(*one), arrays),
        default=lambda *arrays: jax.vmap(network)(*arrays),
    )


def _group(values, axis: int, members: slice, size: int):
    """Selects `members` along `axis` and groups them by `size` per network: a new leading axis of networks."""
    chosen = values[(slice(None),) * axis + (members,)]
    shape = chosen.shape
    return jnp.moveaxis(chosen.reshape(*shape[:axis], -1, size, *shape[axis + 1 :]), axis, 0)


def _ungroup(values: jax.Array) -> jax.Array:
    """(networks,B,k,N,…) to (B,members,N,…)."""
    moved = jnp.moveaxis(values, 0, 1)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])
