"""Evaluation: each example once, padding left out, EMA parameters, results written."""

import json

import numpy as np
import pytest
import toy

from jaxface import checkpoint, evaluation, training
from jaxface.errors import UserError


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_each_example_counts_once(tmp_path, backend):
    config = toy.config({"steps": 3, "backend": backend})
    system = toy.build(config)
    training.fit(system, config, tmp_path)
    results = evaluation.evaluate(system, config, tmp_path)
    params, model_state = checkpoint.load_params(tmp_path)
    batch = toy.examples(99, 0, 10)
    expected = np.abs(system.predict(params, model_state, batch["x"]) - batch["y"]).mean()
    assert results["held_out"]["count"] == 10
    np.testing.assert_allclose(results["held_out"]["error"], expected, rtol=1e-6)
    assert json.loads((tmp_path / "eval.json").read_text()) == results


def test_unknown_evaluator_is_refused(tmp_path):
    config = toy.config()
    with pytest.raises(UserError, match="not evaluated on 'wflw'; choose from held_out"):
        evaluation.evaluate(toy.build(config), config, tmp_path, ["wflw"])
    with pytest.raises(UserError, match="names no test sets"):
        evaluation.evaluate(toy.build(config), config, tmp_path, [])
