"""MAP estimate against the closed form of a linear model, and on a nonlinear one."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxface.geometry.map_estimate import Observation, map_shape_and_pose


def test_a_linear_model_has_a_closed_form():
    random = np.random.default_rng(0)
    mean, modes = random.normal(size=(5, 2)), random.normal(size=(3, 5, 2))
    target, guess = random.normal(size=(5, 2)), random.normal(size=5)
    whitening, precision = random.normal(size=(5, 2, 2)), random.uniform(0.5, 2, 5)
    matrix = np.concatenate([modes.reshape(3, 10).T, np.tile(np.eye(2), (5, 1))], 1)
    weighed = scipy.linalg.block_diag(*(whitening.swapaxes(1, 2) @ whitening)) @ matrix
    slope = weighed.T @ (target - mean).ravel() + precision**2 * guess
    wanted = np.linalg.solve(weighed.T @ matrix + np.diag(precision**2), slope)
    observation = Observation(*map(jnp.float32, (guess, precision, target, whitening)))
    mean, modes = jnp.float32(mean), jnp.float32(modes)
    found, seen = map_shape_and_pose(lambda pose, point: point + pose, mean, modes, observation, steps=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.ravel(), mean.ravel() + matrix @ wanted, rtol=1e-4, atol=1e-5)


def test_rotation_and_mode_are_recovered_with_the_right_gradient():
    random = np.random.default_rng(1)
    mean, modes = jnp.float32(random.normal(size=(9, 2))), jnp.float32(random.normal(size=(1, 9, 2)))

    def turned(angle: jax.Array, point: jax.Array) -> jax.Array:
        (cos,), (sin,) = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]])

    def found(target: jax.Array) -> jax.Array:
        observation = Observation(jnp.zeros(2), jnp.full(2, 1e-3), target, jnp.tile(jnp.eye(2), (9, 1, 1)))
        return map_shape_and_pose(turned, mean, modes, observation, steps=6)[0]

    target = jax.vmap(turned, (None, 0))(jnp.array([0.7]), mean + 0.3 * modes[0])
    np.testing.assert_allclose(found(target), [0.3, 0.7], atol=1e-4)
    step = 1e-2 * jnp.float32(random.normal(size=target.shape))
    for unknown in range(2):
        slope = jax.grad(lambda target, unknown=unknown: found(target)[unknown])(target)
        wanted = (found(target + step) - found(target - step))[unknown] / 2
        np.testing.assert_allclose((slope * step).sum(), wanted, rtol=2e-2)
