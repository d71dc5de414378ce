"""The most probable shape and pose of a linear model that is seen with noise, given what was believed before."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

Place = Callable[[jax.Array, jax.Array], jax.Array]


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
    place: Place, mean: jax.Array, modes: jax.Array, observation: Observation, steps: int
) -> tuple[jax.Array, jax.Array]:
    """The unknowns x (M+P,), weights of modes and a pose, that make |whitening · (seen(x) - target)|² + |precision * (x
    - guess)|² small, by `steps` of Gauss-Newton from the guess; and seen(x).

    `seen` is `place` of every point of mean (K,N) + weights · modes (M,K,N): place takes the pose (P,) and a point (N,)
    and gives where it is seen (D,). Differentiable in all arrays.
    """
    found = observation.prior_mean
    for _ in range(steps):
        found -= solved(*normal_equations(place, mean, modes, observation, found))
    return found, _seen(place, mean, modes, found)


def _seen(place: Place, mean: jax.Array, modes: jax.Array, unknowns: jax.Array) -> jax.Array:
    """Where `unknowns` (M+P,) have the points: (K,D)."""
    return jax.vmap(place, (None, 0))(*_posed(mean, modes, unknowns))


def _posed(mean: jax.Array, modes: jax.Array, unknowns: jax.Array) -> tuple[jax.Array, jax.Array]:
    return unknowns[len(modes) :], mean + jnp.tensordot(unknowns[: len(modes)], modes, 1)


def normal_equations(
    place: Place, mean: jax.Array, modes: jax.Array, observation: Observation, unknowns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gauss-Newton's matrix (M+P,M+P), positive definite, and slope (M+P,) at `unknowns`."""
    slopes = jax.vmap(jax.jacfwd(place, (0, 1)), (None, 0))
    by_pose, by_point = slopes(*_posed(mean, modes, unknowns))
    by_weights = jnp.einsum("kdn,mkn->kdm", by_point, modes)
    jacobian = (observation.whitening @ jnp.concatenate([by_weights, by_pose], -1)).reshape(-1, len(unknowns))
    off = _seen(place, mean, modes, unknowns) - observation.target
    residual = jnp.einsum("kde,ke->kd", observation.whitening, off).ravel()
    slope = jacobian.T @ residual + observation.prior_precision**2 * (unknowns - observation.prior_mean)
    return jacobian.T @ jacobian + jnp.diag(observation.prior_precision**2), slope


def solved(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """The solution (n,) of a positive definite matrix (n,n) and a right side (n,)."""

    def eliminate(matvec: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
        del matvec

        def step(i: jax.Array, rows: jax.Array) -> jax.Array:
            row = rows[i] / rows[i, i]
            return (rows - rows[:, i, None] * row).at[i].set(row)

        # Gauss and Jordan instead of LAPACK: on CPUs its calls wait for threads that other devices' sums may hold.
        return lax.fori_loop(0, right.size, step, jnp.concatenate([matrix, right[:, None]], 1))[:, -1]

    return lax.custom_linear_solve(lambda x: matrix @ x, right, eliminate, symmetric=True)
