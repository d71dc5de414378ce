"""Dense points: their selection, their positions in rendered images, and targets that are unknown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.errors import UserError
from jaxface.heads import scenes, sources
from jaxface.systems import deep3d
from jaxface.systems.deep3d import data, face_model, losses
from jaxface.systems.deep3d.networks import dense_points
from jaxface.systems.deep3d.preprocessing import alignment

COUNT, SIZE = 32, 96


@pytest.fixture(scope="module")
def config():
    config = get_config("smoke")
    config.model.num_dense_points = COUNT
    return face_model.resolve(config)


@pytest.fixture(scope="module")
def example():
    """A record of a rendered head without its image, and the pixels of all its vertices."""
    head = sources.load_head("makehuman")

    @jax.jit
    def sample(key: jax.Array) -> tuple[scenes.Scene, jax.Array]:
        scene = scenes.sample_scene(head, key, SIZE, scenes.PORTRAIT).replace(nose=jnp.float32(0.3))
        return scene, scenes.project_vertices(head, scene)[1]

    scene, points_px = sample(jax.random.key(3))
    record = {name: getattr(scene, name) for name in ("identity", "expression", "nose", "rotation", "translation")}
    record |= {"focal_px": scene.focal_px, "center_px": scene.center_px}
    record |= {"landmarks": head.landmark_points(points_px, "68"), "image": np.zeros((SIZE, SIZE, 3), np.uint8)}
    return jax.device_get(record), np.asarray(points_px)


def test_points_lie_apart_in_mirrored_pairs(config):
    face = face_model.from_config(config)
    vertices, flip = dense_points.select_vertices(face, COUNT), dense_points.mirror(COUNT)
    positions = face.mean[vertices]
    assert set(vertices) <= set(face.face_vertices)
    np.testing.assert_allclose(positions[flip], positions * [-1, 1, 1], atol=1e-5)
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)[~np.eye(COUNT, dtype=bool)]
    assert apart.min() > 0.05 and np.median(positions[::2, 0]) > 0


def test_dense_points_match_the_rendered_vertices(config, example):
    record, points_px = example
    vertices = dense_points.select_vertices(face_model.from_config(config), COUNT)
    expected = alignment.align(record["landmarks"], SIZE, SIZE, 128).with_size(224).to_crop(points_px[vertices])
    np.testing.assert_allclose(dense_points.from_config(config).in_crop(record, 128), expected, atol=0.02)


def test_dense_points_are_augmented_as_landmarks(config, example):
    """A dense point at the vertex of a landmark stays at this landmark."""
    record, _ = example
    face = face_model.from_config(config)
    corners = [face.landmarks[0][number, 0] for number in (36, 45)]  # outer eye corners, each other's mirror image
    head = sources.load_head("makehuman")
    modes = np.concatenate([head.identity, head.expression, np.zeros((1, *head.template.shape))])[:, corners]
    points = dense_points.DensePoints(head.template[corners], modes)
    for seed in range(4):
        processed = data.preprocess_train(record, seed, 64, with_skin=False, points=points)
        assert np.linalg.norm(processed["dense"] - processed["landmarks"][[36, 45]], axis=1).max() < 6


def test_images_of_other_heads_have_unknown_dense_points(config, example):
    record = {**example[0], "identity": np.zeros(3)}
    processed = data.preprocess_train(record, 0, 64, with_skin=False, points=dense_points.from_config(config))
    assert processed["dense"].shape == (COUNT, 2) and np.isnan(processed["dense"]).all()


def test_unknown_points_have_no_gradient():
    target = jnp.array([[[20.0, 30.0], [jnp.nan, jnp.nan]]])
    attention = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (1, 64, 2)), axis=1)
    for loss, values in (
        (losses.heat_map_loss, attention),
        (losses.valid_landmark_distance, 9 + target.at[0, 1].set(5.0)),
    ):
        gradient = jax.grad(loss)(values, target)
        assert np.isfinite(gradient).all()
        by_point = np.moveaxis(np.asarray(gradient), 2 if loss is losses.heat_map_loss else 1, 0)
        assert np.abs(by_point[0]).max() > 0 == np.abs(by_point[1]).max()
    assert losses.valid_landmark_distance(9 + target, target) == pytest.approx(np.sqrt(2 * 81 + 1))


@pytest.mark.parametrize(("count", "regressor", "message"), [(3, "map_fit", "even"), (4, "linear", "map_fit")])
def test_invalid_numbers_of_dense_points_are_refused(count, regressor, message):
    config = get_config("smoke")
    config.model.update(num_dense_points=count, regressor=regressor, refine=0)
    with pytest.raises(UserError, match=f"config.model.num_dense_points.*{message}"):
        deep3d.build(config)
