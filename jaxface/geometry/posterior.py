"""The most probable shape and pose of a linear model that is seen with noise, given what was believed before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def shape_and_pose(
    place: Callable[[jax.Array, jax.Array], jax.Array],
    mean: jax.Array,
    modes: jax.Array,
    guess: jax.Array,
    target: jax.Array,
    whitening: jax.Array,
    precision: jax.Array,
    steps: int,
) -> tuple[jax.Array, jax.Array]:
    """The unknowns x (M+P,), weights of modes and a pose, that make |whitening · (seen(x) - target)|² + |precision * (x
    - guess)|² small, by `steps` of Gauss-Newton from `guess` (M+P,); and seen(x).

    `seen` is `place` of every point of mean (K,N) + weights · modes (M,K,N): place takes the pose (P,) and a point (N,)
    and gives where it is seen (D,). target (K,D); whitening (K,D,D) undoes its noise; precision (M+P,) is positive, so
    that there always is an answer. Differentiable in all arrays.
    """
    slopes = jax.vmap(jax.jacfwd(place, (0, 1)), (None, 0))

    def posed(unknowns: jax.Array) -> tuple[jax.Array, jax.Array]:
        return unknowns[len(modes) :], mean + jnp.tensordot(unknowns[: len(modes)], modes, 1)

    def seen(unknowns: jax.Array) -> jax.Array:
        return jax.vmap(place, (None, 0))(*posed(unknowns))

    found = guess
    for _ in range(steps):
        by_pose, by_point = slopes(*posed(found))
        by_weights = jnp.einsum("kdn,mkn->kdm", by_point, modes)
        jacobian = (whitening @ jnp.concatenate([by_weights, by_pose], -1)).reshape(-1, len(guess))
        residual = jnp.einsum("kde,ke->kd", whitening, seen(found) - target).ravel()
        slope = jacobian.T @ residual + precision**2 * (found - guess)
        found -= _solved(jacobian.T @ jacobian + jnp.diag(precision**2), slope)
    return found, seen(found)


def _solved(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """The solution (n,) of a positive definite matrix (n,n) and a right side (n,)."""

    def eliminate(matvec: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
        del matvec

        def step(i: jax.Array, rows: jax.Array) -> jax.Array:
            row = rows[i] / rows[i, i]
            return (rows - rows[:, i, None] * row).at[i].set(row)

        # Gauss and Jordan instead of LAPACK: on CPUs its calls wait for threads that other devices' sums may hold.
        return lax.fori_loop(0, right.size, step, jnp.concatenate([matrix, right[:, None]], 1))[:, -1]

    return lax.custom_linear_solve(lambda x: matrix @ x, right, eliminate, symmetric=True)
