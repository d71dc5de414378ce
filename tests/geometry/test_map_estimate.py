"""MAP estimate against the closed form of a linear model, and on a nonlinear one."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxface.geometry.map_estimate import Observation, map_shape_and_pose


def test_a_linear_model_has_a_closed_form():
    random = np.random.default_rng(0)
    mean, modes = random.normal(size=(5, 2)), random.normal(size=(3, 5, 2))
    target, prior_mean = random.normal(size=(5, 2)), random.normal(size=5)
    whitening, precision = random.normal(size=(5, 2, 2)), random.uniform(0.5, 2, 5)
    matrix = np.concatenate([modes.reshape(3, 10).T, np.tile(np.eye(2), (5, 1))], 1)
    weighted = scipy.linalg.block_diag(*(whitening.swapaxes(1, 2) @ whitening)) @ matrix
    gradient = weighted.T @ (target - mean).ravel() + precision**2 * prior_mean
    expected = np.linalg.solve(weighted.T @ matrix + np.diag(precision**2), gradient)
    observation = Observation(*map(jnp.float32, (prior_mean, precision, target, whitening)))
    mean, modes = jnp.float32(mean), jnp.float32(modes)
    estimate, projected = map_shape_and_pose(lambda pose, point: point + pose, mean, modes, observation, steps=1)
    np.testing.assert_allclose(estimate, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(projected.ravel(), mean.ravel() + matrix @ expected, rtol=1e-4, atol=1e-5)


def test_rotation_and_mode_are_recovered_with_the_right_gradient():
    random = np.random.default_rng(1)
    mean, modes = jnp.float32(random.normal(size=(9, 2))), jnp.float32(random.normal(size=(1, 9, 2)))

    def rotate(angle: jax.Array, point: jax.Array) -> jax.Array:
        (cos,), (sin,) = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]])

    def estimate(target: jax.Array) -> jax.Array:
        observation = Observation(jnp.zeros(2), jnp.full(2, 1e-3), target, jnp.tile(jnp.eye(2), (9, 1, 1)))
        return map_shape_and_pose(rotate, mean, modes, observation, steps=6)[0]

    target = jax.vmap(rotate, (None, 0))(jnp.array([0.7]), mean + 0.3 * modes[0])
    np.testing.assert_allclose(estimate(target), [0.3, 0.7], atol=1e-4)
    step = 1e-2 * jnp.float32(random.normal(size=target.shape))
    for unknown in range(2):
        gradient = jax.grad(lambda target, unknown=unknown: estimate(target)[unknown])(target)
        expected = (estimate(target + step) - estimate(target - step))[unknown] / 2
        np.testing.assert_allclose((gradient * step).sum(), expected, rtol=2e-2)
