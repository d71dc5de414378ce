"""The user's own data: text and `.pts` files give the same records, with mean face and flip map; error messages."""

import json
import pathlib
import re

import cv2
import numpy as np
import pytest

from jaxface.data import stream, symmetry
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.layouts import LAYOUT_68, LAYOUT_98
from launch.prepare import landmark_summary

# Two eyes, a nose, two mouth corners and a chin.
FACE = np.array([[60, 60], [100, 60], [80, 82], [65, 100], [95, 100], [80, 120.0]])
FLIP = [1, 0, 2, 4, 3, 5]
COUNT = 12


def write(root: pathlib.Path, kind: str) -> np.ndarray:
    """COUNT images of 160 x 150 px with one face each; returns its landmarks (COUNT,6,2)."""
    rng = np.random.default_rng(0)
    shapes = np.round(FACE + rng.normal(0, 1.5, (COUNT, 1, 2)) + rng.normal(0, 0.5, (COUNT, 6, 2)), 2)
    lines = []
    for number, points in enumerate(shapes):
        part = ("test" if number % 10 == 0 else "train") if kind == "folders" else "images"
        path = root / part / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (150, 160, 3), np.uint8))
        lines.append(f"{path.name} " + " ".join(map(str, points.ravel())))
        rows = "\n".join(f"{x} {y}" for x, y in points + 1)
        if kind in ("pts", "folders"):
            path.with_suffix(".pts").write_text(f"version: 1\nn_points: 6\n{{\n{rows}\n}}\n")
    if kind == "text":
        (root / "landmarks.txt").write_text("\n".join(lines))
    if kind == "lists":
        (root / "train.txt").write_text("\n".join(line for number, line in enumerate(lines) if number % 10))
        (root / "test.txt").write_text("\n".join(lines[::10]))
    return shapes


@pytest.mark.parametrize("kind", ["text", "lists", "pts", "folders"])
def test_text_and_pts_become_records(tmp_path, kind):
    shapes = write(tmp_path / "own", kind)
    prepare("landmark_folder/mine", str(tmp_path / "data"), str(tmp_path / "own"))
    builder = stream.open_dataset("landmark_folder/mine", tmp_path / "data")
    labels = []
    for split, numbers in {"train": [n for n in range(COUNT) if n % 10], "test": [0, 10]}.items():
        records = {one["name"].decode()[-6:-4]: one for one in builder.as_dataset(split=split).as_numpy_iterator()}
        assert sorted(records) == [f"{number:02d}" for number in numbers]
        for number in numbers:
            record, points = records[f"{number:02d}"], shapes[number]
            margin = np.ptp(points, axis=0) * 0.1
            low, high = points.min(0) - margin, points.max(0) + margin
            origin = np.trunc(low) - record["crop"][:2]
            np.testing.assert_allclose(record["crop_landmarks"], (points - low) / (high - low), atol=1e-6)
            np.testing.assert_allclose(record["landmarks"] + origin, points, atol=1e-4)
            np.testing.assert_allclose(record["box"] + np.tile(origin, 2), [*points.min(0), *points.max(0)], atol=1e-4)
            labels += [(points - low) / (high - low)] if split == "train" else []
    metadata = json.loads((builder.data_path / "metadata.json").read_text())
    np.testing.assert_allclose(metadata["meanface"], np.mean(labels, 0).ravel(), rtol=0, atol=1e-12)
    assert metadata["layout"] == "own" and metadata["flip"] == FLIP


def test_flip_file_comes_first(tmp_path):
    write(tmp_path / "own", "text")
    (tmp_path / "own" / "flip.txt").write_text("0 1 2 3 5 4\n")
    info = prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))
    assert info.metadata["flip"] == [0, 1, 2, 3, 5, 4]
    summary = landmark_summary(info.metadata)
    assert "is wrong): 0, 1, 2, 3, 4-5\n" in summary
    assert re.search(r"symmetric: landmark [01], (9|10)\d?\.\d% of the face", summary)
    assert "0: 2 3 1" in " ".join(summary.split())


@pytest.mark.parametrize("layout", [LAYOUT_68, LAYOUT_98], ids=lambda layout: layout.name)
def test_flip_of_a_face_that_is_nearly_symmetric(layout):
    rng = np.random.default_rng(1)
    half = rng.uniform(0, 1, (layout.count, 2))
    face = (half + half[layout.flip] * (-1, 1)) / 2 + rng.normal(0, 1e-4, half.shape)
    flip = symmetry.find_flip(face * (0.8, 1) + 0.5)
    np.testing.assert_array_equal(flip, layout.flip)
    assert symmetry.asymmetry(face, flip).max() < 0.01


def test_flip_is_its_own_inverse_even_with_ties():
    square = np.array([[0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [1, 0.0]])
    flip = symmetry.find_flip(square)
    np.testing.assert_array_equal(flip[flip], np.arange(6))
    assert symmetry.asymmetry(square, flip).max() == 0


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("landmarks.txt", "01.png 1 2 3 4 5 6\n02.png 1 2 3 4 900 6\n", r"02.png: landmark 2 at \(900, 6\) lies out"),
        ("landmarks.txt", "01.png 1 2 30 40 50 6\n02.png 1 2 30 40\n", "line 2: 2 landmarks; expected 3"),
        ("landmarks.txt", "01.png 1 2 3 4 5 6\n\n02.png 1 2 3 4 5\n", "line 3: not NAME and pairs of numbers"),
        ("landmarks.txt", "01.png 1 2 3 4 x 6\n", "line 1: not NAME and pairs"),
        ("landmarks.txt", "01.png\n02.png\n", "line 1: 01.png has no landmarks"),
        ("landmarks.txt", "01.png 0.1 0.2 0.3 0.4\n02.png 0.1 0.2 0.3 0.5\n", "give them in pixels"),
        ("landmarks.txt", "99.png 1 2 3 4 5 6\n", "99.png: missing; expected a folder of images"),
        ("landmarks.txt", "01.png 1 2 3 4 5 6\n", "1 labelled image; at least 2 are needed"),
        ("landmarks.txt", "", "the file is empty"),
        ("landmarks.txt", None, "neither a text file nor .pts files"),
        ("more.txt", "", "several text files"),
        ("images/01.png", "text", "01.png: not a readable image"),
        ("flip.txt", "0 1 2 3 4 4", "not a flip map; list 6 landmark numbers from 0"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, file, content, message):
    write(tmp_path / "own", "text")
    (tmp_path / "own" / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "own" / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))
    assert "\n" not in str(caught.value)
