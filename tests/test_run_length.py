"""Lengths in epochs become steps of the actual data and batch; steps that are given, or that a run began with, stay."""

import json

import ml_collections
import pytest

from configs.pipnet import get_config
from jaxface import run_length
from jaxface.errors import UserError


def config(**changes):
    values = {
        "steps": 0, "epochs": 60.0, "min_steps": 0, "examples": 0, "batch_size": 16, "eval_every": 0,
        "eval_every_epochs": 2.0, "data": {"dir": "data", "datasets": ("faces",)},
        "optim": {"warmup": 0, "warmup_epochs": 1.0, "boundaries": (), "boundaries_epochs": (30, 50)},
    }  # fmt: skip
    config = ml_collections.ConfigDict(values)
    config.update_from_flattened_dict(changes)
    return config.lock()


def lengths(config):
    return config.steps, config.optim.warmup, config.optim.boundaries, config.eval_every


@pytest.mark.parametrize(
    "examples, changes, expected",
    [
        (3148, {}, (11760, 196, (5880, 9800), 392)),
        (3148, {"batch_size": 1024}, (180, 3, (90, 150), 6)),
        (54, {"batch_size": 1024}, (3, 1, (2, 3), 1)),
        (54, {}, (180, 3, (90, 150), 6)),
        (54, {"min_steps": 3000}, (3000, 50, (1500, 2500), 100)),
        (3148, {"steps": 600}, (600, 10, (300, 500), 20)),
        (3148, {"optim.boundaries": (7,), "eval_every": 9}, (11760, 196, (7,), 9)),
        (3148, {"epochs": 0.0, "steps": 5}, (5, 196, (5880, 9800), 392)),
        (0, {}, (0, 0, (), 0)),
        (0, {"steps": 600}, (600, 10, (300, 500), 20)),
    ],
)
def test_steps_of_epochs(examples, changes, expected):
    resolved = run_length.in_steps(config(**changes), examples)
    assert lengths(resolved) == expected
    assert lengths(run_length.in_steps(resolved, examples)) == expected


def test_examples_are_those_of_the_prepared_training_split(tmp_path):
    folder = tmp_path / "faces" / "1.0.0"
    folder.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["30", "24"]}, {"name": "test", "shardLengths": ["9"]}]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    prepared = config(**{"data.dir": str(tmp_path)})
    resolved = run_length.resolve(prepared)
    assert (resolved.examples, resolved.steps) == (54, 180)
    assert run_length.described(resolved) == "180 steps in all, 16 examples each: 53.3 epochs of 54 examples"
    assert run_length.resolve(config(**{"data.dir": str(tmp_path), "data.datasets": ("faces:test",)})).examples == 9
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run_length.resolve(prepared)


def test_a_run_of_unknown_length_is_refused():
    with pytest.raises(UserError, match="config.epochs: 60 epochs of unknown size.*prepare it, or set config.steps"):
        run_length.check(run_length.resolve(config()))
    run_length.check(run_length.resolve(config(examples=100)))


def test_a_run_keeps_the_steps_that_it_began_with():
    """Those of an earlier version, whose files gave the steps of `own` and of the published runs themselves."""
    earlier = ml_collections.ConfigDict({"steps": 11220, "batch_size": 16, "optim": {"boundaries": (5610, 9350)}})
    kept = run_length.continued(get_config("own"), earlier)
    assert (kept.steps, kept.optim.boundaries) == (11220, (5610, 9350))
    began = run_length.in_steps(get_config("own"), 54)
    assert run_length.continued(get_config("own"), began).steps == 3000
    changed = get_config("own")
    changed.epochs = 10.0
    assert run_length.continued(changed, began).steps == 0
    longer = get_config("own")
    longer.steps = 5000
    assert run_length.continued(longer, began).steps == 5000
