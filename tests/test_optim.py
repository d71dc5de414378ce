"""Schedules and optimizers against closed forms."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from jaxface import optim
from jaxface.errors import UserError

PARAMS = {"encoder": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 2))}}


def config(**changes):
    values = dict(name="adamw", lr=0.1, schedule="constant", warmup=0, weight_decay=0.0, clip=0.0, betas=(0.9, 0.999))
    return ml_collections.ConfigDict({**values, "multipliers": {}, **changes})


def first_update(grads=None, **changes):
    transform = optim.optimizer(config(**changes), 10, 8)
    grads = grads or {
        "encoder": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "head": {"kernel": jnp.ones((2, 2))},
    }
    return transform.update(grads, transform.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"schedule": "cosine"}, [0, 0.05, 0.1, 0.05 * (1 + np.cos(np.pi / 8)), 0.05]),
        ({"schedule": "constant"}, [0, 0.05, 0.1, 0.1, 0.1]),
        ({"schedule": "step", "boundaries": (3, 6), "factor": 0.1}, [0, 0.05, 0.1, 0.01, 0.001]),
    ],
)
def test_schedules(changes, expected):
    rate = optim.schedule(config(warmup=2, **changes), 10, 8)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 3, 6)], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name, size", [("adamw", 0.1), ("adam", 0.1), ("rmsprop", 1.0), ("sgd", 0.1)])
def test_first_step_of_each_optimizer(name, size):
    np.testing.assert_allclose(first_update(name=name)["head"]["kernel"], -size, rtol=1e-4)


def test_decay_leaves_out_biases_and_is_decoupled_in_adamw():
    update = first_update(weight_decay=0.5)
    np.testing.assert_allclose(update["head"]["kernel"], -0.15, rtol=1e-4)
    np.testing.assert_allclose(update["encoder"]["bias"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(first_update(name="sgd", weight_decay=0.5)["head"]["kernel"], -0.15, rtol=1e-6)


def test_clip_and_groups():
    update = first_update(name="sgd", clip=1.0, multipliers={"encoder": 0.25, "encoder/bias": 0.5})
    np.testing.assert_allclose(update["head"]["kernel"], -0.1 / np.sqrt(10), rtol=1e-5)
    np.testing.assert_allclose(update["encoder"]["kernel"], -0.025 / np.sqrt(10), rtol=1e-5)
    np.testing.assert_allclose(update["encoder"]["bias"], -0.05 / np.sqrt(10), rtol=1e-5)
    assert optax.global_norm(update) < 0.1


@pytest.mark.parametrize("scaling, factor", [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_learning_rate_follows_the_batch_size(scaling, factor):
    assert optim.peak_rate(config(lr_scaling=scaling, lr_batch_size=16), 64) == pytest.approx(0.1 * factor)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_layerwise_methods_are_those_of_optax(name):
    official = {
        "lamb": optax.lamb(0.1, 0.9, 0.999, weight_decay=0.5),
        "lars": optax.lars(0.1, 0.5, momentum=0.9),
    }[name]
    matrices = {"encoder": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": 2 * jnp.ones((2, 2))}}
    grads = {"encoder": {"kernel": jnp.eye(2)}, "head": {"kernel": 3 * jnp.ones((2, 2))}}
    ours = optim.optimizer(config(name=name, weight_decay=0.5), 10, 8)
    states = ours.init(matrices), official.init(matrices)
    for _ in range(3):
        found, ours_state = ours.update(grads, states[0], matrices)
        expected, official_state = official.update(grads, states[1], matrices)
        states = ours_state, official_state
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    # Biases follow their own gradient: they have no trust ratio, and no decay.
    bias = first_update(name=name, weight_decay=0.5)["encoder"]["bias"]
    np.testing.assert_allclose(bias, -0.1, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lars"])
def test_first_moment_in_bfloat16(name):
    transform = optim.optimizer(config(name=name, first_moment_dtype="bfloat16"), 10, 8)
    state = transform.init(PARAMS)
    halves = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert len(halves) == len(jax.tree.leaves(PARAMS))
    updates, state = transform.update(PARAMS, state, PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "lion"}, "choose one of adamw, adam"),
        ({"schedule": "linear"}, "choose one of cosine"),
        ({"warmup": 10}, "not shorter than the run"),
        ({"lr_scaling": "cubic"}, "choose one of none, linear, sqrt"),
        ({"lr_scaling": "sqrt"}, "lr_batch_size: 0; set"),
        ({"name": "rmsprop", "first_moment_dtype": "bfloat16"}, "rmsprop has no first moment"),
        ({"multipliers": {"backbone": 0.25}}, "no parameter is below 'backbone'"),
    ],
)
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        first_update(**changes)
