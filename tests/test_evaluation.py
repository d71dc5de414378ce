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


def test_the_worst_examples_are_kept_over_all_batches(tmp_path):
    ranking = evaluation.Ranking(lambda arrays: arrays["nme"])
    errors = np.random.default_rng(0).permutation(np.linspace(0, 0.2, 40))
    errors[3] = np.nan
    for part in np.split(np.arange(40), [15, 30]):
        pictures = np.broadcast_to(part[:, None, None, None] / 40, (len(part), 4, 4, 3))
        ranking.add({"nme": errors[part]}, pictures)
    expected = [index for index in np.argsort(-errors) if index != 3][: evaluation.NUM_WORST]
    assert [number for _, number, _ in ranking.worst] == expected
    assert all(picture[0, 0, 0] == number / 40 for _, number, picture in ranking.worst)
    evaluation.write_pictures(ranking, tmp_path, "wflw:test_blur")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wflw_test_blur_ced.png", "wflw_test_blur_worst.png"]
