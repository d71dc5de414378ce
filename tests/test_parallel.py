"""Placement and compilation: both back ends give the same bits, one device the same metrics."""

import jax
import numpy as np
import pytest
import toy

from jaxface import parallel, training
from jaxface.errors import UserError


def train(backend: str, devices, steps: int = 4):
    config = toy.config()
    system = toy.build(config)
    state = training.initial_state(system, *system.init(jax.random.key(0)), config.ema)
    state = parallel.replicate(state, backend, devices)
    constants = parallel.replicate(system.constants(), backend, devices)
    step = parallel.compile_step(training.make_step(system, 0, config.ema), backend, devices)
    batches = system.train_data(0)
    with jax.transfer_guard("disallow"):
        for _ in range(steps):
            state, metrics = step(state, parallel.shard(next(batches), backend, devices), constants)
    return parallel.to_host((state, metrics))


def test_backends_agree_bitwise():
    jax.tree.map(np.testing.assert_array_equal, train("pmap", None), train("shard_map", None))


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_one_device_gives_the_same_metrics(backend):
    """The noise on the loss depends on the device, and moves it by less than a hundredth."""
    (state, metrics), (alone, metrics_alone) = train(backend, None), train(backend, jax.devices()[:1])
    np.testing.assert_allclose(state.model_state["mean"], alone.model_state["mean"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], metrics_alone["loss"], rtol=1e-2)


@pytest.mark.parametrize("backend", parallel.BACKENDS)
def test_replicated_copies_survive_donation(backend):
    original = {"a": jax.numpy.ones(3), "b": jax.numpy.ones(2)}
    placed = parallel.replicate({"params": original, "ema": original}, backend)
    double = parallel.compile_step(lambda state, batch, constants: jax.tree.map(lambda x: 2 * x, state), backend)
    placed = double(placed, parallel.shard({"x": np.zeros((2, 1))}, backend), {})
    np.testing.assert_array_equal(original["a"], 1)
    np.testing.assert_array_equal(parallel.to_host(placed)["ema"]["a"], 2)


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="multiple of 2"):
        parallel.local_batch_size(7)
    with pytest.raises(UserError, match="does not divide over 2 devices"):
        parallel.shard({"x": np.zeros((3, 1))})
    with pytest.raises(UserError, match="unknown backend 'pjit'"):
        parallel.replicate({}, "pjit")


def test_prefetch_hands_on_batches_and_errors():
    def batches():
        yield {"x": np.full((2, 1), 7.0, np.float32)}
        raise UserError("record 3 cannot be read")

    with parallel.prefetch(batches(), 2) as taken:
        np.testing.assert_array_equal(next(taken)["x"].ravel(), 7)
        with pytest.raises(UserError, match="record 3"):
            next(taken)


@pytest.mark.parametrize("flags", [("host:1", 2, 2), ("host:1", 0, -1), ("", 2, 0)])
def test_incomplete_cluster_flags_are_refused(flags):
    with pytest.raises(UserError, match="--coordinator HOST:PORT"):
        parallel.initialize(*flags)
