"""The smoke variant is trained, resumed and evaluated; the loss falls on one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continuous import get_config
from jaxface import checkpoint, evaluation, metric_writer, parallel, training
from jaxface.errors import UserError
from jaxface.systems import continuous
from jaxface.systems.continuous import rendering


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The smoke variant with a temporary data folder."""
    config = get_config("smoke")
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    return config


def test_smoke_trains_and_a_second_run_verifies(prepared, tmp_path):
    first = training.fit(continuous.build(prepared), prepared, tmp_path)
    lines = metric_writer.read(tmp_path)
    assert int(first.step) == 8 and lines[-1]["step"] == 8
    assert len(checkpoint.steps(tmp_path)) == 3
    scored = lines[-1]["rendered_heads/makehuman/nme"]
    again = training.fit(continuous.build(prepared), prepared, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    results = evaluation.evaluate(continuous.build(prepared), prepared, tmp_path)
    assert results["rendered_heads/makehuman"]["nme"] == pytest.approx(scored, rel=1e-4)
    assert len(list((tmp_path / "pictures").glob("*.png"))) >= 4


def test_batches_are_a_function_of_the_step(prepared):
    uninterrupted = continuous.build(prepared).train_data(0)
    batches = [next(uninterrupted) for _ in range(6)]
    resumed = next(continuous.build(prepared).train_data(5))
    assert batches[5].keys() == resumed.keys()
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, batches[5][name])
    # An epoch is 16 images: the same examples again, but with another augmentation.
    assert np.abs(batches[0]["image"] - batches[4]["image"]).max() > 0


@pytest.mark.parametrize("endless", [False, True])
def test_the_loss_falls_on_one_batch(endless, prepared):
    config = prepared.copy_and_resolve_references()
    config.data.endless, config.steps, config.batch_size = endless, 40, 4
    config.model.dims, config.loss.warmup = (16, 16, 32, 32), 40
    system = continuous.build(config)
    step = parallel.compile_step(training.make_step(system, 0, 0.0), devices=jax.devices()[:1])
    state = training.initial_state(system, *system.init(jax.random.key(0)), 0.0)
    state = parallel.replicate(state, devices=jax.devices()[:1])
    constants = parallel.replicate(system.constants(), devices=jax.devices()[:1])
    batch = parallel.shard(next(system.train_data(0)), devices=jax.devices()[:1])
    losses = []
    for _ in range(25):
        state, metrics = step(state, batch, constants)
        losses.append(float(metrics["distance"]))
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.8 * losses[0]


def test_endless_batches_contain_every_head(prepared, monkeypatch):
    def fake_example(head, key, size, num_surface_samples):
        return {"key": jax.random.key_data(key), "head": head}

    monkeypatch.setattr(rendering, "render_example", fake_example)
    batch, key = {"index": np.arange(5)}, jax.random.key(0)
    rendered = rendering.render_batch(batch, key, {"first": jnp.int32(1), "second": jnp.int32(2)}, 32, 4)
    np.testing.assert_array_equal(rendered["head"], [1, 1, 1, 2, 2])
    assert len(np.unique(rendered["key"], axis=0)) == 5
    config = prepared.copy_and_resolve_references()
    config.data.endless, config.head.names = True, ("makehuman", "ict", "makehuman")
    with pytest.raises(UserError, match="is too small for 3 heads"):
        continuous.build(config).train_data(0)
