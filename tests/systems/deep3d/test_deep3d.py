"""The whole system in its smoke variant: training, resuming, scoring; heads and configurations that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface import checkpoint, metric_writer, parallel, training
from jaxface.errors import UserError
from jaxface.systems import deep3d
from jaxface.systems.deep3d import face_model
from jaxface.systems.deep3d import metrics as head_metrics
from jaxface.systems.deep3d.networks import confidence_net
from tests import basel


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = get_config("smoke")
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    return config


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return training.fit(deep3d.build(prepared), prepared, workdir), workdir


def test_smoke_trains_and_a_second_run_verifies(prepared, trained):
    first, workdir = trained
    lines = metric_writer.read(workdir)
    assert int(first.step) == 8 and lines[-1]["step"] == 8 and len(checkpoint.steps(workdir)) == 3
    scored = {name.rpartition("/")[2]: value for name, value in lines[-1].items()}
    assert scored["vertex_to_mean"] == pytest.approx(scored["vertex"] / scored["vertex_of_mean"])
    assert scored["vertex_of_mean"] < scored["vertex_of_frontal"] and scored["shape"] <= scored["vertex"]
    again = training.fit(deep3d.build(prepared), prepared, workdir)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


def test_the_loss_falls_on_one_batch(prepared):
    system, devices = deep3d.build(prepared), jax.devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), devices=devices)
    state = training.initial_state(system, *system.init(jax.random.key(0)), 0.0)
    state = parallel.replicate(state, devices=devices)
    constants = parallel.replicate(system.constants(), devices=devices)
    batch = next(system.train_data(0))
    assert batch.keys() == {"image", "landmarks", "dense"}  # no coefficients
    sharded, loss_values = parallel.shard(batch, devices=devices), []
    for _ in range(25):
        state, step_metrics = step(state, sharded, constants)
        loss_values.append(float(step_metrics["loss"]))
    assert np.isfinite(loss_values).all() and np.mean(loss_values[-5:]) < 0.8 * loss_values[0]


def test_raw_decodes_the_head_if_one_is_configured(trained, tmp_path):
    config = get_config("reference")
    without_head = deep3d.build(config).raw({}, {}, {"coefficients": np.zeros((2, 257))})
    assert without_head.keys() == {"coefficients"}
    config.head.path = str(basel.save(tmp_path / "BFM_model_front.mat"))
    outputs = deep3d.build(config).raw({}, {}, {"coefficients": np.zeros((2, 257))})
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {"coefficients": (2, 257), "vertices": (2, 600, 3), "landmarks": (2, 68, 2), "colors": (2, 600, 3)}
    np.testing.assert_allclose(outputs["vertices"].mean(1), [[0, 0, 10]] * 2, atol=1e-4)


def test_heads_and_configurations_that_do_not_fit():
    with pytest.raises(UserError, match="config.model.identity is 120, but head 'makehuman' has 97"):
        face_model.load_face_model("makehuman", "", (120, 40, 10), "tf")
    with pytest.raises(UserError, match="'pytorch' is for Basel front faces"):
        face_model.load_face_model("makehuman", "", (64, 40, 10), "pytorch")
    config = get_config("smoke")
    config.loss.attention = "everything"
    with pytest.raises(UserError, match="config.loss.attention: 'everything' cannot be used"):
        deep3d.build(config)


def test_multiview_starts_from_the_plain_average_and_trains_the_confidence_net_only(prepared, trained):
    state, workdir = trained
    config = prepared.copy_and_resolve_references()
    config.model.confidence, config.init = True, str(workdir)
    system = deep3d.build(config)
    like = jax.eval_shape(system.init, jax.random.key(0))
    params, model_state = system.warm_start(*checkpoint.load_params(workdir))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, like[0])
    random = np.random.default_rng(0)
    batch = {
        "image": random.random((2, 3, 64, 64, 3), np.float32),
        "landmarks": random.uniform(60, 160, (2, 3, 68, 2)).astype(np.float32),
    }

    def loss(params):
        return system.loss(params, model_state, batch, jax.random.key(0), 0, jax.device_put(system.constants()))[0]

    gradients = jax.jit(jax.grad(loss))(params)
    for name, part in gradients.items():
        assert any(leaf.any() for leaf in jax.tree.leaves(part)) == (name == confidence_net.NAME), name
    identity, confidence = random.random((2, 3, 5)), np.full((2, 3, 5), 0.3)
    np.testing.assert_allclose(confidence_net.weighted_mean(identity, confidence), identity.mean(1), rtol=1e-6)


def test_shape_errors_are_invariant_to_scale_and_translation():
    points = np.random.default_rng(1).random((2, 50, 3)).astype(np.float32)
    moved = 1.7 * points + np.array([3, 4, 5], np.float32)
    rotated = moved @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    assert head_metrics.distance_mm(points, moved, rotate=False).max() < 1e-2
    assert head_metrics.distance_mm(points, rotated, rotate=True).max() < 1e-2
    assert head_metrics.distance_mm(points, rotated, rotate=False).min() > 10
