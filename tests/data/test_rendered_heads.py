"""The builder of rendered heads: every feature, determinism, and error messages."""

import numpy as np
import pytest

from jaxface.data import augment, stream
from jaxface.data.builders import rendered_heads
from jaxface.data.prepare import modules, prepare
from jaxface.errors import UserError
from jaxface.heads import noses, scenes
from jaxface.heads.canonical import queries
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import LAYOUT_68
from jaxface.systems.continuous import data

SIZE = 64


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The decoded training examples of a tiny data set in the order of generation."""
    folder = str(tmp_path_factory.mktemp("heads"))
    info = prepare("rendered_heads/makehuman", folder, examples=6, size=SIZE)
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 6, "test": 8}
    with pytest.raises(UserError, match="already prepared"):
        prepare("rendered_heads/makehuman", folder, examples=7)
    read = stream.open_dataset("rendered_heads/makehuman", folder)
    return list(read.as_dataset(split="train").as_numpy_iterator())


def test_features_are_consistent(examples):
    head = makehuman_head()
    for example in examples:
        assert example["image"].shape == (SIZE, SIZE, 3) and example["image"].std() > 5
        np.testing.assert_allclose(example["five"], LAYOUT_68.five_points(example["landmarks"]), rtol=1e-4)
        depth = example["landmarks_mm"][:, 2:]
        px = example["focal_px"] * example["landmarks_mm"][:, :2] / depth + example["center_px"]
        np.testing.assert_allclose(px, example["landmarks"], atol=1e-2)
        nose = noses.displacement(head, example["nose"])
        vertices = np.asarray(head.shape(example["identity"], example["expression"]) + nose)
        points = head.landmark_points(vertices, "68") @ example["rotation"].T * [1, -1, -1] + example["translation"]
        np.testing.assert_allclose(points, example["landmarks_mm"], atol=0.05)
        assert 15 < example["visible"].sum() <= 68 and 30 < example["dense_visible"].sum() <= 256
        assert (example["box"][2:] - example["box"][:2] > 0.3 * SIZE).all()
        assert np.abs(example["dense_queries"]).max() < 1.6 and example["dense"].shape == (256, 2)
        assert example["albedo"].shape == (10,) and np.abs(example["gaze"]).max() < 0.5
    seen = np.concatenate([example["dense_visible"] for example in examples])
    assert 0.3 < seen.mean() < 0.99


def test_images_are_reproducible(examples, tmp_path):
    prepare("rendered_heads/makehuman", str(tmp_path), examples=6, size=SIZE)
    read = stream.open_dataset("rendered_heads/makehuman", tmp_path).as_dataset(split="train")
    for one, other in zip(examples, read.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(one["landmarks"], other["landmarks"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_training_crops_keep_points_on_their_pixels(examples):
    """The image encodes positions (red is x, green is y), so the colour of the crop at a point is the point."""
    example = dict(examples[0])
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    example["image"] = np.stack([4 * x, 4 * y, 0 * x], axis=-1).astype(np.uint8)
    plain = {name: getattr(augment, name) for name in ("color", "degrade", "cutout")}
    try:
        for name in plain:
            setattr(augment, name, lambda image, rng: image)
        made = data.preprocess_train(example, 3, 128, 8)
        mirrored = [data.preprocess_train(example, seed, 128, 8) for seed in range(6)]
    finally:
        for name, function in plain.items():
            setattr(augment, name, function)
    inside = (example["landmarks"] > 1).all(-1) & (example["landmarks"] < SIZE - 2).all(-1)
    inside &= (np.abs(made["points"][:68]) < 0.95).all(-1)
    at = np.round((made["points"][:68][inside] + 1) * 64 - 0.5).astype(int)
    found = made["image"][at[:, 1], at[:, 0], :2] / 4
    np.testing.assert_allclose(found, example["landmarks"][inside], atol=1.0)
    signs = {float(np.sign(one["queries"][0, 0] * queries("68")[0, 0])) for one in mirrored}
    assert signs == {1.0, -1.0} and made["valid"].mean() > 0.9


@pytest.mark.parametrize(
    "dataset, options, message",
    [
        ("faces", {}, "unknown data set 'faces'; choose one of .*rendered_heads"),
        (
            "rendered_heads/marble",
            {},
            "no variant 'marble'; use rendered_heads, .*, rendered_heads/ict_portraits",
        ),
        ("rendered_heads", {"examples": 0}, "at least 1 example"),
        ("rendered_heads", {"colour": 1}, "has no option colour"),
        ("rendered_heads/ict", {"examples": 1}, "manual_dir|ICT-FaceKit"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, dataset, options, message):
    with pytest.raises(UserError, match=message) as caught:
        prepare(dataset, str(tmp_path / "data"), **options)
    assert "\n" not in str(caught.value)


def test_data_sets_are_the_builders():
    assert {"300w": "ibug300w", "rendered_heads": "rendered_heads", "wflw": "wflw"}.items() <= modules().items()


def test_portraits_name_their_head(tmp_path):
    config = rendered_heads.make(str(tmp_path), "ict_portraits").builder_config
    assert config.head == "ict" and config.capture == scenes.PORTRAIT
    assert rendered_heads.make(str(tmp_path)).builder_config.capture == scenes.UNCONSTRAINED
