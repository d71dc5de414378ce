"""The whole system on its smoke variant: training, resuming, scoring; the losses of both modes and regressors."""

import functools

import jax
import numpy as np
import optax
import pytest

from configs.jvcr import get_config
from jaxface import checkpoint, evaluation, metric_writer, optim, parallel, run_length, training
from jaxface.errors import UserError
from jaxface.systems import jvcr
from jaxface.systems.jvcr import model


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The smoke variant with a data folder of its own."""
    config = get_config("smoke")
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    return config


def test_smoke_trains_and_a_second_run_verifies(prepared, tmp_path):
    first = training.fit(jvcr.build(prepared), prepared, tmp_path)
    lines = metric_writer.read(tmp_path)
    assert int(first.step) == 8 and lines[-1]["step"] == 8
    assert len(checkpoint.steps(tmp_path)) == 3
    again = training.fit(jvcr.build(prepared), prepared, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    (results,) = evaluation.evaluate(jvcr.build(prepared), prepared, tmp_path).values()
    assert results["nme"] == pytest.approx(lines[-1]["rendered_heads/makehuman/nme"], rel=1e-3)
    assert {"gte", "cvgtce", "gte_mean_shape", "depth_correlation"} <= results.keys()


def random_batch(size=32, points=71):
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(4, size - 4, (4, points, 3)).astype(np.float32)
    flags = np.ones((4, points), bool)
    image = rng.random((4, size, size, 3), np.float32)
    return {"image": image, "coordinates": coordinates, "valid": flags, "in_volume": flags}


def train_on_one_batch(config, count):
    """The metrics of `count` steps on one batch."""
    system, device = jvcr.build(config), jax.devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), devices=device, donate=False)
    state = training.initial_state(system, *system.init(jax.random.key(0)), 0.0)
    state = parallel.replicate(state, config.backend, device)
    batch = parallel.shard(random_batch(config.model.image_size), config.backend, device)
    metrics = []
    for _ in range(count):
        state, outputs = step(state, batch, {})
        metrics.append({name: float(value) for name, value in outputs.items()})
    return metrics


def differ(first, second):
    return any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def test_networks_are_trained_separately_and_then_jointly():
    """Other target coordinates change the volume network's gradient in the second phase only."""
    config = get_config("smoke")
    config.loss.pretrain, config.optim.schedule = 1, "constant"
    system = jvcr.build(config)
    params, model_state = system.init(jax.random.key(0))
    batch = system.preprocess_on_device(random_batch(), jax.random.key(0), {})
    shifted = batch | {"coordinates": batch["coordinates"] + 1}
    net = model.model_from_config(config.model)
    gradients = jax.jit(jax.grad(functools.partial(one_device_loss, net, config), has_aux=True))
    for step, joint in ((0, False), (1, True)):
        first, second = (gradients(params, model_state, one, step)[0] for one in (batch, shifted))
        assert differ(first["pix2vox"], second["pix2vox"]) == joint
        assert differ(first["vox2coord"], second["vox2coord"])


def one_device_loss(net, config, params, model_state, batch, step):
    from jaxface.systems.jvcr import losses

    return losses.training_loss(net, config.loss, config.model.image_size, params, model_state, batch, None, step, {})


def test_the_original_updates_statistics_twice_in_the_first_phase():
    config = get_config("smoke")
    system = jvcr.build(config)
    params, model_state = system.init(jax.random.key(0))
    batch = system.preprocess_on_device(random_batch(), jax.random.key(0), {})
    net = model.model_from_config(config.model)

    def statistics(both_volumes, step):
        config.loss.both_volumes = both_volumes
        _, (updated, _) = jax.jit(functools.partial(one_device_loss, net, config))(params, model_state, batch, step)
        return updated["batch_stats"]["vox2coord"]["bn0"]["mean"]

    once, twice, joint = statistics(False, 0), statistics(True, 0), statistics(True, config.loss.pretrain)
    np.testing.assert_allclose(twice, once + 0.9 * joint, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(joint, statistics(False, config.loss.pretrain), rtol=1e-6)


def test_the_soft_argmax_regressor_fits_one_batch():
    config = get_config("smoke")
    config.model.regressor, config.loss.pretrain, config.loss.attention = "soft_argmax", 0, 0.01
    config.optim.update(name="adam", lr=1e-2, schedule="constant")
    metrics = train_on_one_batch(config, 25)
    first, last = metrics[0], metrics[-1]
    assert all(one["finite"] for one in metrics)
    assert last["coordinate"] < 0.7 * first["coordinate"]
    assert last["voxel"] < first["voxel"] and last["attention"] < first["attention"]


def test_learning_rates_in_effect():
    epoch = 61225 // 20
    config = run_length.in_steps(get_config("reference"), 61225)
    assert (config.steps, config.optim.boundaries) == (30 * epoch, (10 * epoch, 20 * epoch))
    assert (config.loss.pretrain, config.eval_every) == (15 * epoch, epoch)
    rates = optim.schedule(config.optim, config.steps, config.batch_size)
    in_effect = [float(rates(at * epoch + 1)) for at in (0, 9, 10, 19, 20, 29)]
    np.testing.assert_allclose(in_effect, [1e-3, 1e-3, 2.5e-5, 2.5e-5, 2.5e-6, 2.5e-6], rtol=1e-6)
    assert isinstance(jvcr.build(config).optimizer, optax.GradientTransformation)


@pytest.mark.parametrize(
    "changes",
    [dict(image_size=40), dict(depths=(1, 2, 8)), dict(channels=(8, 8)), dict(width=18), dict(points=70)]
    + [dict(regressor="mlp"), dict(depths=(1, 4))],
)
def test_inconsistent_values_raise(changes):
    config = get_config("smoke")
    config.model.update(changes)
    with pytest.raises(UserError, match="config.model"):
        jvcr.build(config)


def test_a_single_depth_is_used_for_all_stacks():
    config = get_config("smoke")
    config.model.depths = (8,)
    assert model.model_from_config(config.model).pix2vox.depths == (8, 8)
