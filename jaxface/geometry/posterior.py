"""The most probable unknowns of a model that is seen with noise, given what was believed of them before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def most_probable(
    model: Callable[[jax.Array], jax.Array],
    guess: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    precision: jax.Array,
    steps: int,
) -> jax.Array:
    """The unknowns x (n,) that make |weight * (model(x) - target)|² + |precision * (x - guess)|² small.

    `steps` of Gauss-Newton from guess (n,); target has the shape of model(x), weight one that broadcasts to it, and
    precision (n,) is positive, so that there always is an answer. Differentiable in all arrays.
    """
    found = guess
    for _ in range(steps):
        jacobian = (jax.jacfwd(model)(found) * weight[..., None]).reshape(-1, guess.size)
        residual = ((model(found) - target) * weight).ravel()
        slope = jacobian.T @ residual + precision**2 * (found - guess)
        curvature = jacobian.T @ jacobian + jnp.diag(precision**2)
        found -= _solved(curvature, slope)
    return found


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
