"""The distances of one identity at many points, by the few members that count where each point lies.

Far from its anchor a member has no say. Points are sorted along a space-filling curve into chunks, and every chunk
lists the members that hold all but a ten-thousandth of the blend there; the (chunk, member) pairs of one member then
are the rows of plain matrix products. Shares are taken before the damping of the blend's denominator: damped ones
vanish far from all anchors, and with them the sign of the distance (Giebenhain et al., CVPR 2023, eq. 4-5).
"""

import concurrent.futures
import dataclasses
import functools
import os

import jax
import numpy as np

from jaxface.systems.nphm.networks.ensemble import BACKGROUND, DAMPING, DISTANCE_OFFSET, VARIANCE, Ensemble
from jaxface.systems.nphm.networks.npm import Single
from jaxface.systems.nphm.networks.skip_mlp import Params, SkipMLP

# What the members left out of a chunk may hold together of the blend, at any of its points.
LEFT_OUT = 1e-4
CHUNK = 64
# Rows of one matrix product: on a CPU what stays in its caches.
ROWS = {"cpu": 2048}
ROWS_ELSEWHERE = 32768
# Points whose shares are held in memory at once.
BATCH = 1 << 17


@functools.partial(jax.jit, static_argnums=0)
def _network(mlp: SkipMLP, weights: tuple, biases: tuple, points: jax.Array) -> jax.Array:
    return mlp.apply(weights, biases, points)[:, 0]


@dataclasses.dataclass(frozen=True)
class Member:
    """A network on its own coordinates sign * (x - center), center and sign (3,), the identity code in its biases."""

    mlp: SkipMLP
    weights: tuple
    biases: tuple
    center: np.ndarray
    sign: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Distances (N,) at points (N,3), any N."""
        rows = ROWS.get(jax.default_backend(), ROWS_ELSEWHERE)
        own = self.sign * (points - self.center)
        starts = range(0, len(points), rows)
        padded = np.pad(own, ((0, -len(own) % rows), (0, 0)))
        values = [_network(self.mlp, self.weights, self.biases, padded[i : i + rows]) for i in starts]
        return np.concatenate([np.asarray(value) for value in values] or [np.zeros(0, np.float32)])[: len(points)]


def fold(model: Ensemble | Single, params: Params, code: jax.Array) -> list[Member]:
    """The members of one identity, code (C,), the background last; a single network is one member."""
    code, own = np.asarray(code), jax.tree.map(np.asarray, params)
    if isinstance(model, Single):
        layers, centers, signs = [(own, code)], np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    else:
        networks = [*np.repeat(np.arange(model.pairs), 2), *range(model.pairs, model.members - model.pairs)]
        local = model.locals(code[None])[0]
        layers = [
            (jax.tree.map(lambda leaf, i=i: leaf[i], own["members"]), np.append(code[: model.global_code], latent))
            for i, latent in zip(networks, local, strict=True)
        ]
        centers = np.append(np.asarray(_anchors(model, params, code[None]))[0], np.zeros((1, 3), np.float32), axis=0)
        signs = np.broadcast_to(model.signs(), centers.shape)
    mlp = model.mlp
    return [
        Member(mlp, mlp.weights(network), mlp.biases(network, latent), center, sign)
        for (network, latent), center, sign in zip(layers, centers, signs, strict=True)
    ]


_anchors = jax.jit(lambda model, *arguments: model.anchors(*arguments), static_argnums=0)


def distances(members: list[Member], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(blend, damped), each (N,) float32, of points (N,3).

    `damped` is the model's own output within 1e-4 of the members' spread; `blend` is the same with weights that sum to
    one, a distance everywhere and of the same sign.
    """
    if len(members) == 1:
        values = members[0](points)
        return values, values
    order = np.argsort(_along_curve(points), kind="stable")
    made = [_blended(members, points[order[i : i + BATCH]]) for i in range(0, len(points), BATCH)]
    blend, total = np.concatenate(made, axis=1)[:, np.argsort(order)] if made else np.zeros((2, 0), np.float32)
    return blend, blend * (total / (total + DAMPING))


def _blended(members: list[Member], points: np.ndarray) -> np.ndarray:
    """(blend, total weight) as (2,N) of sorted points (N,3)."""
    weights = _weights(members, points)
    total = weights.sum(0)
    kept = _kept(weights / total)
    chunk = np.arange(len(points)) // CHUNK

    def weighted(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(kept[index][chunk])
        own = weights[index, rows]
        return rows, own, own * members[index](points[rows])

    summed, held = np.zeros((2, len(points)), np.float32)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows, own, product in pool.map(weighted, range(len(members))):
            held[rows] += own
            summed[rows] += product
    return np.stack([summed / held, total])


def _weights(members: list[Member], points: np.ndarray) -> np.ndarray:
    """Blend weights (M,N) of all members, the background the last."""
    squared = np.full((len(members), len(points)), BACKGROUND, np.float32)
    for index, member in enumerate(members[:-1]):
        squared[index] = (np.linalg.norm(points - member.center, axis=1) + DISTANCE_OFFSET) ** 2
    return np.exp(squared / -VARIANCE)


def _kept(shares: np.ndarray) -> np.ndarray:
    """Which members (M,chunks) bool count in each chunk, for shares (M,N): the smallest ones go, LEFT_OUT in all."""
    padded = np.pad(shares, ((0, 0), (0, -shares.shape[1] % CHUNK)))
    highest = padded.reshape(len(shares), -1, CHUNK).max(-1)
    order = np.argsort(highest, axis=0)
    counts = np.cumsum(np.take_along_axis(highest, order, 0), axis=0) > LEFT_OUT
    kept = np.zeros_like(counts)
    np.put_along_axis(kept, order, counts, 0)
    return kept


def _along_curve(points: np.ndarray) -> np.ndarray:
    """The place (N,) int64 of points (N,3) on the Morton curve through their bounding box, 2^10 steps a side."""
    low, high = points.min(0), points.max(0)
    cells = ((points - low) / np.maximum(high - low, 1e-9) * 1023).astype(np.int64)
    code = np.zeros(len(points), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
