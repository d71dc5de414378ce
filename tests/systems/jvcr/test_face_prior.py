"""The learned linear face prior, and the coordinate loss."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from configs.jvcr import get_config
from jaxface.errors import UserError
from jaxface.systems import jvcr
from jaxface.systems.jvcr import face_prior, losses


def _rotated_face(yaw: float) -> jax.Array:
    face = jnp.asarray(face_prior.mean_face()) - 0.5
    return 1.1 * face @ jaxlie.SO3.exp(jnp.array([0.1, yaw, 0.0])).as_matrix().T + jnp.array([0.52, 0.47, 0.5])


def _correct(points: jax.Array) -> jax.Array:
    module = face_prior.FacePrior(points.shape[1])
    prior_mean = jnp.zeros((len(points), face_prior.UNKNOWNS))
    return module.apply(module.init(jax.random.key(0), points, prior_mean), points, prior_mean)


def test_a_rotated_face_is_kept():
    faces = jnp.stack([_rotated_face(0.0), _rotated_face(0.6)])
    # Not exactly: before training the prior on the pose is still narrow.
    np.testing.assert_allclose(_correct(faces), faces, atol=0.015)


def test_outliers_and_flat_depths_are_corrected():
    face = _rotated_face(0.4)
    with_outlier = face.at[30].add(jnp.array([0.1, 0.0, 0.0]))
    corrected = _correct(with_outlier[None])[0]
    assert jnp.abs(corrected[30] - face[30]).max() < 0.05
    flat = face.at[:, 2].set(face[:, 2].mean())
    corrected = _correct(flat[None])[0]
    assert jnp.corrcoef(corrected[:, 2], face[:, 2])[0, 1] > 0.9


def test_gradients_are_finite_where_all_points_coincide():
    gradient = jax.grad(lambda points: _correct(points).sum())(jnp.full((1, 68, 3), 0.5))
    assert np.isfinite(gradient).all()


def test_coordinate_loss_ignores_invalid_points():
    target, valid = jnp.zeros((1, 2, 3)), jnp.array([[True, False]])
    points = jnp.array([[[0.3, 0.4, 0.0], [9.0, 9.0, 9.0]]])
    assert losses.coordinate_loss(points, target, valid, "plain") == pytest.approx(0.5, abs=1e-3)
    assert losses.coordinate_loss(points, target, valid) == pytest.approx(0.25 / 3)
    config = get_config("smoke")
    config.loss.distance = "far"
    with pytest.raises(UserError, match="config.loss.distance: 'far' cannot be used"):
        jvcr.build(config)
