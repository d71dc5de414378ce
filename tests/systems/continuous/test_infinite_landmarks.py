"""The parts of Infinite 3D Landmarks: canonical 3D points with a camera, and the spatial-transformer normaliser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continuous import get_config
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.systems.continuous import canonical_points, model, spatial_transformer


def test_the_normaliser_starts_with_the_identity_and_brings_points_back():
    image = jax.random.uniform(jax.random.key(0), (2, 24, 24, 3))
    np.testing.assert_allclose(spatial_transformer.normalise(image, jnp.zeros((2, 4))), image, atol=1e-5)
    transform = jnp.array([[0.2, -0.1, np.log(0.5), 0.0], [0.0, 0.0, 0.0, np.pi / 2]])
    points = jnp.array([[[1.0, 1.0], [0.0, 0.0]], [[0.5, 0.25], [0.0, 0.0]]])
    np.testing.assert_allclose(
        spatial_transformer.to_crop(transform, points),
        [[[0.7, 0.4], [0.2, -0.1]], [[-0.25, 0.5], [0.0, 0.0]]],
        atol=1e-6,
    )
    # A ramp in x, normalised: its values are the x of the samples.
    ramp = jnp.broadcast_to((2 * jnp.arange(24.0) + 1)[None, None, :, None] / 24 - 1, (1, 24, 24, 1))
    found = spatial_transformer.normalise(ramp, transform[:1])[0, :, :, 0]
    np.testing.assert_allclose(found[:, 4:20], jnp.broadcast_to(0.2 + 0.5 * ramp[0, :, 4:20, 0], (24, 16)), atol=1e-5)


def test_the_camera_starts_in_front_of_the_head():
    camera, _ = canonical_points.CameraHead().init_with_output(jax.random.key(0), jnp.zeros((1, 8)))
    np.testing.assert_allclose(camera.rotation[0], np.diag([1.0, -1.0, -1.0]), atol=1e-6)
    points = camera.project(jnp.asarray(canonical.queries("68"))[None])[0]
    assert np.abs(points).max() < 1 and points[45, 0] > 0 > points[36, 0] and points[8, 1] > points[27, 1]


def test_the_switches_of_infinite_3d_landmarks_train_and_answer():
    settings = get_config("smoke").model
    settings.update(image_size=32, pool="mean", predictor="mlp", feature_width=16, dims=(8, 8, 16, 16))
    settings.update(normaliser=True, output="canonical")
    net = model.model_from_config(settings)
    shapes, _ = jax.eval_shape(functools.partial(model.init, net, 32), jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)
    assert {"normaliser", "camera"} <= set(params)
    image, queries = jnp.full((1, 32, 32, 3), 0.5), jnp.asarray(canonical.queries("29"))[None]
    found = model.raw(net, params, {}, {"image": image, "queries": queries})
    assert found["canonical"].shape == (1, 29, 3) and found["rotation"].shape == (1, 3, 3)

    def loss(params):
        points, sigma = net.apply({"params": params}, image, queries)
        return (points**2).mean() + sigma.mean()

    gradient = jax.jit(jax.grad(loss))(params)
    assert np.abs(gradient["normaliser"]["last"]["kernel"]).max() > 0
    assert np.abs(gradient["camera"]["last"]["kernel"]).max() > 0
    settings.update(pool="map", predictor="soft_argmax")
    with pytest.raises(UserError, match="reads positions in the image"):
        model.model_from_config(settings)
