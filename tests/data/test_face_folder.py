"""A folder of photos as a data set: its examples, the listed failures, sets of one person."""

import functools

import cv2
import numpy as np
import pytest

from jaxface.data import landmark_files, stream
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.systems.deep3d import data
from jaxface.systems.deep3d.preprocessing.alignment import aligned_face

POINTS = canonical.queries("68")[:, :2] * [50, -50] + [80, 60]


def detect(photo, box):
    """POINTS unless the image is black, moved to the centre of the box if there is one."""
    if photo.pixels.max() == 0:
        return None
    return POINTS if box is None else POINTS + np.reshape(box, (2, 2)).mean(0) - [80, 60]


TOOLS = {"detect": detect, "align": aligned_face}


def write_photo(path, value=120):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((120, 160, 3), value, np.uint8)
    cv2.imwrite(str(path), cv2.circle(image, (80, 66), 8, (0, 0, value), -1))
    return path


def read(folder, name, split="train"):
    return list(stream.open_dataset(name, folder).as_dataset(split=split).as_numpy_iterator())


def test_photos_and_failures(tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.jpg", "b.png", "own/c.jpg", "own/d.jpg", "e.jpg", ".hidden/f.jpg", "mask/a.jpg"):
        write_photo(photos / name)
    write_photo(photos / "black.png", 0)
    (photos / "damaged.jpg").write_bytes(b"not an image")
    (photos / "a.pts").write_text(
        "version: 1\nn_points: 68\n{\n" + "\n".join(f"{x + 1} {y + 1}" for x, y in POINTS) + "\n}"
    )
    (photos / "own" / "landmarks").mkdir()
    rows = [f"{x} {119 - y}" for x, y in POINTS + [3, -2]]
    (photos / "own" / "landmarks" / "c.txt").write_text("\n".join(rows))
    (photos / "e.pts").write_text("1 2\n3 4")
    (photos / "detections").mkdir()
    five = LAYOUT_68.five_points(POINTS)
    (photos / "detections" / "b.txt").write_text("\n".join(f"{x}\t{y}" for x, y in five))
    info = prepare("face_folder", str(tmp_path), str(photos), TOOLS, size=64)
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 3, "test": 1}
    assert set(info.metadata["failed"]) == {"black.png", "damaged.jpg", "e.jpg"}
    assert "no face" in info.metadata["failed"]["black.png"] and "2 points" in info.metadata["failed"]["e.jpg"]
    made = {
        example["name"].decode(): example
        for part in ("train", "test")
        for example in read(tmp_path, "face_folder", part)
    }
    assert set(made) == {"a.jpg", "b.png", "own/c.jpg", "own/d.jpg"}
    expected = aligned_face(np.zeros((120, 160, 3), np.uint8), POINTS, 64)
    np.testing.assert_allclose(made["a.jpg"]["landmarks"], expected["landmarks"], atol=1e-3)
    np.testing.assert_allclose(made["own/c.jpg"]["crop"][3:] - expected["crop"][3:], [3, 2], atol=1e-3)
    assert np.abs(made["b.png"]["crop"][3:] - expected["crop"][3:]).max() < 12
    assert made["a.jpg"]["image"].shape == (64, 64, 3) and made["a.jpg"]["skin"].shape == (64, 64, 1)
    again = prepare("face_folder", str(tmp_path), str(photos), TOOLS)
    assert again.splits["train"].num_examples == 3
    process = functools.partial(data.preprocess_train, size=48)
    batch = next(stream.train_stream(stream.open_dataset("face_folder", tmp_path), "train", 2, 0, 0, process))
    assert batch["image"].shape == (2, 48, 48, 3) and batch["skin"].shape == (2, 48, 48)
    assert batch["landmarks"].shape == (2, 68, 2) and batch["image"].dtype == batch["skin"].dtype == np.uint8


def test_sets_are_of_one_person(tmp_path):
    photos = tmp_path / "photos"
    for name, count in (("ann", 7), ("bob", 2), ("cis", 1)):
        for index in range(count):
            write_photo(photos / name / f"{index}.jpg", 60 + 10 * index)
    info = prepare("face_folder/sets", str(tmp_path), str(photos), TOOLS, size=32)
    train, test = (read(tmp_path, "face_folder/sets", split) for split in ("train", "test"))
    assert [example["name"] for example in train] == [b"ann", b"ann"] and [example["name"] for example in test] == [
        b"bob"
    ]
    assert list(info.metadata["failed"]) == ["cis"]
    levels = test[0]["image"].reshape(5, 32, 32, 3)[:, 2, 2].mean(-1)
    np.testing.assert_allclose(levels, [60, 70, 60, 70, 60], atol=3)
    made = data.preprocess_eval(test[0], 32)
    assert made["image"].shape == (5, 32, 32, 3) and made["landmarks"].shape == (5, 68, 2)


@pytest.mark.parametrize(
    "dataset, names, options, message",
    [
        ("face_folder/all", ["a.jpg"], {}, "no variant 'all'"),
        ("face_folder", [], {}, "is empty"),
        ("face_folder", ["a.doc"], {}, "has no photo"),
        ("face_folder", ["a.jpg"], {"size": 8}, "at least 32 px"),
        ("face_folder", ["black.png"], {}, "none of the 1 photos .* black.png: no face found"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, dataset, names, options, message):
    (tmp_path / "photos").mkdir()
    for name in names:
        write_photo(tmp_path / "photos" / "black.png", 0).rename(tmp_path / "photos" / name)
    with pytest.raises(UserError, match=message):
        prepare(dataset, str(tmp_path / "data"), str(tmp_path / "photos"), TOOLS, **options)


def test_the_box_of_five_points_holds_the_face():
    low, high = landmark_files.face_box(LAYOUT_68.five_points(POINTS) * 2 + 7).reshape(2, 2)
    inside = POINTS * 2 + 7
    assert (low < inside.min(0) + 1).all() and (high > inside.max(0) - 1).all() and low[1] < inside[:, 1].min() - 10
