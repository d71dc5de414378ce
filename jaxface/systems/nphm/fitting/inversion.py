"""Codes of a person from points of their head in several expressions (NPHM §4.2; official file fitting_pointclouds.py).

One person has K scans and a code of identity, each scan a code of expression. All is batched over people by `vmap`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import optax
from jax import lax

from jaxface.system import Tree
from jaxface.systems.nphm import losses
from jaxface.systems.nphm.fitting import backward
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import Single

LEARNING_RATE = 0.01
# Of 1000 steps: (first step, factor) of each quantity; the factors add up by multiplication.
FALLS = {
    "lr": ((200, 1 / 2), (400, 1 / 2), (600, 1 / 2), (800, 1 / 2)),
    "symmetry": ((200, 1 / 10), (500, 1 / 9999)),
    "global": ((200, 1 / 3), (600, 1 / 10)),
    "local": ((500, 1 / 3), (600, 1 / 10)),
    "expression": ((600, 1 / 10),),
    "limit": ((251, 0.05 / 0.1), (501, 0.0075 / 0.05)),
}
START = {"lr": LEARNING_RATE, "symmetry": 5.0, "global": 0.25, "local": 0.05, "expression": 0.01, "limit": 0.1}
SURFACE, LOOSE = 2.0, 10.0
SCHEDULED_STEPS = 1000
# Poses are nearly right when the fit begins.
POSE_RATE = 0.1


class Codes(NamedTuple):
    """What is fitted: identity (code,), expressions (K,code) and the scans' poses (K,6), a rotation vector and a shift.

    Leading axes come where people are batched. poses None: the scans lie in the model's frame already, as the
    reference takes for granted.
    """

    identity: jax.Array
    expressions: jax.Array
    poses: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Fitter:
    """The networks that are inverted; without `deformation` every scan is a canonical head.

    loose: members whose codes are held tighter, since scans hardly see their place (the reference's: the neck's).
    """

    identity: Ensemble | Single
    deformation: Deformation | None
    loose: tuple[int, ...] = ()
    method: str = "broyden"

    def start(self, scans: int, poses: bool = False) -> Codes:
        """All-zero codes; `poses`: with poses to be refined."""
        width = self.deformation.code if self.deformation else 0
        return Codes(jnp.zeros(self.identity.code), jnp.zeros((scans, width)), jnp.zeros((scans, 6)) if poses else None)

    def canonical(self, params: Tree, codes: Codes, rows: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(canonical points (K',P,3), bool found (K',P)) of observed points (K',P,3) with expressions `rows` (K',)."""
        if codes.poses is not None:
            poses = codes.poses[rows]
            turned = jnp.einsum("kij,knj->kni", jax.vmap(rotation)(poses[:, :3]), points, precision="highest")
            points = turned + poses[:, None, 3:]
        if self.deformation is None:
            return points, jnp.ones(points.shape[:2], bool)
        identity = codes.identity[None]
        anchors = self.identity.anchors(params["identity"], identity)
        condition = self.deformation.condition(params["expression"], identity, anchors)

        def one(expression: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
            return backward.warp(self._deform, (params["expression"], condition, expression[None]), points, self.method)

        return jax.vmap(one)(codes.expressions[rows], points)

    def _deform(self, arguments: tuple, points: jax.Array) -> jax.Array:
        params, condition, expression = arguments
        return self.deformation.offsets(params, condition, expression, points[None])[0]

    def loss(
        self, params: Tree, codes: Codes, rows: jax.Array, points: jax.Array, valid: jax.Array, weights: dict
    ) -> tuple[jax.Array, dict]:
        """(loss, its terms) at points (K',P,3) of scans `rows` (K',), of which `valid` (K',P) count.

        Only points whose search converged and that lie within weights["limit"] of the surface enter the mean.
        """
        found, converged = self.canonical(params, codes, rows, points)
        sdf = self.identity.sdf(params["identity"], codes.identity[None], found.reshape(1, -1, 3))[0]
        distance = jnp.abs(sdf)
        counted = (converged & valid).ravel() & (distance < weights["limit"])
        terms = {"surface": jnp.where(counted, distance, 0.0).sum() / jnp.maximum(counted.sum(), 1)}
        total = SURFACE * terms["surface"] + self._prior(codes, rows, weights)
        return total, {**terms, "counted": counted.mean()}

    def _prior(self, codes: Codes, rows: jax.Array, weights: dict) -> jax.Array:
        model, identity = self.identity, codes.identity[None]
        total = weights["expression"] * (codes.expressions[rows] ** 2).sum(-1).mean()
        if not model.anchor_count:
            return total + weights["global"] * (identity**2).sum()
        local = model.locals(identity)
        total += weights["global"] * (identity[:, : model.global_code] ** 2).sum()
        total += weights["local"] * (local**2).sum() + weights["symmetry"] * losses.symmetry(model, identity)
        return total + LOOSE * (local[:, np.array(self.loose, int)] ** 2).sum()

    def step(
        self, params: Tree, state: tuple, rows: jax.Array, points: jax.Array, valid: jax.Array, weights: dict
    ) -> tuple[tuple, dict]:
        """One update of `state` = (codes, moments) by Adam; `weights` as `schedule` gives them."""
        codes, moments = state
        grads, terms = jax.grad(self.loss, 1, has_aux=True)(params, codes, rows, points, valid, weights)
        directions, moments = ADAM.update(grads, moments)
        rates = Codes(1.0, 1.0, None if codes.poses is None else POSE_RATE)
        codes = jax.tree.map(lambda code, step, rate: code - weights["lr"] * rate * step, codes, directions, rates)
        return (codes, moments), terms

    def fit(
        self, params: Tree, points: jax.Array, count: jax.Array, key: jax.Array, steps: int, per_step: int
    ) -> tuple[Codes, dict]:
        """(codes, terms of the steps) of one person from scans (K,P,3), of which the first `count` (K,) points count.

        Every step looks at `per_step` points of every scan, drawn with replacement; poses are refined.
        """
        scans = len(points)
        rows, valid = jnp.arange(scans), jnp.ones((scans, per_step), bool)

        def body(state: tuple, number: jax.Array) -> tuple[tuple, dict]:
            draw = jax.random.uniform(jax.random.fold_in(key, number), (scans, per_step))
            index = jnp.minimum((draw * count[:, None]).astype(jnp.int32), count[:, None] - 1)
            chosen = jnp.take_along_axis(points, index[..., None], 1)
            return self.step(params, state, rows, chosen, valid, schedule(number * SCHEDULED_STEPS / steps))

        codes = self.start(scans, poses=True)
        (codes, _), terms = lax.scan(body, (codes, ADAM.init(codes)), jnp.arange(steps))
        return codes, terms


ADAM = optax.scale_by_adam()


def rotation(vector: jax.Array) -> jax.Array:
    """The matrix (3,3) of a rotation vector (3,), with derivatives at 0."""
    return jaxlie.SO3.exp(jnp.asarray(vector)).as_matrix()


def schedule(step: jax.Array) -> dict[str, jax.Array]:
    """Learning rate, weights and distance limit at a step of 1000."""
    made = {}
    for name, value in START.items():
        for first, factor in FALLS[name]:
            value = value * jnp.where(step >= first, factor, 1.0)
        made[name] = value
    return made
