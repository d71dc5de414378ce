"""Dense points: which they are, where rendered pictures show them, and what becomes of those that nobody knows."""

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
    face_model.complete(config)
    return config


@pytest.fixture(scope="module")
def example():
    """A picture of a random head and the pixels of all its vertices."""
    head = sources.load_head("procedural")

    @jax.jit
    def photographed(key: jax.Array) -> tuple[scenes.Scene, jax.Array]:
        scene = scenes.sample_scene(head, key, SIZE, scenes.PORTRAIT)
        return scene, scenes.project_vertices(head, scene)[1]

    scene, points_px = photographed(jax.random.key(3))
    known = {name: getattr(scene, name) for name in ("identity", "expression", "rotation", "translation")}
    known |= {"focal_px": scene.focal_px, "center_px": scene.center_px}
    known |= {"landmarks": head.landmark_points(points_px, "68"), "image": np.zeros((SIZE, SIZE, 3), np.uint8)}
    return jax.device_get(known), np.asarray(points_px)


def test_points_lie_apart_in_mirrored_pairs(config):
    face = face_model.from_config(config)
    chosen, flip = dense_points.vertices(face, COUNT), dense_points.flip(COUNT)
    places = face.mean[chosen]
    assert set(chosen) <= set(face.scored)
    np.testing.assert_allclose(places[flip], places * [-1, 1, 1], atol=1e-5)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(COUNT, dtype=bool)]
    assert apart.min() > 0.05 and np.median(places[::2, 0]) > 0


def test_they_are_where_the_picture_shows_them(config, example):
    known, points_px = example
    chosen = dense_points.vertices(face_model.from_config(config), COUNT)
    wanted = alignment.align(known["landmarks"], SIZE, SIZE, 128).at(224).landmarks(points_px[chosen])
    np.testing.assert_allclose(dense_points.from_config(config).in_crop(known, 128), wanted, atol=0.02)


def test_they_move_with_the_augmented_picture(config, example):
    """As the landmarks beside them do: where a vertex is a landmark, both are the same point."""
    known, _ = example
    face = face_model.from_config(config)
    corners = [face.landmarks[0][number, 0] for number in (36, 45)]  # outer eye corners, each other's mirror image
    head = sources.load_head("procedural")
    modes = np.concatenate([head.identity[:, corners], head.expression[:, corners]])
    points = dense_points.Points(head.template[corners], modes)
    for seed in range(4):
        made = data.preprocess_train(known, seed, 64, with_skin=False, points=points)
        assert np.linalg.norm(made["dense"] - made["landmarks"][[36, 45]], axis=1).max() < 6


def test_pictures_of_other_heads_have_none(config, example):
    known = {**example[0], "identity": np.zeros(3)}
    made = data.preprocess_train(known, 0, 64, with_skin=False, points=dense_points.from_config(config))
    assert made["dense"].shape == (COUNT, 2) and np.isnan(made["dense"]).all()


def test_unknown_points_teach_nothing():
    target = jnp.array([[[20.0, 30.0], [jnp.nan, jnp.nan]]])
    attention = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (1, 64, 2)), axis=1)
    for loss, values in ((losses.heat_map, attention), (losses.known_distance, 9 + target.at[0, 1].set(5.0))):
        gradient = jax.grad(loss)(values, target)
        assert np.isfinite(gradient).all()
        place = np.moveaxis(np.asarray(gradient), 2 if loss is losses.heat_map else 1, 0)
        assert np.abs(place[0]).max() > 0 == np.abs(place[1]).max()
    assert losses.known_distance(9 + target, target) == pytest.approx(np.sqrt(2 * 81 + 1))


@pytest.mark.parametrize(("count", "regressor", "message"), [(3, "map_fit", "even"), (4, "linear", "map_fit")])
def test_a_wrong_number_is_one_line(count, regressor, message):
    config = get_config("smoke")
    config.model.update(num_dense_points=count, regressor=regressor, refine=0)
    with pytest.raises(UserError, match=f"config.model.num_dense_points.*{message}"):
        deep3d.build(config)
