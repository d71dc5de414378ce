"""The identity model of NPHM: local signed distances around anchors of the face, blended.

Giebenhain et al., CVPR 2023, §3.2; official file models/EnsembledDeepSDF.py (FastEnsembleDeepSDFMirrored). Members
come in mirrored pairs that share a network, then single ones on the mid-plane, then one without an anchor for the
background. Codes are [global | member 0 | member 1 | … | background]. Space: 4 x FLAME's metres, y up, z forwards.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP, uniform_linear

VARIANCE = 0.1**2  # of the blend; with no factor 2
BACKGROUND = 0.2  # the squared distance at which the background member stands from everything
DAMPING = 1e-6
DISTANCE_OFFSET = 1e-5
MIRROR = (-1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An identity model of A anchors.

    mean_anchors: 3A numbers. pairs: how many of the first 2 * pairs anchors are mirrored couples. The rest: sizes of
    the global and local codes, of the members' networks and of the anchors' MLP.
    """

    mean_anchors: tuple[float, ...]
    pairs: int
    global_code: int
    local_code: int
    width: int
    layers: int
    position_width: int
    narrow: bool = True

    @property
    def anchor_count(self) -> int:
        """A."""
        return len(self.mean_anchors) // 3

    @property
    def members(self) -> int:
        """Members of the blend: one per anchor, and the background."""
        return self.anchor_count + 1

    @property
    def code(self) -> int:
        """Length of an identity code."""
        return self.global_code + self.members * self.local_code

    @property
    def mlp(self) -> SkipMLP:
        """The network of every member."""
        return SkipMLP(self.global_code + self.local_code, 1, self.width, self.layers, self.narrow)

    def init(self, key: jax.Array) -> Params:
        """{"members": layers with a leading axis of networks (pairs, then single ones), "positions": the anchors'}."""
        keys = jax.random.split(key, 7)
        groups = self.members - self.pairs
        widths = (self.global_code, self.position_width, self.position_width, 3 * self.anchor_count)
        sizes = zip(widths[:-1], widths[1:], strict=True)
        positions = {f"layer{i}": uniform_linear(keys[2 * i], keys[2 * i + 1], *size) for i, size in enumerate(sizes)}
        return {"members": jax.vmap(self.mlp.init)(jax.random.split(keys[6], groups)), "positions": positions}

    def anchors(self, params: Params, codes: jax.Array) -> jax.Array:
        """Anchors (B,A,3) of codes (B,code): the mean ones, moved by an MLP on the global code."""
        hidden, layers = codes[:, : self.global_code], params["positions"]
        for index in range(len(layers)):
            layer = layers[f"layer{index}"]
            hidden = hidden @ layer["kernel"] + layer["bias"]
            hidden = jax.nn.relu(hidden) if index < len(layers) - 1 else hidden
        return hidden.reshape(-1, self.anchor_count, 3) + np.float32(self.mean_anchors).reshape(-1, 3)

    def locals(self, codes: jax.Array) -> jax.Array:
        """The local codes (B,members,local_code) of codes (B,code)."""
        return codes[:, self.global_code :].reshape(codes.shape[0], self.members, self.local_code)

    def centers(self, anchors: jax.Array) -> jax.Array:
        """Where members' coordinates begin (B,members,3): the anchors (B,A,3), and 0 for the background."""
        return jnp.concatenate([anchors, jnp.zeros_like(anchors[:, :1])], 1)

    def signs(self) -> np.ndarray:
        """(members,3): the second of each pair sees x mirrored."""
        mirrored = (np.arange(self.members) % 2 == 1) & (np.arange(self.members) < 2 * self.pairs)
        return np.where(mirrored[:, None], np.float32(MIRROR), np.float32(1))

    def sdf(self, params: Params, codes: jax.Array, points: jax.Array) -> jax.Array:
        """Signed distances (B,N) of identity codes (B,code) at points (B,N,3); positive outside."""
        anchors = self.anchors(params, codes)
        values = self.member_values(params, codes, anchors, points)[0]
        weights = self.raw_weights(anchors, points)
        return (weights * values).sum(1) / (weights.sum(1) + DAMPING)

    def sdf_and_gradient(
        self, params: Params, codes: jax.Array, points: jax.Array, last_is_one: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """(sdf (B,N), its gradient (B,N,3) by position). Differentiable in all arguments, also on an anchor.

        last_is_one: the reference in eval mode sets all members to 1 at the last point of a call, where it means to
        set the background member everywhere; this does the same, for comparing with numbers made by it.
        """
        anchors = self.anchors(params, codes)
        values, gradients = self.member_values(params, codes, anchors, points, gradient=True)
        if last_is_one:
            values, gradients = values.at[..., -1].set(1.0), gradients.at[..., -1, :].set(0.0)
        weights = self.raw_weights(anchors, points)
        total = weights.sum(1) + DAMPING
        sdf = (weights * values).sum(1) / total
        towards = self._weight_gradients(anchors, points, weights)
        inner = jnp.einsum("bmn,bmnd->bnd", weights, gradients)
        moved = jnp.einsum("ban,band->bnd", (values - sdf[:, None])[:, :-1], towards)
        return sdf, (inner + moved) / total[..., None]

    def member_values(
        self, params: Params, codes: jax.Array, anchors: jax.Array, points: jax.Array, gradient: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """Each member's own distance (B,members,N) and, asked for, its gradient (B,members,N,3), else None."""
        shared = jnp.broadcast_to(codes[:, None, : self.global_code], (codes.shape[0], self.members, self.global_code))
        latents = jnp.concatenate([shared, self.locals(codes)], -1)
        centers, signs = self.centers(anchors), self.signs()
        mlp, split = self.mlp, 2 * self.pairs

        def network(layers: Params, latents: jax.Array, centers: jax.Array, signs: jax.Array) -> tuple:
            """One network on its one or two members: latents (B,k,…), centers (B,k,3), signs (k,3)."""
            weights = mlp.weights(layers)
            biases = tuple(b[:, :, None] if b.ndim == 3 else b for b in mlp.biases(layers, latents))
            local = signs[:, None] * (points[:, None] - centers[:, :, None])
            run = lambda local: mlp.apply(weights, biases, local)[..., 0]  # noqa: E731
            if not gradient:
                return (run(local),)
            values, pull = jax.vjp(run, local)
            return values, signs[:, None] * pull(jnp.ones_like(values))[0]

        parts = []
        for part, size in ((slice(None, split), 2), (slice(split, None), 1)):
            networks = slice(None, self.pairs) if size == 2 else slice(self.pairs, None)
            group = lambda x, axis, part=part, size=size: _grouped(x, axis, part, size)  # noqa: E731
            arguments = (group(latents, 1), group(centers, 1), group(signs, 0))
            if len(arguments[0]):
                layers = jax.tree.map(lambda leaf, networks=networks: leaf[networks], params["members"])
                parts.append([_ungrouped(out) for out in _over_networks(network, (layers, *arguments))])
        joined = [jnp.concatenate(outs, 1) for outs in zip(*parts, strict=True)]
        return joined[0], joined[1] if gradient else None

    def raw_weights(self, anchors: jax.Array, points: jax.Array) -> jax.Array:
        """Blend weights (B,members,N) before they are made to sum to (nearly) one."""
        distance = safe_norm.norm(points[:, None] - anchors[:, :, None]) + DISTANCE_OFFSET
        background = jnp.full_like(distance[:, :1], BACKGROUND)
        return jnp.exp(-jnp.concatenate([distance**2, background], 1) / VARIANCE)

    def _weight_gradients(self, anchors: jax.Array, points: jax.Array, weights: jax.Array) -> jax.Array:
        """Gradients (B,A,N,3) of the raw weights by position; the background's is 0."""
        offset = points[:, None] - anchors[:, :, None]
        slope = -2 / VARIANCE * (safe_norm.norm(offset) + DISTANCE_OFFSET) * weights[:, :-1]
        return slope[..., None] * safe_norm.direction(offset)


def _over_networks(network, arguments: tuple) -> tuple:
    """`network` for each entry of the leading axis: one after another on CPUs, where that is fastest, else at once."""
    if jax.default_backend() == "cpu":
        return lax.map(lambda one: network(*one), arguments)
    return jax.vmap(network)(*arguments)


def _grouped(values, axis: int, part: slice, size: int):
    """The members of `part` along `axis`, `size` to a network: a new leading axis of networks."""
    chosen = values[(slice(None),) * axis + (part,)]
    shape = chosen.shape
    return jnp.moveaxis(chosen.reshape(*shape[:axis], -1, size, *shape[axis + 1 :]), axis, 0)


def _ungrouped(values: jax.Array) -> jax.Array:
    """(networks,B,k,N,…) to (B,members,N,…)."""
    moved = jnp.moveaxis(values, 0, 1)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])
