"""The user's own data: text and `.pts` files give the same records, with mean face and flip map; error messages."""

import json
import os
import pathlib
import re

import cv2
import numpy as np
import pytest

from jaxface import prepared_data
from jaxface.data import faces, stream, symmetry
from jaxface.data.builders import landmark_folder
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


def save_face(path: pathlib.Path, points: np.ndarray) -> None:
    """An image with a white disc at each point."""
    image = np.full((150, 160, 3), 40, np.uint8)
    for x, y in points[np.isfinite(points).all(-1)]:
        cv2.circle(image, (round(x), round(y)), 2, (255, 255, 255), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def list_of(points: np.ndarray) -> str:
    return " ".join(map(str, points.ravel()))


def write_csv(root, names, shapes):
    header = "image," + ",".join(f"x{i},y{i}" for i in range(6)) + "\r\n"
    rows = [
        f"{name},{list_of(one).replace(' ', ',')}\r\n".replace("nan", "")
        for name, one in zip(names, shapes, strict=True)
    ]
    (root / "labels.csv").write_bytes((header + "".join(rows)).encode("utf-8-sig"))


def write_triples(root, names, shapes):
    flagged = [np.where(np.isfinite(one).all(-1, keepdims=True), np.c_[one, np.full(6, 2)], 0) for one in shapes]
    lines = [f"{name}\t{list_of(one)}" for name, one in zip(names, flagged, strict=True)]
    (root / "labels.txt").write_bytes("\r\n".join(lines).encode("utf-16"))


def write_xml(root, names, shapes):
    def part(k, x, y):
        return f"<part name='{k}' x='{x}' y='{y}'/>" if np.isfinite(x) else ""

    faces = [
        f"<image file='{name}'><box top='1' left='1' width='9' height='9'>"
        + "".join(part(k, x, y) for k, (x, y) in enumerate(one)) + "</box></image>"
        for name, one in zip(names, shapes, strict=True)
    ]  # fmt: skip
    (root / "faces.xml").write_text(f"<?xml version='1.0'?><dataset><images>{''.join(faces)}</images></dataset>")


def write_labelme(root, names, shapes):
    for name, one in zip(names, shapes, strict=True):
        points = [{"label": str(k), "points": [p.tolist()]} for k, p in enumerate(one) if np.isfinite(p).all()]
        content = {"shapes": points, "imagePath": pathlib.PurePath(name).name, "imageWidth": 160, "imageHeight": 150}
        (root / name.replace("\\", "/")).with_suffix(".json").write_text(json.dumps(content))


def write_coco(root, names, shapes):
    flagged = [np.where(np.isfinite(one).all(-1, keepdims=True), np.c_[one, np.full(6, 2)], 0) for one in shapes]
    images = [{"id": n, "file_name": name, "width": 160, "height": 150} for n, name in enumerate(names)]
    faces = [{"id": n, "image_id": n, "keypoints": one.ravel().tolist()} for n, one in enumerate(flagged)]
    (root / "person.json").write_text(json.dumps({"images": images, "annotations": faces}))


def write_pts(root, names, shapes):
    for name, one in zip(names, shapes, strict=True):
        rows = "".join(f"{x} {y}\n".replace("nan", "0") for x, y in one + 1)
        (root / name.replace("\\", "/")).with_suffix(".PTS").write_text(f"\ufeffn_points: 6 {{\n{rows}}}\n")


@pytest.mark.parametrize(
    "write_labels", [write_csv, write_triples, write_xml, write_labelme, write_coco, write_pts],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_every_format_keeps_people_and_missing_points_apart(tmp_path, write_labels):
    """Two people have files of the same names; one point is missing; the folder holds other files too."""
    root, shapes, names = tmp_path / "own", [], []
    for number in range(12):
        points = np.round(FACE + 2 * number, 1)
        points[5] = np.nan if number == 4 else points[5]
        shapes.append(points)
        names.append(f"{'anna' if number < 6 else 'bob'}\\shot[{number % 6}].png")
        save_face(root / names[-1].replace("\\", "/"), points)
    write_labels(root, names, shapes)
    (root / "README.txt").write_text("Annotated by hand.\nPlease cite us.\n")
    (root / "._labels.txt").write_bytes(b"\0\5\x16\7\0\2")
    info = prepare("landmark_folder", str(tmp_path / "data"), str(root))
    builder, seen = stream.open_dataset("landmark_folder", tmp_path / "data"), 0
    assert info.metadata["failed"] == {} and len(info.metadata["meanface"]) == 12
    for split in ("train", "test"):
        for record in builder.as_dataset(split=split).as_numpy_iterator():
            truth = shapes[names.index(record["name"].decode().replace("/", "\\"))]
            np.testing.assert_array_equal(record["valid"], np.isfinite(truth).all(-1))
            for x, y in np.round(record["landmarks"][record["valid"]]).astype(int):
                assert record["image"][y, x].min() > 200
            seen += 1
    assert seen == 12


def test_a_bad_label_or_image_costs_its_picture(tmp_path):
    write(tmp_path / "own", "pts")
    images = tmp_path / "own" / "images"
    jpeg = (images / "01.png").read_bytes()
    (images / "01.png").write_bytes(jpeg[: len(jpeg) // 2])
    (images / "02.pts").write_text("version: 1\n{\n1 2\n}\n")
    (images / "03.pts").write_text("no braces")
    (images / "04.png").unlink()
    info = prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))
    failed = info.metadata["failed"]
    assert set(failed) == {"images/01.png", "02.pts", "03.pts", "04.pts"}
    assert "truncated" in failed["images/01.png"] and "1 landmarks; expected 6" in failed["02.pts"]
    assert sum(split.num_examples for split in info.splits.values()) == COUNT - 4


@pytest.mark.parametrize(
    "lines, message",
    [
        (["00.png {}", "01.png {}"], "00.png may be anna/00.png or bob/00.png; write its path"),
        (["carl/00.png {}", "dora/00.png {}"], "carl/00.png: missing"),
    ],
)
def test_a_base_name_is_not_enough(tmp_path, lines, message):
    for person in ("anna", "bob"):
        for number in range(2):
            save_face(tmp_path / "own" / person / f"{number:02d}.png", FACE)
    (tmp_path / "own" / "labels.txt").write_text("\n".join(line.format(list_of(FACE)) for line in lines))
    with pytest.raises(UserError, match=message):
        prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))


