"""The benchmark of a training step has what the loss reads."""

import importlib

import jax
import pytest

from jaxface import parallel, training


@pytest.mark.parametrize("name", ["continuous", "pipnet", "jvcr", "nphm"])
def test_the_training_step_of_a_benchmark_can_be_traced(monkeypatch, name):
    module = importlib.import_module(f"launch.benchmarks.{name}")
    traced = []

    def trace(system, config, params, model_state, batch):
        state = jax.eval_shape(lambda: training.initial_state(system, params, model_state, 0.0))
        step = training.make_step(system, 0, 0.0)
        whole = jax.vmap(step, (None, 0, None), axis_name=parallel.AXIS)
        jax.eval_shape(whole, state, jax.tree.map(lambda leaf: leaf[None], batch), {})
        traced.append(name)
        return lambda: None

    monkeypatch.setattr(module, "training_run", trace)
    benchmarks = module.benchmarks()
    while not traced:
        next(benchmarks)
