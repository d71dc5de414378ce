"""The whole system on its smoke variant: trained, resumed, scored; both modes' losses; the reading regressor learns."""

import functools
import pathlib
import re

import jax
import numpy as np
import optax
import pytest

from configs.jvcr import VARIANTS, get_config
from jaxface import checkpoint, evaluation, metric_writer, optim, parallel, training
from jaxface.errors import UserError
from jaxface.systems import jvcr
from jaxface.systems.jvcr import model

ROOT = pathlib.Path(__file__).parents[3]


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
    assert results["nme"] == pytest.approx(lines[-1]["rendered_heads/procedural/nme"], rel=1e-3)
    assert {"gte", "cvgtce", "gte_mean_shape", "depth_correlation"} <= results.keys()


def random_batch(size=32, points=71):
    draw = np.random.default_rng(0)
    places = draw.uniform(4, size - 4, (4, points, 3)).astype(np.float32)
    flags = np.ones((4, points), bool)
    image = draw.random((4, size, size, 3), np.float32)
    return {"image": image, "coordinates": places, "known": flags, "drawn": flags}


def steps(config, count):
    """The states before and after each of `count` steps on one batch, and the metrics."""
    system, device = jvcr.build(config), jax.devices()[:1]
    step = parallel.compile_step(training.make_step(system, 0, 0.0), devices=device, donate=False)
    state = parallel.replicate(
        training.initial_state(system, *system.init(jax.random.key(0)), 0.0), config.backend, device
    )
    batch = parallel.shard(random_batch(config.model.image_size), config.backend, device)
    states, measured = [state], []
    for _ in range(count):
        state, outputs = step(state, batch, {})
        states.append(state)
        measured.append({name: float(value) for name, value in outputs.items()})
    return states, measured


def moved(before, after, half):
    return any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before[half], after[half])), strict=True))


def test_the_halves_learn_apart_and_then_together():
    config = get_config("smoke")
    config.loss.pretrain, config.optim.schedule = 1, "constant"
    system = jvcr.build(config)
    params, model_state = system.init(jax.random.key(0))
    batch = system.preprocess_on_device(random_batch(), jax.random.key(0), {})
    net = model.model_from_config(config.model)
    grads = jax.jit(jax.grad(functools.partial(one_device_loss, net, config), has_aux=True))
    apart = grads(params, model_state, batch, 0)[0]
    alone = grads(params, model_state, batch | {"coordinates": batch["coordinates"] + 1}, 0)[0]
    jax.tree.map(np.testing.assert_array_equal, apart["pix2vox"], alone["pix2vox"])
    assert moved(apart, alone, "vox2coord")
    together = grads(params, model_state, batch | {"coordinates": batch["coordinates"] + 1}, 1)[0]
    assert moved(grads(params, model_state, batch, 1)[0], together, "pix2vox")


def one_device_loss(net, config, params, model_state, batch, step):
    from jaxface.systems.jvcr import losses

    return losses.training_loss(net, config.loss, config.model.image_size, params, model_state, batch, None, step, {})


def test_the_original_updates_statistics_twice_while_the_halves_are_apart():
    config = get_config("smoke")
    system = jvcr.build(config)
    params, model_state = system.init(jax.random.key(0))
    batch, net = (
        system.preprocess_on_device(random_batch(), jax.random.key(0), {}),
        model.model_from_config(config.model),
    )

    def statistics(both, step):
        config.loss.both_volumes = both
        _, (changed, _) = jax.jit(functools.partial(one_device_loss, net, config))(params, model_state, batch, step)
        return changed["batch_stats"]["vox2coord"]["bn0"]["mean"]

    once, twice, joint = statistics(False, 0), statistics(True, 0), statistics(True, config.loss.pretrain)
    np.testing.assert_allclose(twice, once + 0.9 * joint, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(joint, statistics(False, config.loss.pretrain), rtol=1e-6)


def test_the_reading_regressor_learns_one_batch():
    config = get_config("smoke")
    config.model.regressor, config.loss.pretrain, config.loss.attention = "soft_argmax", 0, 0.01
    config.optim.update(name="adam", lr=1e-2, schedule="constant")
    _, measured = steps(config, 25)
    assert all(one["finite"] for one in measured)
    assert measured[-1]["coordinate"] < 0.7 * measured[0]["coordinate"]
    assert measured[-1]["voxel"] < measured[0]["voxel"] and measured[-1]["attention"] < measured[0]["attention"]


def test_learning_rates_in_effect():
    config = get_config("reference")
    epoch = config.optim.boundaries[0] // 10
    rates = optim.schedule(config.optim, config.steps)
    found = [float(rates(at * epoch + 1)) for at in (0, 9, 10, 19, 20, 29)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 2.5e-5, 2.5e-5, 2.5e-6, 2.5e-6], rtol=1e-6)
    assert isinstance(jvcr.build(config).optimizer, optax.GradientTransformation)


@pytest.mark.parametrize(
    "changes",
    [dict(image_size=40), dict(depths=(1, 2, 8)), dict(channels=(8, 8)), dict(width=18), dict(points=70)]
    + [dict(regressor="mlp"), dict(depths=(1, 4))],
)
def test_values_that_do_not_fit_together(changes):
    config = get_config("smoke")
    config.model.update(changes)
    with pytest.raises(UserError, match="config.model"):
        jvcr.build(config)


def test_one_depth_is_that_of_all_stacks():
    config = get_config("smoke")
    config.model.depths = (8,)
    assert model.model_from_config(config.model).pix2vox.depths == (8, 8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_key_is_read(variant):
    sources = "".join(path.read_text() for path in (ROOT / "jaxface").rglob("*.py"))
    unread = [
        name
        for name, _ in _leaves(get_config(variant))
        if not re.search(rf"\b(config|settings)[\w.]*\.{name}\b|\[.{name}.\]", sources)
    ]
    assert not unread


def _leaves(config):
    for name, value in config.items():
        yield from _leaves(value) if hasattr(value, "items") and name != "multipliers" else [(name, value)]
