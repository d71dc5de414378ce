"""Model inversion: latent codes of a person from point clouds of their head in several expressions.

NPHM §4.2; official file scripts/fitting/fitting_pointclouds.py. A person has K scans, one identity code, and one
expression code per scan. Unlike the official code it also refines a rigid pose per scan. People are batched with
`vmap`.
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
from jaxface.systems.nphm.networks.npm import IdentityModel

# Schedules of 1000 steps: start values, and (first step, factor) of each decay; factors are cumulative. `max_distance`
# truncates the surface loss to points within that distance of the surface, in model units.
INITIAL = {"lr": 0.01, "symmetry": 5.0, "global": 0.25, "local": 0.05, "expression": 0.01, "max_distance": 0.1}
OFFICIAL_DECAYS = {
    "lr": ((200, 1 / 2), (400, 1 / 2), (600, 1 / 2), (800, 1 / 2)),
    "symmetry": ((200, 1 / 10), (500, 1 / 9999)),
    "global": ((200, 1 / 3), (600, 1 / 10)),
    "local": ((500, 1 / 3), (600, 1 / 10)),
    "expression": ((600, 1 / 10),),
    "max_distance": ((251, 0.05 / 0.1), (501, 0.0075 / 0.05)),
}
# The official schedule truncates to 1.9 mm at step 501, when the priors have only begun to relax: 10 to 20 % of the
# points of unseen heads are then farther away, and most of them never take part again. Here the loss is truncated when
# the codes have nearly converged.
LATE_TRUNCATION_DECAYS = OFFICIAL_DECAYS | {"max_distance": ((251, 0.05 / 0.1), (800, 0.0075 / 0.05))}
DECAYS = {"official": OFFICIAL_DECAYS, "late_truncation": LATE_TRUNCATION_DECAYS}
SCHEDULED_STEPS = 1000
# The step at which a warm start enters the schedule. From here on `max_distance` is 12.5 mm, more than a face moves
# between two frames of a sequence.
WARM_START_STEP = 251
SURFACE_WEIGHT = 2.0
# Weight of the squared local codes of `Fitter.unobserved_members`, in addition to that of all local codes.
UNOBSERVED_WEIGHT = 10.0
# Learning rate of poses relative to codes: the fit starts from nearly correct poses.
RELATIVE_POSE_LR = 0.1

ADAM = optax.scale_by_adam()


class FitVariables(NamedTuple):
    """Optimised variables of one person (with a leading axis where people are batched).

    Attributes:
        identity: identity code (C,).
        expressions: expression codes (K,E).
        poses: (K,6), rotation vector (radians) and translation (model units) that refine the pose of each scan; None
            keeps the poses, as the official code does.
    """

    identity: jax.Array
    expressions: jax.Array
    poses: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Fitter:
    """The networks to invert.

    Attributes:
        identity: the identity model.
        deformation: the deformation network; None treats every scan as a head in canonical space.
        unobserved_members: ensemble members with a stronger prior, because scans hardly cover their region (in the
            official code two at the neck, and the background).
        method: solver of the backward deformation, see `backward.warp`.
        prior_scale: factor of the priors on the identity code, which the schedule states for the official models.
        schedule: that of `fit`, a key of DECAYS.
    """

    identity: IdentityModel
    deformation: Deformation | None
    unobserved_members: tuple[int, ...] = ()
    method: str = "broyden"
    prior_scale: float = 1.0
    schedule: str = "official"

    def initial_variables(self, scans: int, poses: bool = False) -> FitVariables:
        """All-zero codes for a number of scans; with `poses`, the poses are identities that are optimised too."""
        width = self.deformation.code_dim if self.deformation else 0
        zero_poses = jnp.zeros((scans, 6)) if poses else None
        return FitVariables(jnp.zeros(self.identity.code_dim), jnp.zeros((scans, width)), zero_poses)

    def canonical(
        self, params: Tree, variables: FitVariables, scan_index: jax.Array, points: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Backward deformation of observed points to canonical space.

        Args:
            params: {"identity", "expression"}, parameters of the networks.
            variables: current estimates.
            scan_index: (S,), which of the person's K scans each set of points belongs to.
            points: observed points (S,P,3).

        Returns:
            (canonical points (S,P,3), converged (S,P) bool).
        """
        if variables.poses is not None:
            poses = variables.poses[scan_index]
            rotations = jax.vmap(rotation)(poses[:, :3])
            rotated = jnp.einsum("kij,knj->kni", rotations, points, precision="highest")
            points = rotated + poses[:, None, 3:]
        if self.deformation is None:
            return points, jnp.ones(points.shape[:2], bool)
        identity = variables.identity[None]
        anchors = self.identity.anchors(params["identity"], identity)
        condition = self.deformation.condition(params["expression"], identity, anchors)

        def warp_scan(expression: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
            return backward.warp(self._deform, (params["expression"], condition, expression[None]), points, self.method)

        return jax.vmap(warp_scan)(variables.expressions[scan_index], points)

    def _deform(self, arguments: tuple, points: jax.Array) -> jax.Array:
        params, condition, expression = arguments
        return self.deformation.offsets(params, condition, expression, points[None])[0]

    def loss(
        self,
        params: Tree,
        variables: FitVariables,
        scan_index: jax.Array,
        points: jax.Array,
        valid: jax.Array,
        weights: dict,
    ) -> tuple[jax.Array, dict]:
        """Truncated surface loss and priors on the codes.

        Args:
            params, variables, scan_index, points: as for `canonical`.
            valid: (S,P) bool, points that take part.
            weights: as from `schedule`.

        Returns:
            (loss, {"surface": mean |sdf| of the inliers, "inliers": their share}). Inliers are valid, converged and
            within weights["max_distance"] of the surface.
        """
        canonical, converged = self.canonical(params, variables, scan_index, points)
        sdf = self.identity.sdf(params["identity"], variables.identity[None], canonical.reshape(1, -1, 3))[0]
        distance = jnp.abs(sdf)
        inlier = (converged & valid).ravel() & (distance < weights["max_distance"])
        surface = jnp.where(inlier, distance, 0.0).sum() / jnp.maximum(inlier.sum(), 1)
        total = SURFACE_WEIGHT * surface + self._prior(variables, scan_index, weights)
        return total, {"surface": surface, "inliers": inlier.mean()}

    def _prior(self, variables: FitVariables, scan_index: jax.Array, weights: dict) -> jax.Array:
        """Gaussian priors on the codes, and the symmetry regulariser."""
        model, identity = self.identity, variables.identity[None]
        expression = weights["expression"] * (variables.expressions[scan_index] ** 2).sum(-1).mean()
        if not model.anchor_count:
            return expression + self.prior_scale * weights["global"] * (identity**2).sum()
        local = model.local_codes(identity)
        total = weights["global"] * (identity[:, : model.global_dim] ** 2).sum()
        total += weights["local"] * (local**2).sum() + weights["symmetry"] * losses.symmetry(model, identity)
        total += UNOBSERVED_WEIGHT * (local[:, np.array(self.unobserved_members, int)] ** 2).sum()
        return expression + self.prior_scale * total

    def step(
        self, params: Tree, state: tuple, scan_index: jax.Array, points: jax.Array, valid: jax.Array, weights: dict
    ) -> tuple[tuple, dict]:
        """One Adam update of `state` = (variables, Adam's moments); arguments and terms as for `loss`."""
        variables, moments = state
        gradients, terms = jax.grad(self.loss, 1, has_aux=True)(params, variables, scan_index, points, valid, weights)
        directions, moments = ADAM.update(gradients, moments)
        rates = FitVariables(1.0, 1.0, None if variables.poses is None else RELATIVE_POSE_LR)
        update = lambda value, direction, rate: value - weights["lr"] * rate * direction  # noqa: E731
        return (jax.tree.map(update, variables, directions, rates), moments), terms

    def fit(
        self,
        params: Tree,
        points: jax.Array,
        counts: jax.Array,
        key: jax.Array,
        steps: int,
        points_per_scan: int,
        start: FitVariables | None = None,
    ) -> tuple[FitVariables, dict]:
        """Fits one person; poses are refined too.

        Args:
            params: {"identity", "expression"}, parameters of the networks.
            points: scans (K,P,3) in the model's frame, padded to P points.
            counts: (K,), number of real points at the start of each scan.
            key: random key.
            steps: number of steps; the schedule is stretched to them.
            points_per_scan: points sampled with replacement from every scan in each step.
            start: warm start: expressions and poses begin here at WARM_START_STEP of the schedule, and the identity is
                kept. None: everything begins at 0.

        Returns:
            (variables, terms of `loss` per step).
        """
        scans = len(points)
        scan_index, valid = jnp.arange(scans), jnp.ones((scans, points_per_scan), bool)
        first = 0 if start is None else WARM_START_STEP

        def body(state: tuple, number: jax.Array) -> tuple[tuple, dict]:
            uniform = jax.random.uniform(jax.random.fold_in(key, number), (scans, points_per_scan))
            index = jnp.minimum((uniform * counts[:, None]).astype(jnp.int32), counts[:, None] - 1)
            batch = jnp.take_along_axis(points, index[..., None], 1)
            weights = schedule(first + number * (SCHEDULED_STEPS - first) / steps, self.schedule)
            (variables, moments), terms = self.step(params, state, scan_index, batch, valid, weights)
            if start is not None:
                variables = variables._replace(identity=start.identity)
            return (variables, moments), terms

        variables = self.initial_variables(scans, poses=True) if start is None else start
        (variables, _), terms = lax.scan(body, (variables, ADAM.init(variables)), jnp.arange(steps))
        return variables, terms


def rotation(vector: jax.Array) -> jax.Array:
    """Rotation matrix (3,3) of a rotation vector (3,), differentiable at 0."""
    return jaxlie.SO3.exp(jnp.asarray(vector)).as_matrix()


def schedule(step: jax.Array, name: str = "official") -> dict[str, jax.Array]:
    """Learning rate, weights and `max_distance` at a step of a 1000-step schedule, a key of DECAYS."""
    values = {}
    for term, value in INITIAL.items():
        for first_step, factor in DECAYS[name][term]:
            value = value * jnp.where(step >= first_step, factor, 1.0)
        values[term] = value
    return values
