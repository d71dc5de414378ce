"""The most probable unknowns, against the closed form of a linear model and in a model that is not."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry.posterior import most_probable


def test_a_linear_model_has_a_closed_form():
    random = np.random.default_rng(0)
    matrix, target, guess = random.normal(size=(7, 4)), random.normal(size=7), random.normal(size=4)
    weight, precision = random.uniform(0.5, 2, 7), random.uniform(0.5, 2, 4)
    curvature = matrix.T @ np.diag(weight**2) @ matrix + np.diag(precision**2)
    wanted = np.linalg.solve(curvature, matrix.T @ (weight**2 * target) + precision**2 * guess)
    arrays = (jnp.float32(array) for array in (guess, target, weight, precision))
    found = most_probable(lambda x: jnp.float32(matrix) @ x, *arrays, steps=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_turn_is_found_and_its_gradient_is_right():
    points = jnp.float32(np.random.default_rng(1).normal(size=(9, 2)))

    def turned(angle: jax.Array) -> jax.Array:
        (cos,), (sin,) = jnp.cos(angle), jnp.sin(angle)
        return points @ jnp.array([[cos, sin], [-sin, cos]])

    def found(target: jax.Array) -> jax.Array:
        return most_probable(turned, jnp.zeros(1), target, jnp.ones((1, 1)), jnp.full(1, 1e-3), steps=5)[0]

    target = turned(jnp.array([0.7]))
    assert abs(found(target) - 0.7) < 1e-4
    step = 1e-2 * jnp.float32(np.random.default_rng(2).normal(size=target.shape))
    slope = jax.grad(found)(target)
    np.testing.assert_allclose((slope * step).sum(), (found(target + step) - found(target - step)) / 2, rtol=2e-2)
