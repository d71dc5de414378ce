"""The stream of prepared data sets: order, resuming, padding and unreadable records."""

import io
import pathlib

import jax
import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxface.data import datasets, stream
from jaxface.errors import UserError

COUNT = 11


class Squares(tfds.core.GeneratorBasedBuilder):
    """Eleven images of one colour each; the bytes of number `broken` are not an image."""

    VERSION = tfds.core.Version("1.0.0")
    broken = -1

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "number": np.int64}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            image = np.full((4, 5, 3), (number, 2 * number, 200), np.uint8)
            yield number, {"image": io.BytesIO(b"not an image") if number == self.broken else image, "number": number}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("data")
    Squares(data_dir=path).download_and_prepare()
    return path


def process(example, seed):
    return {"pixel": example["image"][0, 0].astype(np.float32), "number": example["number"], "seed": np.int64(seed)}


def train(folder, step, seed=3):
    return stream.train_stream(stream.open_dataset("squares", folder), "train", 4, seed, 4 * step, process)


def test_batch_is_a_function_of_seed_and_step(folder):
    through = train(folder, 0)
    batches = [next(through) for _ in range(9)]
    for step in (1, 2, 3, 8):
        for name, array in next(train(folder, step)).items():
            np.testing.assert_array_equal(array, batches[step][name])
    numbers = np.concatenate([batch["number"] for batch in batches])
    assert set(numbers[:COUNT]) == set(numbers[COUNT : 2 * COUNT]) == set(range(COUNT))
    assert not np.array_equal(numbers[:COUNT], numbers[COUNT : 2 * COUNT])
    assert len(np.unique(np.concatenate([batch["seed"] for batch in batches]))) == 36
    pixels = np.concatenate([batch["pixel"] for batch in batches])
    np.testing.assert_array_equal(pixels, np.stack([numbers, 2 * numbers, np.full(36, 200)], -1))
    assert not np.array_equal(next(train(folder, 0, seed=4))["number"], batches[0]["number"])


@pytest.mark.parametrize("hosts", [1, 3, 12])
def test_evaluation_sees_each_example_once_on_any_number_of_hosts(folder, monkeypatch, hosts):
    monkeypatch.setattr(stream.jax, "process_count", lambda: hosts)
    seen, lengths = [], set()
    for host in range(hosts):
        monkeypatch.setattr(stream.jax, "process_index", lambda host=host: host)
        batches = list(stream.eval_stream(stream.open_dataset("squares", folder), "train", 3, lambda e: process(e, 0)))
        lengths.add(len(batches))
        for batch in batches:
            assert batch["pixel"].shape == (3, 3)
            seen += batch["number"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(COUNT))
    assert len(lengths) == 1


def mixed(folder, monkeypatch, batch_size: int, hosts: int, step: int, count: int) -> dict[str, np.ndarray]:
    """Batches (count,B,…) of all hosts together, mixed from two sources with shares 2 to 1."""
    config = ml_collections.ConfigDict({"batch_size": batch_size, "seed": 3})
    splits = [datasets.Split(stream.open_dataset("squares", folder), "train")] * 2
    processes = [lambda example, seed, n=n: {**process(example, seed), "source": np.int64(n)} for n in range(2)]
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    found = []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        batches = datasets.mixed_batches(config, splits, step, processes, (2, 1))
        found.append([next(batches) for _ in range(count)])
    return {
        name: np.stack([np.concatenate([part[name] for part in parts]) for parts in zip(*found, strict=True)])
        for name in found[0][0]
    }


@pytest.mark.parametrize("batch_size", [12, 10])
def test_the_batch_of_all_hosts_does_not_depend_on_their_number(folder, monkeypatch, batch_size):
    """Both where each host has the same composition in every batch, and where it has not; also from a later step."""
    one = mixed(folder, monkeypatch, batch_size, 1, 0, 6)
    assert 2 * (one["source"] == 1).sum() == (one["source"] == 0).sum()
    assert len(set(zip(one["source"].ravel(), one["seed"].ravel(), strict=True))) == 6 * batch_size
    for step in (0, 4):
        two = mixed(folder, monkeypatch, batch_size, 2, step, 6 - step)
        for name, array in one.items():
            np.testing.assert_array_equal(two[name], array[step:])


def test_missing_set_and_split(folder):
    with pytest.raises(UserError, match="unknown data set 'circles'; prepare it in"):
        stream.open_dataset("circles", folder)
    with pytest.raises(UserError, match="no split 'test'"):
        next(stream.eval_stream(stream.open_dataset("squares", folder), "test", 2, lambda e: process(e, 0)))


@pytest.mark.parametrize(("damage", "record"), [("image", 7), ("flipped", 7), ("truncated", 10)])
def test_unreadable_record_is_named(tmp_path, monkeypatch, damage, record):
    monkeypatch.setattr(Squares, "broken", 7 if damage == "image" else -1)
    Squares(data_dir=tmp_path).download_and_prepare()
    file = next(tmp_path.glob("squares/1.0.0/*tfrecord*"))
    content = bytearray(file.read_bytes())
    inside = len(content) * 7 // 10
    if damage == "flipped":
        content[inside] ^= 1
    file.write_bytes(content[:-10] if damage == "truncated" else content)
    with pytest.raises(UserError, match=rf"squares/1.0.0, split 'train': record {record} cannot be read") as caught:
        list(stream.eval_stream(stream.open_dataset("squares", tmp_path), "train", 3, lambda e: process(e, 0)))
    assert "\n" not in str(caught.value) and "{{" not in str(caught.value)
