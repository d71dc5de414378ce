"""Self-training in two tiny rounds: pseudo-labels, mixed batches, and resuming an interrupted run."""

import json

import jax
import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface import checkpoint, config_file, evaluation, inference, training
from jaxface.data import stream
from jaxface.errors import UserError
from jaxface.systems.pipnet import self_training, self_training_data

NAME = "rendered_heads/makehuman"
ROUNDS = ("std", "cls3")


def tiny_config():
    """Sixteen rendered heads with labels and the same sixteen without."""
    config = get_config("smoke")
    config.data.unlabelled = (NAME,)
    config.data.evaluate = ()
    config.steps = config.save_every = 4
    return config


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that is interrupted in its second round and then resumed: (workdir, trained folders, results)."""
    workdir, trained = tmp_path_factory.mktemp("rounds"), []

    def fit(system, config, folder):
        trained.append(folder.name)
        if trained == ["round_0", "round_1"]:
            raise KeyboardInterrupt
        return training.fit(system, config, folder)

    def run():
        return self_training.run(tiny_config(), workdir, fit, evaluation.compile_score, ROUNDS)

    with pytest.raises(KeyboardInterrupt):
        run()
    labels = (workdir / "round_1" / "pseudo_labels").rglob("*.tfrecord*")
    written = {path: path.stat().st_mtime_ns for path in labels}
    results = run()
    assert written and all(path.stat().st_mtime_ns == before for path, before in written.items())
    return workdir, trained, results


def test_interrupted_run_resumes(stopped):
    workdir, trained, results = stopped
    assert trained == ["round_0", "round_1", "round_1"]
    assert json.loads((workdir / "rounds.json").read_text()) == results
    assert [(result["round"], result["task"]) for result in results] == [(0, "std"), (1, "cls3")]
    assert checkpoint.steps(workdir / "round_1")[0] == 8  # Twice the examples: twice the steps.
    # Nothing is left to do: neither the trainer nor the scorer is called.
    assert self_training.run(tiny_config(), workdir, None, None, ROUNDS) == results


def test_labels_are_the_predictions_of_the_model(stopped):
    workdir, _, _ = stopped
    config = config_file.load(workdir / "round_1")
    source, pseudo_labels = self_training_data.open_unlabelled(config, NAME)
    records = stream.eval_stream(
        source, "train", 16, lambda example: {"image": example["image"], "box": example["box"]}
    )
    batch, labels = next(records), list(pseudo_labels.as_dataset(split="train").as_numpy_iterator())
    assert len(labels) == batch["mask"].sum() == 16
    predictor = inference.Predictor.from_workdir(workdir / "round_0")
    for i in (0, 5, 15):
        example = self_training_data.preprocess_unlabelled({name: batch[name][i] for name in ("image", "box")}, 64)
        expected = predictor.raw({"image": example["image"][None]})["landmarks"][0]
        np.testing.assert_allclose(labels[i]["crop_landmarks"], expected, atol=1e-4)
        np.testing.assert_allclose(labels[i]["landmarks"], example["corner"] + expected * example["extent"], atol=1e-2)


def test_mixed_batches_contain_both_sources_and_resume(stopped):
    workdir, _, _ = stopped
    config = config_file.load(workdir / "round_1")
    through = self_training_data.mixed_stream(config, 0)
    batches = [next(through) for _ in range(9)]
    tasks = np.concatenate([batch["task"] for batch in batches])
    assert {batch["image"].shape for batch in batches} == {(4, 64, 64, 3)}
    assert (tasks == 3).sum() == (tasks == 0).sum() == 18
    resumed = next(self_training_data.mixed_stream(config, 7))
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, batches[7][name])
    # The labels of unlabelled faces are the model's, which has hardly learnt: far from the truth.
    points = np.concatenate([batch["points"] for batch in batches])
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    assert np.median(eyes[tasks == 0]) > 2 * np.median(eyes[tasks == 3])
    config.data.task = "std"
    assert set(next(self_training_data.mixed_stream(config, 0))) == {"image", "points"}


@pytest.mark.parametrize("counts", [[3, 1], [3148, 202599], [5, 1, 7], [4]])
def test_shares_are_in_proportion_and_never_fall(counts):
    taken = np.array([self_training_data.shares(counts, k) for k in range(500)])
    assert (np.diff(taken, axis=0) >= 0).all() and (taken.sum(1) == np.arange(500)).all()
    exact = np.arange(500)[:, None] * np.array(counts) / sum(counts)
    assert np.abs(taken - exact).max() < len(counts)


@pytest.mark.parametrize(
    "changes, rounds, message",
    [
        ({"data.unlabelled": ()}, ROUNDS, "config.data.unlabelled is empty; name prepared data sets to label"),
        ({}, ("std", "cls4"), "the first must be std, and each one of std, cls1, cls2, cls3"),
        ({}, ("cls3", "std"), "the first must be std"),
        ({}, ("std", "std"), "has the finished rounds std,cls3"),
        ({"model.stride": 32}, ROUNDS, "need a grid that is a multiple of 4, not 2"),
    ],
)
def test_invalid_settings_raise_one_line(stopped, changes, rounds, message):
    config = tiny_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message) as caught:
        self_training.run(config, stopped[0], None, None, rounds)
    assert "\n" not in str(caught.value)


def test_a_trained_model_can_replace_the_first_round(stopped, tmp_path):
    config = tiny_config()
    config.data.evaluate = (NAME,)
    first = stopped[0] / "round_0"
    results = self_training.run(config, tmp_path, None, evaluation.compile_score, ("std",), first)
    error = results[0]["errors"][NAME]["nme_crop"]
    assert results[0]["workdir"] == str(first) and np.isfinite(error) and error > 10
    assert self_training.table(results).splitlines()[1].split() == ["0", "std", f"{error:.2f}"]


def test_gathered_batches_come_in_the_order_of_the_records(monkeypatch):
    """Two hosts, two batches of three each: host 0 reads records 0 to 5, host 1 records 6 to 11."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    batches = [np.array([0, 1, 2, 6, 7, 8]), np.array([3, 4, 5, 9, 10, 11])]
    np.testing.assert_array_equal(self_training._in_order(batches), np.arange(12))