def test_other_or_changed_files_do_not_give_the_first_data_set(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder, "text")
    data, text = str(tmp_path / "data"), tmp_path / "a" / "landmarks.txt"
    first = prepare("landmark_folder", data, str(tmp_path / "a"))
    assert prepare("landmark_folder", data, str(tmp_path / "b")).splits.keys() == first.splits.keys()  # the same files
    text.write_text(text.read_text().replace("0 ", "1 ", 1))
    with pytest.raises(UserError, match="/a has changed since; to make it again remove .*landmark_folder/1.0.0"):
        prepare("landmark_folder", data, str(tmp_path / "a"))
    (tmp_path / "b" / "images" / "00.png").unlink()
    with pytest.raises(UserError, match="was made from .*/a, not from .*/b"):
        prepare("landmark_folder", data, str(tmp_path / "b"))


@pytest.mark.parametrize("angle_deg", [0, 30, 90])
def test_the_crop_of_a_pair_of_points_is_a_square_of_one_size(angle_deg):
    direction = np.array([np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))])
    points = np.array([200.0, 200.0]) + 40 * direction * np.array([[-1], [1]])
    crop = faces.landmark_crop(points, 1.2, np.zeros((400, 400, 3), np.uint8))
    np.testing.assert_allclose(crop.high - crop.low, [160, 160])
    np.testing.assert_allclose((crop.high + crop.low) / 2, [200, 200])


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", "metadata.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_description_of_a_prepared_set_is_one_line(tmp_path, file, content):
    write(tmp_path / "own", "text")
    folder = pathlib.Path(prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own")).data_dir)
    (folder / file).write_bytes(content)

    def opened():
        stream.open_dataset("landmark_folder", tmp_path / "data")
        prepared_data.read_metadata("landmark_folder", tmp_path / "data")

    for read in (opened, lambda: prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))):
        with pytest.raises(UserError, match="landmark_folder/1.0.0.*: damaged .*; remove .* and prepare") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", "first half"])
@pytest.mark.parametrize("file", ["dataset_info.json", "landmark_folder-train.tfrecord-00000-of-00001"])
def test_a_prepared_set_without_all_of_its_files_is_one_line(tmp_path, file, content):
    write(tmp_path / "own", "text")
    folder = pathlib.Path(prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own")).data_dir)
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(whole[: len(whole) // 2] if content else b"")
    with pytest.raises(UserError, match="landmark_folder/1.0.0.*: damaged .*; remove .* and prepare") as caught:
        prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path / "own"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "/tmp/x"])
def test_a_name_leads_nowhere_else(tmp_path, name):
    write(tmp_path / "own", "text")
    with pytest.raises(UserError, match="is not a name; leave out"):
        prepare(f"landmark_folder/{name}", str(tmp_path / "data"), str(tmp_path / "own"))
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_names_of_wflw_and_very_long_ones_are_short_lines(tmp_path):
    root = tmp_path / "own"
    write(root, "pictures only")
    points = list_of(FACE)
    (root / "list.txt").write_text("".join(f"{points} images/{number:02d}.png\n" for number in range(COUNT)))
    with pytest.raises(UserError, match="the name of the image comes last; put it first"):
        landmark_folder.read_splits(root)
    (root / "list.txt").write_text(f"00.png {points}\n01.png {points}\n{'n' * 5000}.png {points}\n")
    _, problems = landmark_folder.read_splits(root)
    assert len(problems) == 1 and all(len(reason) < 300 for reason in problems.values())


def test_names_that_differ_in_the_form_of_accents_are_not_confused(tmp_path):
    root = tmp_path / "own"
    write(root, "pictures only")
    for name in ("jose\u0301.png", "jos\u00e9.png"):
        (root / "images" / name).write_bytes((root / "images" / "00.png").read_bytes())
    names = ("jos\u00e9", "05", "06")
    (root / "list.txt").write_text("".join(f"images/{name}.png {list_of(FACE)}\n" for name in names))
    splits, problems = landmark_folder.read_splits(root)
    assert sorted(path.name for faces in splits.values() for _, path, _ in faces) == ["05.png", "06.png"]
    assert len(problems) == 1 and "rename one" in problems["list.txt, line 1"]


def test_a_file_name_that_is_not_unicode_costs_its_picture(tmp_path):
    root = tmp_path / "own"
    write(root, "pts")
    for ending in (".png", ".pts"):
        source = root / "images" / f"03{ending}"
        try:
            source.rename(os.fsdecode(os.fsencode(root / "images") + b"/caf\xe9" + ending.encode()))
        except OSError:
            pytest.skip("the file system takes only Unicode names")
    info = prepare("landmark_folder", str(tmp_path / "data"), str(root))
    assert list(info.metadata["failed"].values()) == ["its file name is not valid Unicode; rename the file"]
    assert sum(split.num_examples for split in info.splits.values()) == COUNT - 1
