"""Rendered sets: one person in five images, ground truth consistent with the images, and batches of sets."""

import functools

import numpy as np
import pytest

from jaxface.data import stream
from jaxface.data.builders.rendered_sets import PER_SET
from jaxface.data.prepare import prepare
from jaxface.heads import noses
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.deep3d import data

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("sets"))
    info = prepare("rendered_sets/makehuman", folder, examples=2, size=SIZE)
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 2, "test": 8}
    return folder


def test_images_show_their_ground_truth(folder):
    head = makehuman_head()
    for example in stream.open_dataset("rendered_sets/makehuman", folder).as_dataset(split="test").as_numpy_iterator():
        nose = np.asarray(noses.displacement(head, example["nose"]))
        for number in range(PER_SET):
            vertices = np.asarray(head.shape(example["identity"], example["expression"][number])) + nose
            points = head.landmark_points(vertices, "68") @ example["rotation"][number].T * [1, -1, -1]
            points += example["translation"][number]
            px = example["focal_px"][number] * points[:, :2] / points[:, 2:] + example["center_px"][number]
            np.testing.assert_allclose(px, example["landmarks"][number], atol=0.02)
        images = example["image"].reshape(PER_SET, SIZE, SIZE, 3).astype(float)
        assert all(np.abs(images[i] - images[i - 1]).mean() > 5 for i in range(PER_SET))


def test_batches_of_sets(folder):
    builder = stream.open_dataset("rendered_sets/makehuman", folder)
    batch = next(stream.train_stream(builder, "train", 2, 0, 0, functools.partial(data.preprocess_train, size=48)))
    assert set(batch) == {"image", "skin", "landmarks"}
    assert batch["image"].shape == (2, PER_SET, 48, 48, 3) and batch["skin"].shape == (2, PER_SET, 48, 48)
    spread = batch["landmarks"].reshape(-1, 68, 2)
    assert np.abs(spread.mean(1) - 112).max() < 60 and spread.std(1).min() > 20
    batch = next(stream.eval_stream(builder, "test", 8, lambda example: data.preprocess_eval(example, 48)))
    assert batch["identity"].shape[0] == 8 and batch["expression"].shape[:2] == (8, PER_SET) and batch["mask"].all()
