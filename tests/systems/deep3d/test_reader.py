"""The reader that fits the face to landmarks: where it looks, what it makes of points, and what is rendered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.errors import UserError
from jaxface.systems import deep3d
from jaxface.systems.deep3d import face_model, losses, objective
from jaxface.systems.deep3d.networks import map_fit
from jaxface.systems.deep3d.rendering import image_formation

SIZES = image_formation.Sizes(64, 40, 10)


@pytest.fixture(scope="module")
def face():
    return jax.device_put(face_model.load_face_model("procedural", "", (64, 40, 10), "tf"))


def _coefficients(count: int, turn_rad: float) -> image_formation.Coefficients:
    vector = np.random.default_rng(0).normal(0, 0.5, (count, SIZES.total)).astype(np.float32)
    parts = image_formation.split(jnp.asarray(vector), SIZES)
    angles = jnp.array([0.1, turn_rad, -0.05]) * jnp.linspace(0.5, 1, count)[:, None]
    return parts.replace(angles=angles, translation=0.1 * parts.translation)


def _fitted(face, points, variance=0.0, guess=None, covariance=None):
    module = map_fit.Fit(SIZES)
    guess = jnp.zeros((len(points), 110)) if guess is None else guess
    if covariance is None:
        covariance = jnp.tile(variance * jnp.eye(2), (*points.shape[:2], 1, 1))
    variables = module.init(jax.random.key(0), guess, points, covariance)
    variables = {**variables, map_fit.COLLECTION: map_fit.points_model(face, 0)}
    return module.apply(variables, guess, points, covariance)


def test_landmarks_alone_are_those_of_the_whole_face(face):
    coefficients = _coefficients(3, 0.4)
    wanted = image_formation.decode(face, coefficients).landmarks
    np.testing.assert_allclose(image_formation.project_landmarks(face, coefficients), wanted, atol=1e-3)


def test_the_fit_explains_landmarks_of_a_turned_face(face):
    truth = _coefficients(4, 0.5)
    points = image_formation.project_landmarks(face, truth)
    found = _fitted(face, points)
    made = truth.replace(
        identity=found[:, :64], expression=found[:, 64:104], angles=found[:, 104:107], translation=found[:, 107:]
    )
    before = jnp.linalg.norm(
        image_formation.project_landmarks(face, truth.replace(angles=0 * truth.angles)) - points, axis=-1
    )
    after = jnp.linalg.norm(image_formation.project_landmarks(face, made) - points, axis=-1)
    assert after.mean() < 1.5 and before.mean() > 5
    np.testing.assert_allclose(found[:, 105], truth.angles[:, 1], atol=0.1)


def test_landmarks_that_scatter_are_trusted_less(face):
    points = image_formation.project_landmarks(face, _coefficients(2, 0.4))
    guess = jnp.zeros((2, 110))
    sure, unsure = (jnp.abs(_fitted(face, points, variance) - guess).sum() for variance in (0.0, 1e6))
    assert unsure < 0.1 * sure


def test_a_landmark_is_trusted_in_the_direction_in_which_it_does_not_scatter(face):
    points = image_formation.project_landmarks(face, _coefficients(1, 0.0))
    along = jnp.tile(jnp.array([[1e8, 0.0], [0.0, 0.0]]), (1, 68, 1, 1))
    guess = jnp.zeros((1, 110))
    still, across, up = (
        _fitted(face, points + jnp.array(shift), 0.0, guess, along)[0, 107:109]
        for shift in ((0.0, 0.0), (10.0, 0.0), (0.0, 10.0))
    )
    np.testing.assert_allclose(across, still, atol=2e-3)
    assert up[1] - still[1] > 0.05


def test_gradients_are_finite_where_all_points_fall_together(face):
    gradient = jax.grad(lambda points: _fitted(face, points).sum())(jnp.full((1, 68, 2), 112.0))
    assert np.isfinite(gradient).all()


def test_heat_maps_are_taught_where_landmarks_are():
    places = map_fit.cell_places(16)
    np.testing.assert_allclose(places[np.array([0, 1, 16])], [[7, 217], [21, 217], [7, 203]])
    target = jnp.tile(places[37], (1, 68, 1))
    there, beside = (jnp.full((1, 256, 68), -30.0).at[:, cell].set(0.0) for cell in (37, 41))
    soft = jax.nn.log_softmax(-((places - places[37]) ** 2).sum(-1) / (2 * (0.7 * 14) ** 2))
    soft = jnp.tile(soft[None, :, None], (1, 1, 68))
    assert (
        losses.heat_map_loss(soft, target) < losses.heat_map_loss(there, target) < losses.heat_map_loss(beside, target)
    )


def test_only_the_first_pictures_are_rendered_but_all_landmarks_count(face):
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
        wanted = first if name in ("photometric", "reflectance") else whole
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("group", "key"), [("model", "regressor"), ("loss", "distance")])
def test_names_that_do_not_exist(group, key):
    config = get_config("smoke")
    config[group][key] = "nothing"
    with pytest.raises(UserError, match=f"config.{group}.{key} is 'nothing'"):
        deep3d.build(config)
