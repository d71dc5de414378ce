"""The MAP fit of the face to landmarks, its heat-map loss, and the terms of the hybrid loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.errors import UserError
from jaxface.geometry import map_estimate
from jaxface.systems import deep3d
from jaxface.systems.deep3d import face_model, losses, objective
from jaxface.systems.deep3d.networks import confidence_net, map_fit
from jaxface.systems.deep3d.rendering import image_formation

SIZES = image_formation.Sizes(64, 40, 10)


@pytest.fixture(scope="module")
def face():
    return jax.device_put(face_model.load_face_model("makehuman", "", (64, 40, 10), "tf"))


def _coefficients(count: int, yaw_rad: float) -> image_formation.Coefficients:
    vector = np.random.default_rng(0).normal(0, 0.5, (count, SIZES.total)).astype(np.float32)
    parts = image_formation.split(jnp.asarray(vector), SIZES)
    angles = jnp.array([0.1, yaw_rad, -0.05]) * jnp.linspace(0.5, 1, count)[:, None]
    return parts.replace(angles=angles, translation=0.1 * parts.translation)


def _fit(face, points, variance=0.0, prior_mean=None, covariance=None):
    """Estimates (B,110) of the layer at initialisation."""
    layer = map_fit.MAPFitLayer(SIZES)
    prior_mean = jnp.zeros((len(points), 110)) if prior_mean is None else prior_mean
    if covariance is None:
        covariance = jnp.tile(variance * jnp.eye(2), (*points.shape[:2], 1, 1))
    variables = layer.init(jax.random.key(0), prior_mean, points, covariance)
    variables = {**variables, map_fit.COLLECTION: map_fit.points_model(face, 0)}
    return layer.apply(variables, prior_mean, points, covariance)


def test_projecting_landmarks_only_equals_decoding_the_face(face):
    coefficients = _coefficients(3, 0.4)
    expected = image_formation.decode(face, coefficients).landmarks
    np.testing.assert_allclose(image_formation.project_landmarks(face, coefficients), expected, atol=1e-3)


def test_estimate_explains_the_landmarks_of_a_rotated_face(face):
    truth = _coefficients(4, 0.5)
    points = image_formation.project_landmarks(face, truth)
    estimate = _fit(face, points)
    identity, expression, angles, translation = jnp.split(estimate, [64, 104, 107], axis=1)
    fitted = truth.replace(identity=identity, expression=expression, angles=angles, translation=translation)
    unrotated = image_formation.project_landmarks(face, truth.replace(angles=0 * truth.angles))
    projected = image_formation.project_landmarks(face, fitted)
    assert jnp.linalg.norm(unrotated - points, axis=-1).mean() > 5
    assert jnp.linalg.norm(projected - points, axis=-1).mean() < 1.5
    np.testing.assert_allclose(angles[:, 1], truth.angles[:, 1], atol=0.1)


def test_information_is_that_of_the_marginal_posterior_of_the_identity(face):
    truth = _coefficients(2, 0.5)
    points, layer = image_formation.project_landmarks(face, truth), map_fit.MAPFitLayer(SIZES)
    # The landmarks of the second image are less certain.
    covariance = jnp.array([4.0, 100.0])[:, None, None, None] * jnp.eye(2) * jnp.ones((2, 68, 1, 1))
    variables = layer.init(jax.random.key(0), jnp.zeros((2, 110)), points, covariance)
    variables = {**variables, map_fit.COLLECTION: map_fit.points_model(face, 0)}
    sown = layer.apply(variables, jnp.zeros((2, 110)), points, covariance, mutable=["intermediates"])[1]
    (observation,) = sown["intermediates"]["observation"]
    vector = jnp.concatenate([getattr(truth, name).reshape(2, -1) for name in SIZES.groups], -1)
    information = map_fit.identity_information(variables[map_fit.COLLECTION], SIZES, observation, vector)
    unknowns = np.concatenate([getattr(truth, name) for name in map_fit.UNKNOWNS], -1)
    for row in range(2):
        one = jax.tree.map(lambda array, row=row: array[row], observation)
        model = map_fit.project, variables[map_fit.COLLECTION]["mean"], variables[map_fit.COLLECTION]["modes"]
        matrix = np.float64(map_estimate.normal_equations(*model, one, unknowns[row])[0])
        marginal = np.linalg.inv(np.linalg.inv(matrix)[:64, :64])
        np.testing.assert_allclose(information[row], marginal, rtol=2e-3, atol=2e-3 * np.abs(marginal).max())
    assert np.trace(information[1]) < 0.9 * np.trace(information[0])


def test_identities_are_combined_by_information_and_confidence():
    random = np.random.default_rng(0)
    identity, confidence = random.normal(size=(2, 3, 5)), random.uniform(0.1, 1, (2, 3, 5))
    published = (identity * confidence).sum(1) / confidence.sum(1)
    unit = np.broadcast_to(np.eye(5), (2, 3, 5, 5))
    np.testing.assert_allclose(confidence_net.weighted_mean(identity, confidence), published, rtol=1e-5)
    np.testing.assert_allclose(confidence_net.weighted_mean(identity, confidence, unit), published, rtol=1e-4)
    factor = random.normal(size=(2, 3, 5, 5))
    information = factor @ factor.swapaxes(-1, -2) + np.eye(5)
    for person in range(2):
        scale = np.sqrt(confidence[person])
        scaled = scale[:, :, None] * information[person] * scale[:, None]
        right = np.einsum("nij,nj->i", scaled, identity[person])
        found = confidence_net.weighted_mean(identity, confidence, information)[person]
        np.testing.assert_allclose(found, np.linalg.solve(scaled.sum(0), right), rtol=1e-4, atol=1e-5)


def test_landmarks_with_large_variance_have_less_influence(face):
    points = image_formation.project_landmarks(face, _coefficients(2, 0.4))
    certain, uncertain = (jnp.abs(_fit(face, points, variance)).sum() for variance in (0.0, 1e6))
    assert uncertain < 0.1 * certain


def test_landmarks_have_influence_across_their_direction_of_variance_only(face):
    points = image_formation.project_landmarks(face, _coefficients(1, 0.0))
    covariance = jnp.tile(jnp.array([[1e8, 0.0], [0.0, 0.0]]), (1, 68, 1, 1))
    translations = [
        _fit(face, points + jnp.array(shift), covariance=covariance)[0, 107:109]
        for shift in ((0.0, 0.0), (10.0, 0.0), (0.0, 10.0))
    ]
    unshifted, shifted_x, shifted_y = translations
    np.testing.assert_allclose(shifted_x, unshifted, atol=2e-3)
    assert shifted_y[1] - unshifted[1] > 0.05


def test_gradients_are_finite_where_all_points_coincide(face):
    gradient = jax.grad(lambda points: _fit(face, points).sum())(jnp.full((1, 68, 2), 112.0))
    assert np.isfinite(gradient).all()


def test_heat_map_loss_is_lowest_for_the_target_heat_map():
    centers = map_fit.cell_centers_px(16)
    np.testing.assert_allclose(centers[np.array([0, 1, 16])], [[7, 217], [21, 217], [7, 203]])
    target = jnp.tile(centers[37], (1, 68, 1))
    correct, wrong = (jnp.full((1, 256, 68), -30.0).at[:, cell].set(0.0) for cell in (37, 41))
    squared_distance = ((centers - centers[37]) ** 2).sum(-1)
    gaussian = jax.nn.log_softmax(-squared_distance / (2 * (losses.HEAT_MAP_STD_CELLS * 14) ** 2))
    gaussian = jnp.tile(gaussian[None, :, None], (1, 1, 68))
    values = [losses.heat_map_loss(log_attention, target) for log_attention in (gaussian, correct, wrong)]
    assert values == sorted(values) and len(set(map(float, values))) == 3


def test_only_the_first_images_are_rendered_but_all_landmarks_count(face):
    settings, coefficients = get_config("rendered").loss, _coefficients(3, 0.2)
    rng = np.random.default_rng(1)
    batch = {
        "image": jnp.asarray(rng.random((3, 48, 48, 3), np.float32)),
        "landmarks": jnp.asarray(rng.uniform(0, 224, (3, 68, 2)), jnp.float32),
    }
    settings.num_rendered = 0
    first = objective.hybrid_terms({"face": face}, *jax.tree.map(lambda x: x[:1], (coefficients, batch)), settings)
    whole = objective.hybrid_terms({"face": face}, coefficients, batch, settings)
    settings.num_rendered = 1
    part = objective.hybrid_terms({"face": face}, coefficients, batch, settings)
    for name, value in part.items():
        expected = first if name in ("photometric", "reflectance") else whole
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("group", "key"), [("model", "regressor"), ("loss", "distance")])
def test_unknown_names_raise(group, key):
    config = get_config("smoke")
    config[group][key] = "nothing"
    with pytest.raises(UserError, match=f"config.{group}.{key}: 'nothing' cannot be used"):
        deep3d.build(config)
