"""SDF of one identity at many points, evaluated with the few ensemble members that have weight at each point.

A member's Gaussian weight vanishes far from its anchor. Points are sorted along a Morton curve into chunks, and each
chunk keeps the members that hold all but 1e-4 of the blending weight at any of its points. All (chunk, member) pairs of
one member are then rows of dense matrix products.

Members are dropped by their share of the weights before WEIGHT_SUM_EPSILON is added (NPHM eq. 4-5): shares of the
damped weights vanish far from all anchors, and the sign of the distance would be lost with them.
"""

import concurrent.futures
import dataclasses
import functools
import os

import jax
import numpy as np

from jaxface.systems.nphm.networks.ensemble import (
    BACKGROUND_SQUARED_DISTANCE,
    BLEND_VARIANCE,
    DISTANCE_EPSILON,
    WEIGHT_SUM_EPSILON,
)
from jaxface.systems.nphm.networks.npm import NPM, IdentityModel, jit_anchors
from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP

# Largest share of the blending weight that the members dropped from a chunk may hold together at any of its points.
MAX_DROPPED_SHARE = 1e-4
CHUNK = 64
# Rows of one matrix product; on a CPU, what fits into its caches.
ROWS = {"cpu": 2048}
ROWS_ELSEWHERE = 32768
# Points whose weights are held in memory at once.
BATCH = 1 << 17
MORTON_BITS = 10


@functools.partial(jax.jit, static_argnums=0)
def _apply(mlp: SkipMLP, weights: tuple, biases: tuple, points: jax.Array) -> jax.Array:
    return mlp.apply(weights, biases, points)[:, 0]


@dataclasses.dataclass(frozen=True)
class Member:
    """A member's network with the identity code folded into its biases.

    Attributes:
        mlp: architecture.
        weights: as from `SkipMLP.weights`.
        biases: as from `SkipMLP.biases`.
        center: (3,), origin of its local coordinates, sign * (x - center).
        sign: (3,), -1 where a coordinate is mirrored.
    """

    mlp: SkipMLP
    weights: tuple
    biases: tuple
    center: np.ndarray
    sign: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed distances (N,) at points (N,3), for any N."""
        rows = ROWS.get(jax.default_backend(), ROWS_ELSEWHERE)
        local = self.sign * (points - self.center)
        padded = np.pad(local, ((0, -len(local) % rows), (0, 0)))
        starts = range(0, len(points), rows)
        values = [_apply(self.mlp, self.weights, self.biases, padded[i : i + rows]) for i in starts]
        return np.concatenate([np.asarray(value) for value in values] or [np.zeros(0, np.float32)])[: len(points)]


def fold_members(model: IdentityModel, params: Params, code: jax.Array) -> list[Member]:
    """The members of one identity code (C,), the background last; NPM has a single member."""
    code, params = np.asarray(code), jax.tree.map(np.asarray, params)
    if isinstance(model, NPM):
        networks, centers, signs = [(params, code)], np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    else:
        indices = [*np.repeat(np.arange(model.pairs), 2), *range(model.pairs, model.network_count)]
        networks = []
        for index, local_code in zip(indices, model.local_codes(code[None])[0], strict=True):
            layers = jax.tree.map(lambda leaf, index=index: leaf[index], params["members"])
            networks.append((layers, np.append(code[: model.global_dim], local_code)))
        anchors = np.asarray(jit_anchors(model, params, code[None]))[0]
        centers = np.append(anchors, np.zeros((1, 3), np.float32), axis=0)
        signs = np.broadcast_to(model.mirror_signs(), centers.shape)
    mlp = model.mlp
    return [
        Member(mlp, mlp.weights(layers), mlp.biases(layers, latent), center, sign)
        for (layers, latent), center, sign in zip(networks, centers, signs, strict=True)
    ]


def evaluate(members: list[Member], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SDF at points (N,3).

    Returns:
        (blend, output), each (N,) float32. `output` is the model's output, within 1e-4 of the spread of the members'
        values. `blend` uses weights that sum to one, so it has the same sign but is not damped to 0 far from the
        anchors.
    """
    if len(members) == 1:
        values = members[0](points)
        return values, values
    order = np.argsort(_morton_codes(points), kind="stable")
    parts = [_blend(members, points[order[i : i + BATCH]]) for i in range(0, len(points), BATCH)]
    blend, total = np.concatenate(parts, axis=1)[:, np.argsort(order)] if parts else np.zeros((2, 0), np.float32)
    return blend, blend * (total / (total + WEIGHT_SUM_EPSILON))


def _blend(members: list[Member], points: np.ndarray) -> np.ndarray:
    """(blended value, sum of the weights) as (2,N), for points (N,3) in Morton order."""
    weights = _gaussian_weights(members, points)
    total = weights.sum(0)
    kept = _kept_members(weights / total)
    chunk = np.arange(len(points)) // CHUNK

    def weighted(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(kept[index][chunk])
        member_weights = weights[index, rows]
        return rows, member_weights, member_weights * members[index](points[rows])

    value_sum, weight_sum = np.zeros((2, len(points)), np.float32)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows, member_weights, weighted_values in pool.map(weighted, range(len(members))):
            weight_sum[rows] += member_weights
            value_sum[rows] += weighted_values
    return np.stack([value_sum / weight_sum, total])


def _gaussian_weights(members: list[Member], points: np.ndarray) -> np.ndarray:
    """Blending weights (M,N), not normalised; the background is the last member."""
    squared = np.full((len(members), len(points)), BACKGROUND_SQUARED_DISTANCE, np.float32)
    for index, member in enumerate(members[:-1]):
        squared[index] = (np.linalg.norm(points - member.center, axis=1) + DISTANCE_EPSILON) ** 2
    return np.exp(squared / -BLEND_VARIANCE)


def _kept_members(shares: np.ndarray) -> np.ndarray:
    """Mask (M,chunks) bool of the members to evaluate, for shares (M,N) of the blending weight.

    In each chunk the members with the smallest shares are dropped, up to MAX_DROPPED_SHARE together.
    """
    padded = np.pad(shares, ((0, 0), (0, -shares.shape[1] % CHUNK)))
    highest = padded.reshape(len(shares), -1, CHUNK).max(-1)
    order = np.argsort(highest, axis=0)
    kept_sorted = np.cumsum(np.take_along_axis(highest, order, 0), axis=0) > MAX_DROPPED_SHARE
    kept = np.zeros_like(kept_sorted)
    np.put_along_axis(kept, order, kept_sorted, 0)
    return kept


def _morton_codes(points: np.ndarray) -> np.ndarray:
    """Morton codes (N,) int64 of points (N,3) in their bounding box, with 2^MORTON_BITS cells a side."""
    low, high = points.min(0), points.max(0)
    cells = ((points - low) / np.maximum(high - low, 1e-9) * (2**MORTON_BITS - 1)).astype(np.int64)
    code = np.zeros(len(points), np.int64)
    for bit in range(MORTON_BITS):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
