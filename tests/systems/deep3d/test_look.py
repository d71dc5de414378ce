"""What makes reconstructions look right: lips that close, light that is bounded, textures without holes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.geometry import lighting
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.deep3d import face_model, mouth
from jaxface.systems.deep3d.face_model import COVERED, INTERIOR, SCALP, SKIN
from jaxface.systems.deep3d.networks import light_prior
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop
from jaxface.systems.deep3d.rendering import image_formation, texture_fill
from jaxface.systems.deep3d.rendering.image_formation import Sizes

SIZES = Sizes(8, 52, 2)
CROP = Crop(400, 300, 0.8, 210.0, 140.0, REFERENCE_SIZE, exact=True)


@pytest.fixture(scope="module")
def face():
    whole = face_model.from_head(makehuman_head())
    return whole.replace(identity=whole.identity[:8], albedo=whole.albedo[:2])


def _head(**weights: float) -> np.ndarray:
    """A turned head with expressions of these weights."""
    vector = np.zeros(SIZES.total, np.float32)
    vector[:8] = 0.5
    expression = makehuman_head().expression_weights(**weights) / face_model.EXPRESSION_DEVIATION
    vector[8:60], vector[62:65] = expression, [0.1, 0.4, 0.2]
    return vector


def _landmarks(face, vector: np.ndarray) -> np.ndarray:
    coefficients = image_formation.split(jnp.asarray(vector)[None], SIZES)
    return np.asarray(image_formation.project_landmarks(face, coefficients))[0]


def _closed(face, vector: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The vector after closing, if the image shows the head `seen`."""
    rotation = np.asarray(image_formation.rotation(jnp.asarray(vector[62:65])[None]))[0]
    return mouth.close_lips(face, SIZES, vector, rotation, CROP, CROP.to_image(_landmarks(face, seen)))


def _opening_mm(face, vector: np.ndarray) -> np.ndarray:
    shape = image_formation.canonical_shape(face, jnp.asarray(vector[None, :8]), jnp.asarray(vector[None, 8:60]))[0]
    points = np.asarray(face_model.at_landmarks(face, shape))
    return 100 * (mouth._gaps(points) - mouth._gaps(np.asarray(face_model.at_landmarks(face, face.mean))))


def test_lips_close_where_the_landmarks_say_so_and_nothing_else_moves(face):
    opened, shut = _head(jawOpen=0.15, mouthSmile_L=0.3), _head(mouthSmile_L=0.3)
    closed = _closed(face, opened, shut)
    assert _opening_mm(face, opened).min() > 2 and np.abs(_opening_mm(face, closed)).max() < 0.3
    distance = np.linalg.norm(_landmarks(face, closed) - _landmarks(face, opened), axis=1)
    assert np.delete(distance, np.arange(48, 68)).max() < 2.0
    changed = np.flatnonzero(closed != opened)
    assert changed.min() >= 8 and changed.max() < 60


def test_an_open_mouth_stays_as_it_is(face):
    opened = _head(jawOpen=0.6)
    np.testing.assert_array_equal(_closed(face, opened, opened), opened)


def test_lips_never_cut_through_each_other(face):
    crossed = _head(jawOpen=-0.15)
    assert _opening_mm(face, crossed).max() < -2
    assert np.abs(_opening_mm(face, _closed(face, crossed, _head(jawOpen=0.6)))).max() < 0.3


def test_light_of_unseen_normals_is_nearly_white():
    """A tint that the visible skin hardly shows vanishes, and the skin keeps its colours."""
    directions = np.random.default_rng(0).standard_normal((400, 3))
    normals = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    basis = np.asarray(lighting.sh_basis(jnp.asarray(normals, jnp.float32)))
    shown = normals[:, 2] > 0.5
    data = np.kron(np.eye(3), basis[shown].T @ basis[shown] / shown.sum())
    start = np.zeros((3, 9), np.float32)
    # The combination that the skin shows least, in one channel.
    start[2] = np.linalg.eigh(data[:9, :9])[1][:, 0]
    matrix, gradient = light_prior.normal_equations(jnp.asarray(start).ravel(), jnp.float32(1.0))
    light = start - np.linalg.solve(np.asarray(matrix) + data, np.asarray(gradient)).reshape(3, 9)
    tint = [np.abs(basis @ (one - one.mean(0)).T).max() for one in (start, light)]
    assert tint[1] < 0.5 * tint[0]
    assert np.abs(basis[shown] @ (light - start).T).max() < 0.2 * tint[0]


def test_diffusion_keeps_what_is_known_and_fills_the_rest_with_its_neighbours():
    values = np.zeros((64, 64, 3), np.float32)
    values[:, :20], values[:, 40:] = [200, 0, 0], [0, 0, 100]
    weight = np.ones((64, 64), np.float32)
    weight[:, 20:40] = 0
    filled = texture_fill.diffuse(values, weight)
    np.testing.assert_allclose(filled[weight > 0], values[weight > 0])
    assert (filled[:, 20:40].sum(-1) > 90).all()
    assert filled[32, 22, 0] > filled[32, 37, 0] and filled[32, 22, 2] < filled[32, 37, 2]


def test_hair_skin_and_mouth_are_completed_each_from_its_own():
    region = np.repeat(np.array([SCALP, SKIN, COVERED, INTERIOR], np.int8), 16)[:, None] * np.ones(64, np.int8)
    photo = np.where((region == SCALP)[..., None], [60.0, 40.0, 20.0], [220.0, 180.0, 160.0]).astype(np.float32)
    weight = np.zeros((64, 64), np.float32)
    weight[:, :24] = 1
    photo[weight == 0] = 0
    model = np.full((64, 64, 3), 7.0, np.float32)
    result = texture_fill.complete(photo, weight, model, region, np.full(64, -1))
    np.testing.assert_allclose(result[:16, 30:], np.broadcast_to([60, 40, 20], (16, 34, 3)), atol=0.1)
    np.testing.assert_allclose(result[16:48, 30:], np.broadcast_to([220, 180, 160], (32, 34, 3)), atol=0.1)
    np.testing.assert_allclose(result[48:, 30:], 7.0)


def test_the_hidden_half_is_the_mirror_image_of_the_visible_one_in_its_own_light():
    half = np.random.default_rng(0).uniform(60, 120, (64, 32, 3)).astype(np.float32)
    photo = np.concatenate([half, 0.8 * half[:, ::-1]], axis=1)
    weight = np.ones((64, 64), np.float32)
    weight[:, 40:] = 0
    shown = np.where(weight[..., None] > 0, photo, 0)
    region, mirrored = np.full((64, 64), SKIN, np.int8), np.arange(64)[::-1]
    result = texture_fill.complete(shown, weight, np.zeros_like(photo), region, mirrored)
    assert np.abs(result - photo).mean() < 2
