"""The learned face that is fitted to points read one by one."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from configs.jvcr import get_config
from jaxface.errors import UserError
from jaxface.systems import jvcr
from jaxface.systems.jvcr import face_prior, losses


def _turned(yaw: float) -> jax.Array:
    face = jnp.asarray(face_prior.mean_face()) - 0.5
    return 1.1 * face @ jaxlie.SO3.exp(jnp.array([0.1, yaw, 0.0])).as_matrix().T + jnp.array([0.52, 0.47, 0.5])


def _corrected(read: jax.Array) -> jax.Array:
    module = face_prior.FacePrior(read.shape[1])
    guess = jnp.zeros((len(read), face_prior.UNKNOWNS))
    return module.apply(module.init(jax.random.key(0), read, guess), read, guess)


def test_a_turned_face_is_recognised_and_stays():
    faces = jnp.stack([_turned(0.0), _turned(0.6)])
    # The prior of a fresh face still holds against turning.
    np.testing.assert_allclose(_corrected(faces), faces, atol=0.015)


def test_a_point_that_is_off_is_brought_back_and_flat_depths_are_lifted():
    face = _turned(0.4)
    off = face.at[30].add(jnp.array([0.1, 0.0, 0.0]))
    found = _corrected(off[None])[0]
    assert jnp.abs(found[30] - face[30]).max() < 0.05
    flat = face.at[:, 2].set(face[:, 2].mean())
    lifted = _corrected(flat[None])[0]
    assert jnp.corrcoef(lifted[:, 2], face[:, 2])[0, 1] > 0.9


def test_gradients_are_finite_where_all_points_fall_together():
    gradient = jax.grad(lambda read: _corrected(read).sum())(jnp.full((1, 68, 3), 0.5))
    assert np.isfinite(gradient).all()


def test_plain_distances_weigh_known_points_alike():
    target, known = jnp.zeros((1, 2, 3)), jnp.array([[True, False]])
    points = jnp.array([[[0.3, 0.4, 0.0], [9.0, 9.0, 9.0]]])
    assert losses.coordinate_loss(points, target, known, "plain") == pytest.approx(0.5, abs=1e-3)
    assert losses.coordinate_loss(points, target, known) == pytest.approx(0.25 / 3)
    config = get_config("smoke")
    config.loss.distance = "far"
    with pytest.raises(UserError, match="config.loss.distance is 'far'"):
        jvcr.build(config)
