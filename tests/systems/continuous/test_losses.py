"""Losses and metrics of the detector against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from jaxface.systems.continuous import losses, metrics


def test_nll_is_that_of_a_gaussian_without_its_constant():
    rng = np.random.default_rng(0)
    points, target = rng.normal(size=(2, 5, 2))
    sigma = rng.uniform(0.2, 2, 5)
    density = scipy.stats.norm(points, sigma[:, None]).logpdf(target).sum(-1)
    nll = losses.gaussian_nll(jnp.array(points), jnp.array(sigma), jnp.array(target))
    np.testing.assert_allclose(nll, -density - np.log(2 * np.pi), rtol=1e-5)
    check_grads(lambda p, s: losses.gaussian_nll(p, s, target).sum(), (points, sigma), 1, modes="rev", rtol=1e-2)


def test_images_have_equal_weight_whatever_their_number_of_queries():
    values = jnp.array([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0], [100.0, 100.0, 100.0]])
    valid = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
    assert losses.masked_mean(values, valid) == pytest.approx((2 + 5 + 0) / 3)


def test_warm_up_decouples_points_and_sigma():
    points, target = jnp.full((1, 1, 2), 0.3), jnp.zeros((1, 1, 2))
    sigma, valid = jnp.full((1, 1), 0.5), jnp.ones((1, 1), bool)

    def loss(points, sigma, step):
        return losses.detector_loss(points, sigma, target, valid, step, 10)[0]

    points_gradient, sigma_gradient = jax.grad(loss, (0, 1))(points, sigma, 0)
    np.testing.assert_allclose(points_gradient, points / losses.WARMUP_SIGMA**2, rtol=1e-5)
    np.testing.assert_allclose(sigma_gradient, -0.18 / 0.5**3 + 2 / 0.5, rtol=1e-5)
    points_gradient, _ = jax.grad(loss, (0, 1))(points, sigma, 10)
    np.testing.assert_allclose(points_gradient, points / 0.25, rtol=1e-5)


def test_errors_are_shares_of_the_eye_distance_by_yaw():
    batch = {
        "landmarks": jnp.zeros((2, 68, 2)),
        "visible": jnp.arange(68)[None] < jnp.array([[34], [0]]),
        "eye_distance": jnp.array([0.5, 1.0]),
        "yaw_rad": jnp.deg2rad(jnp.array([-10.0, 45.0])),
    }
    points = jnp.zeros((2, 68, 2)).at[0, :34, 0].set(0.1).at[1, :, 1].set(0.02)
    arrays = metrics.landmark_errors(points, batch)
    np.testing.assert_allclose(arrays["nme"], [0.1, 0.02], rtol=1e-5)
    np.testing.assert_allclose(arrays["nme_visible"], [0.2, 0.0], rtol=1e-5)
    summary = metrics.summarise({name: np.asarray(array) for name, array in arrays.items()})
    assert summary["nme"] == pytest.approx(6.0) and summary["nme_yaw_30_60"] == pytest.approx(2.0)
    assert summary["auc"] == pytest.approx(40.0, abs=1e-3) and "nme_yaw_60_90" not in summary
