"""Camera frames and projection, finite also behind the camera."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import camera


def test_identity_rotation_faces_the_camera():
    left_ear, crown, nose = camera.to_camera(100 * jnp.eye(3), jnp.eye(3), jnp.array([0.0, 0, 600]))
    np.testing.assert_allclose(left_ear, [100, 0, 600])
    np.testing.assert_allclose(crown, [0, -100, 600])
    np.testing.assert_allclose(nose, [0, 0, 500])
    pixels = camera.project(jnp.stack([left_ear, crown]), 1200.0, jnp.array([63.5, 63.5]))
    np.testing.assert_allclose(pixels, [[263.5, 63.5], [63.5, -136.5]], rtol=1e-6)


def test_points_behind_the_camera_stay_finite():
    points = jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, -5.0], [0.0, 0.0, 0.0]])
    jacobian = jax.jacobian(camera.project)(points, 1000.0, jnp.zeros(2))
    assert jnp.isfinite(camera.project(points, 1000.0, jnp.zeros(2))).all() and jnp.isfinite(jacobian).all()
