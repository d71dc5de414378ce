"""MAP estimate of shape and pose of a linear model from noisy observations and a Gaussian prior (Gauss-Newton)."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

# (pose (P,), point (N,)) -> observed point (D,).
Projection = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Observation:
    """Noisy observation of K points and a Gaussian prior on the unknowns: M mode weights and P pose parameters.

    Attributes:
        prior_mean: (M+P,).
        prior_precision: (M+P,) inverse standard deviations, > 0.
        target: (K,D) observed points.
        whitening: (K,D,D) matrices that give the noise of `target` unit covariance.
    """

    prior_mean: jax.Array
    prior_precision: jax.Array
    target: jax.Array
    whitening: jax.Array


def map_shape_and_pose(
    project: Projection, mean: jax.Array, modes: jax.Array, observation: Observation, steps: int
) -> tuple[jax.Array, jax.Array]:
    """MAP estimate of M mode weights and P pose parameters.

    Minimises |whitening · (project(x) - target)|² + |prior_precision * (x - prior_mean)|² over x (M+P,), where
    `project` is applied to every point of mean + weights · modes. Differentiable in all arrays.

    Args:
        project: observes one point under a pose.
        mean: (K,N) mean shape.
        modes: (M,K,N).
        observation: observed points and prior.
        steps: Gauss-Newton steps, starting at the prior mean.

    Returns:
        (x (M+P,), projected points (K,D) at x).
    """
    estimate = observation.prior_mean
    for _ in range(steps):
        estimate -= solve(*normal_equations(project, mean, modes, observation, estimate))
    return estimate, _project_all(project, mean, modes, estimate)


def _project_all(project: Projection, mean: jax.Array, modes: jax.Array, unknowns: jax.Array) -> jax.Array:
    """Projected points (K,D) of `unknowns` (M+P,)."""
    return jax.vmap(project, (None, 0))(*_pose_and_shape(mean, modes, unknowns))


def _pose_and_shape(mean: jax.Array, modes: jax.Array, unknowns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(pose (P,), shape (K,N))."""
    return unknowns[len(modes) :], mean + jnp.tensordot(unknowns[: len(modes)], modes, 1)


def normal_equations(
    project: Projection, mean: jax.Array, modes: jax.Array, observation: Observation, unknowns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gauss-Newton normal equations at `unknowns` (M+P,).

    Returns:
        (positive definite matrix (M+P,M+P), gradient (M+P,)).
    """
    jacobians = jax.vmap(jax.jacfwd(project, (0, 1)), (None, 0))
    pose_jacobian, point_jacobian = jacobians(*_pose_and_shape(mean, modes, unknowns))
    weight_jacobian = jnp.einsum("kdn,mkn->kdm", point_jacobian, modes)
    jacobian = observation.whitening @ jnp.concatenate([weight_jacobian, pose_jacobian], -1)
    jacobian = jacobian.reshape(-1, len(unknowns))
    error = _project_all(project, mean, modes, unknowns) - observation.target
    residual = jnp.einsum("kde,ke->kd", observation.whitening, error).ravel()
    gradient = jacobian.T @ residual + observation.prior_precision**2 * (unknowns - observation.prior_mean)
    return jacobian.T @ jacobian + jnp.diag(observation.prior_precision**2), gradient


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves a positive definite system: matrix (n,n), right-hand side (n,), solution (n,)."""

    def eliminate(matvec: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
        del matvec

        def step(i: jax.Array, rows: jax.Array) -> jax.Array:
            row = rows[i] / rows[i, i]
            return (rows - rows[:, i, None] * row).at[i].set(row)

        # Gauss-Jordan elimination instead of LAPACK, whose calls on CPUs may wait for threads that collectives of
        # other devices hold.
        return lax.fori_loop(0, right.size, step, jnp.concatenate([matrix, right[:, None]], 1))[:, -1]

    return lax.custom_linear_solve(lambda x: matrix @ x, right, eliminate, symmetric=True)
