"""Photometric refinement: a rendered face is recovered from its colours; uninformative images do no harm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.errors import UserError
from jaxface.geometry import mesh
from jaxface.geometry.map_estimate import Observation
from jaxface.systems import deep3d
from jaxface.systems.deep3d import face_model, metrics
from jaxface.systems.deep3d.networks import map_fit
from jaxface.systems.deep3d.networks.refine import refine
from jaxface.systems.deep3d.rendering import image_formation

SIZES = image_formation.Sizes(64, 40, 10)
SIZE, FACES = 96, 2


@pytest.fixture(scope="module")
def face():
    return jax.device_put(face_model.load_face_model("procedural", "", (64, 40, 10), "tf"))


@pytest.fixture(scope="module")
def refined(face):
    points = map_fit.points_model(face, 0)
    return jax.jit(lambda image, vector, observation: refine(face, SIZES, points, image, vector, observation, 6))


@pytest.fixture(scope="module")
def truth():
    """Coefficients (FACES,147) of rotated and lit faces."""
    random = np.random.default_rng(0)
    groups = {name: np.zeros((FACES, count), np.float32) for name, count in SIZES.groups.items()}
    groups["identity"] = random.normal(0, 0.8, groups["identity"].shape)
    groups["expression"] = random.normal(0, 0.3, groups["expression"].shape)
    groups["angles"][:] = [0.1, 0.3, 0.0]
    groups["light"] = random.normal(0, 0.15, groups["light"].shape)
    return np.concatenate([*groups.values()], 1).astype(np.float32)


def _observation(face, vector: np.ndarray, offset_px: float) -> Observation:
    """Landmarks of the faces, all shifted by an offset."""
    points = image_formation.project_landmarks(face, image_formation.split(jnp.asarray(vector), SIZES)) + offset_px
    precision = jnp.tile(jnp.repeat(jnp.array([1.2, 3.0]), np.array([104, 6])), (FACES, 1))
    whitening = jnp.tile(jnp.eye(2) / 3, (*points.shape[:2], 1, 1))
    return Observation(jnp.zeros((FACES, 110)), precision, points, whitening)


def _initial(truth: np.ndarray) -> np.ndarray:
    """The mean face in the true pose, lit by the ambient light only."""
    angles = SIZES.identity + SIZES.expression + SIZES.albedo
    start = np.zeros_like(truth)
    start[:, angles : angles + 3] = truth[:, angles : angles + 3]
    return start


def _render(face, vector) -> tuple[jax.Array, jax.Array]:
    rendered = image_formation.render(
        face, image_formation.decode(face, image_formation.split(jnp.asarray(vector), SIZES)), SIZE
    )
    return jnp.clip(rendered.image, 0, 1), rendered.crop_mask


def _shape_error_mm(face, vector, truth) -> float:
    coefficients, expected = (image_formation.split(jnp.asarray(v), SIZES) for v in (vector, truth))
    scale = face_model.EXPRESSION_DEVIATION
    head = {"identity": expected.identity, "expression": expected.expression * scale}
    head["rotation"] = image_formation.rotation(expected.angles)
    return float(metrics.head_errors(face, coefficients, head)["vertex"].mean())


@pytest.mark.parametrize("power", [1.0, 0.8])
def test_a_rendered_face_is_recovered_under_any_tone_curve(face, refined, truth, power):
    image, crop = _render(face, truth)
    image, start = image**power, _initial(truth)
    result = refined(image, start, _observation(face, truth, offset_px=1.0))
    assert _shape_error_mm(face, result, truth) < 0.25 * _shape_error_mm(face, start, truth)
    difference = [jnp.abs(_render(face, vector)[0] - image)[crop].mean() for vector in (start, result)]
    assert difference[1] < 0.1 * difference[0]


@pytest.mark.parametrize("far", [0.0, 500.0, 9.9])
def test_uninformative_images_and_invisible_faces_give_finite_results(face, refined, truth, far):
    """A black image; a face outside the image; a face at the camera."""
    start = _initial(truth)
    start[:, -2 if far > 10 else -1] = far
    result = refined(jnp.zeros((FACES, SIZE, SIZE, 3)), start, _observation(face, truth, offset_px=0.0))
    assert np.isfinite(result).all()


def test_the_skin_surface_has_the_normals_and_the_area_of_the_face(face):
    surface, mean = face.skin_surface, jnp.asarray(face.mean)
    skin_vertices = surface.vertices[: len(surface.area)]
    np.testing.assert_array_equal(np.sort(skin_vertices), np.flatnonzero(face.skin))
    whole = mesh.vertex_normals(mean, face.triangles, face.incidence)[skin_vertices]
    np.testing.assert_allclose(mesh.vertex_normals(mean[surface.vertices], surface.triangles, surface.incidence), whole)
    corners = mean[face.triangles]
    area = jnp.linalg.norm(jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    share = jnp.asarray(face.skin)[face.triangles].mean(1)
    np.testing.assert_allclose(surface.area.sum(), (area * share).sum(), rtol=1e-4)


def test_refinement_needs_the_regressor_map_fit():
    config = get_config("smoke")
    config.model.update(regressor="linear", num_dense_points=0)
    with pytest.raises(UserError, match="config.model.refine is 8"):
        deep3d.build(config)
