"""Template points of an unknown layout are found with a network that projects the template exactly."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_98
from jaxface.systems.continuous import layout_search

N = 24


class Projection:
    """Orthographic views: the features of an image are its camera (2,3), which the image holds in its first pixels."""

    def apply(self, variables, *arrays, method):
        if method == "encode":
            return arrays[0][:, :2, 0, :]
        cameras, queries = arrays
        points = jnp.einsum("bij,bnj->bni", cameras, queries)
        return points, jnp.ones(points.shape[:-1])


@pytest.mark.parametrize("flip", [LAYOUT_98.flip, np.zeros(0, int)])
def test_points_are_found_from_24_images(flip):
    rng = np.random.default_rng(0)
    yaw, pitch = rng.uniform(-0.7, 0.7, N), rng.uniform(-0.4, 0.4, N)
    cos, sin = np.cos(yaw), np.sin(yaw)
    right = np.stack([cos, 0 * yaw, sin], -1)
    down = np.stack([sin * np.sin(pitch), -np.cos(pitch), -cos * np.sin(pitch)], -1)
    cameras = np.stack([right, down], 1).astype(np.float32)
    images = np.zeros((N, 4, 4, 3), np.float32)
    images[:, :2, 0] = cameras
    truth = canonical.queries("98")
    points = np.einsum("bij,nj->bni", cameras, truth)
    valid = rng.random((N, 98)) < 0.8
    points[~valid] = np.nan
    # Wrong labels of a single image do not move a point far.
    points[0, 5] += 0.5
    found, error = layout_search.find_points(Projection(), {}, {}, images, points, valid, flip)
    distance = 100 * np.linalg.norm(found - truth, axis=1)
    assert np.median(distance) < 0.5 and distance.max() < 6 and np.median(error) < 0.01
    if len(flip):
        np.testing.assert_allclose(found[flip] * [-1, 1, 1], found, atol=1e-6)


def test_labels_are_asymmetric_only_if_freedom_lowers_the_error_by_more_than_noise():
    symmetric = np.full(10, 0.024)
    assert layout_search.is_symmetric(symmetric, 0.95 * symmetric, 24)
    assert not layout_search.is_symmetric(symmetric, 0.85 * symmetric, 24)
    assert layout_search.is_symmetric(symmetric, 0.85 * symmetric, 8)
    assert not layout_search.is_symmetric(symmetric, 0.93 * symmetric, 96)
