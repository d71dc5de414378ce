"""Landmark metrics against values computed by hand, for numpy and JAX alike."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxface import landmark_metrics
from jaxface.layouts import LAYOUT_68

RANDOM = np.random.default_rng(3)
TRUTH = RANDOM.normal(size=(2, 68, 2))


@pytest.mark.parametrize("xp", [np, jnp])
def test_nme_of_a_common_shift(xp):
    truth = xp.asarray(TRUTH)
    points = truth + xp.asarray([0.03, 0.04])
    norm = landmark_metrics.interocular_distance(truth, LAYOUT_68.eye_corners)
    np.testing.assert_allclose(norm, np.linalg.norm(TRUTH[:, 36] - TRUTH[:, 45], axis=-1), rtol=1e-5)
    np.testing.assert_allclose(landmark_metrics.nme(points, truth, norm), 0.05 / norm, rtol=1e-5)


def test_invalid_landmarks_do_not_count():
    points, valid = TRUTH + [0, 0.1], np.ones((2, 68), bool)
    points[:, 7], valid[:, 7] = 1e6, False
    np.testing.assert_allclose(landmark_metrics.mean_distance(points, TRUTH, valid), 0.1)
    extent = landmark_metrics.landmark_extent(points, valid)
    expected = [np.ptp(np.delete(points, 7, axis=1)[..., axis], axis=1) for axis in range(2)]
    np.testing.assert_allclose(extent, np.stack(expected, -1))
    np.testing.assert_allclose(landmark_metrics.mean_distance(points, TRUTH, np.zeros_like(valid)), 0)


def test_norms():
    pupils = [TRUTH[:, 36:42].mean(1), TRUTH[:, 42:48].mean(1)]
    expected = np.linalg.norm(pupils[0] - pupils[1], axis=-1)
    np.testing.assert_allclose(landmark_metrics.interpupil_distance(TRUTH, LAYOUT_68), expected)
    assert landmark_metrics.box_size(np.array([4.0, 9.0])) == 6
    points_mm = np.zeros((68, 3)) + [0, 0, 500]
    points_mm[36], points_mm[45] = [0, 0, 455], [0, 0, 545]  # profile view: the corners coincide in the image
    assert landmark_metrics.projected_interocular_px(points_mm, 1000, (36, 45)) == pytest.approx(180)


def test_failure_rate_auc_and_ced():
    errors = np.array([0.02, 0.05, 0.10, 0.30])
    assert landmark_metrics.failure_rate(errors) == 0.25
    np.testing.assert_array_equal(landmark_metrics.ced(errors, np.array([0.0, 0.05, 0.2])), [0, 0.5, 0.75])
    assert landmark_metrics.auc(errors) == pytest.approx((0.8 + 0.5 + 0 + 0) / 4)
    thresholds = np.linspace(0, 0.1, 100_001)
    area = np.trapezoid(landmark_metrics.ced(errors, thresholds), thresholds) / 0.1
    assert landmark_metrics.auc(errors) == pytest.approx(area, abs=1e-4)


def test_means_by_yaw_leave_out_empty_bins():
    means = landmark_metrics.means_by_yaw("nme", np.array([1.0, 3.0, 5.0]), np.array([-10.0, 29.9, -60.0]))
    assert means == {"nme_yaw_0_30": 2.0, "nme_yaw_60_90": 5.0}


def test_marked_landmarks():
    truth, points = jnp.array([[[1.0, 2.0], [-3.0, 0.0]]]), jnp.array([[[5.2, 6.0], [9.0, 0.0]]])
    image = landmark_metrics.mark_landmarks(jnp.zeros((1, 8, 8, 3)), truth, points)
    marked = np.argwhere(np.asarray(image[0]).any(-1))
    np.testing.assert_array_equal(marked, [[2, 1], [6, 5]])
    np.testing.assert_allclose(image[0, 6, 5], landmark_metrics.PREDICTION_RGB)
