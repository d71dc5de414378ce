"""The most probable unknowns of a model that is seen with noise, given what was believed of them before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


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
        found -= jax.scipy.linalg.solve(curvature, slope, assume_a="pos")
    return found
