"""What large runs rely on: reduced precision, recomputed activations, micro-batches, and equal back ends.

By default one system each; JAXFACE_ALL_SYSTEMS=1 runs all of them (minutes: `docs/scale.md`).
"""

import functools
import os

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface import parallel, system, training

ALL = bool(os.environ.get("JAXFACE_ALL_SYSTEMS"))
IMAGE_SYSTEMS = batches.CONFIGS[:4]


def some(*default: str, of: tuple[str, ...] = batches.CONFIGS) -> tuple[str, ...]:
    return of if ALL else default


def train(config, steps, count=8, devices=None, backend="pmap"):
    """The state and the losses after `steps` updates on one batch of `count` examples."""
    built = system.build(config, "the test")
    state = training.initial_state(built, *built.init(jax.random.key(0)), 0.0)
    state = parallel.replicate(state, backend, devices)
    constants = parallel.replicate(built.constants(), backend, devices)
    step = training.make_step(built, 0, 0.0, config.accumulate)
    step = parallel.compile_step(step, backend, devices)
    batch, losses = parallel.shard(batches.batch(config, count), backend, devices), []
    for _ in range(steps):
        state, metrics = step(state, batch, constants)
        losses.append(float(parallel.to_host(metrics["loss"])))
    return parallel.to_host(state), losses


def constant_rate(name, **model):
    """The smoke variant with a constant learning rate from the first step."""
    config = batches.config(name, **model)
    config.optim.update(warmup=0, schedule="constant")
    return config


@functools.cache
def reference(name):
    return train(constant_rate(name), 12, devices=jax.devices()[:1])[1]


@pytest.mark.parametrize("name", some("nphm_expression"))
def test_bfloat16_trains_as_float32_does(name):
    """Parameters and batch statistics stay float32; the loss falls as far."""
    config = constant_rate(name, dtype="bfloat16", remat=True)
    has_first_moment = config.optim.get("name") != "rmsprop"
    config.optim.first_moment_dtype = "bfloat16" if has_first_moment else "float32"
    state, losses = train(config, 12, devices=jax.devices()[:1])
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.model_state))} == {np.dtype("float32")}
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state.opt_state)) == has_first_moment
    fallen = reference(name)[0] - reference(name)[-1]
    assert np.isfinite(losses).all()
    assert abs(losses[-1] - reference(name)[-1]) < 0.15 * fallen


@pytest.mark.parametrize("name", some("nphm_expression"))
def test_recomputed_activations_change_nothing(name):
    """Same parameters from the same key, by the same paths, and the same losses up to rounding."""
    plain, remat = (system.build(constant_rate(name, remat=value), "the test") for value in (False, True))
    initial = [jax.jit(built.init)(jax.random.key(0)) for built in (plain, remat)]
    jax.tree.map(np.testing.assert_array_equal, *initial)
    losses = train(constant_rate(name, remat=True), 3, devices=jax.devices()[:1])[1]
    np.testing.assert_allclose(losses, reference(name)[:3], rtol=1e-3)


@pytest.mark.parametrize("name", some("nphm_identity", of=("continuous", "nphm_identity")))
def test_micro_batches_give_the_update_of_the_batch(name):
    """4 times 8 as 32 examples, where the loss is a mean over examples and nothing in it is random."""
    whole, parts = constant_rate(name), constant_rate(name)
    parts.accumulate = 4
    (expected, losses), (found, losses_found) = (
        train(config, 2, 32, devices=jax.devices()[:1]) for config in (whole, parts)
    )
    np.testing.assert_allclose(losses_found, losses, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found.params, expected.params)


@pytest.mark.parametrize("name", some(of=IMAGE_SYSTEMS))
def test_micro_batches_with_batch_statistics(name):
    """Statistics of micro-batches: the loss falls as that of the same number of devices does."""
    config = constant_rate(name)
    config.accumulate = 2
    losses = train(config, 12, devices=jax.devices()[:1])[1]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * (losses[0] + reference(name)[-1])


@pytest.mark.parametrize("name", some("nphm_expression"))
def test_backends_give_the_same_bits(name):
    found, expected = (train(constant_rate(name), 2, backend=backend) for backend in parallel.BACKENDS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
