"""Annotated data sets, written in their original layout and read back: every feature, the mean face, error messages.

The images encode positions (red is x, green is y), so that a record's region shows where it was cut.
"""

import json
import pathlib

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from jaxface.data import stream
from jaxface.data.builders import aflw
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.layouts import wflw_to_ibug

WIDTH, HEIGHT = 220, 180
BLUR = "WFLW_annotations/list_98pt_test/list_98pt_test_blur.txt"
LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
RNG = np.random.default_rng(5)


def rgb() -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([x, y, 0 * x], -1).astype(np.uint8)


def write_image(path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])


def random_points(count: int) -> np.ndarray:
    return np.round(RNG.uniform((60, 50), (150, 130), (count, 2)), 3)


def write_text(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def expected(name, crop, box, landmarks, labels, **more) -> dict:
    """Expected contents of a record, in pixels of the photo."""
    return {"name": name, "crop": crop, "box": box, "landmarks": landmarks, "crop_landmarks": labels, **more}


def between(points, x0, y0, x1, y1) -> np.ndarray:
    return (points - (x0, y0)) / (x1 - x0, y1 - y0)


def write_300w(root: pathlib.Path, scale: float = 1.1) -> dict[str, list[dict]]:
    def face(folder: str, stem: str, ending: str) -> dict:
        points = random_points(68)
        rows = "".join(f"{x} {y}\n" for x, y in points)
        write_text(root / folder / f"{stem}.pts", f"version: 1\nn_points:  68\n{{\n{rows}}}\n")
        write_image(root / folder / f"{stem}{ending}")
        whole = [(int(x), int(y)) for x, y in points]
        corners = []
        for axis, size in enumerate((WIDTH, HEIGHT)):
            low, high = min(p[axis] for p in whole), max(p[axis] for p in whole)
            start = max(0, low - int((scale - 1) / 2 * (high - low)))
            corners.append((start, start + min(int((high - low) * scale), size - start - 1)))
        crop = corners[0][0], corners[1][0], corners[0][1], corners[1][1]
        box = [*points.min(0) - 1, *points.max(0) - 1]
        return expected(f"{folder}/{stem}{ending}", crop, box, points - 1, between(np.array(whole), *crop))

    train = [face("afw", "a_1", ".jpg"), face("helen/trainset", "b", ".jpg"), face("lfpw/trainset", "c", ".png")]
    common = [face("helen/testset", "d", ".jpg"), face("lfpw/testset", "e", ".png")]
    challenge = [face("ibug", "image_092 _01", ".jpg")]
    return {"train": train, "test": common + challenge, "test_common": common, "test_challenge": challenge}


def write_wflw(root: pathlib.Path, protocol: bool = False) -> dict[str, list[dict]]:
    subsets = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
    flags = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
    lines = {"train": [], "test": []}
    found = {"train": [], "test": []}
    annotations = root / "WFLW_annotations"
    write_image(root / "WFLW_images" / "1--Handshaking" / "two_faces.jpg")
    for number in range(4):
        split = "train" if number < 2 else "test"
        points = random_points(98)
        points[7] = -3.5, HEIGHT + 40
        box = np.array([60, 48, 152, 130 + number])
        attribute = number % 2
        row = [*points.ravel(), *box, *(int(i == attribute) for i in range(6)), "1--Handshaking/two_faces.jpg"]
        lines[split].append(" ".join(map(str, row)))
        points[7] = 0, HEIGHT
        w, h = (box[2:] - box[:2]) * 0.1
        low = (60 - w, 48 + h) if protocol else (60 - w, 48 - h)
        rectangle = (*low, 152 + w, 130 + number + h)
        labels = between(points, *rectangle)
        if protocol:
            points, labels = wflw_to_ibug(points), wflw_to_ibug(labels)
            labels[[37, 38, 40, 41, 43, 44, 46, 47]] *= 0.999
        example = expected(
            f"1--Handshaking/two_faces.jpg#{number % 2}", np.trunc(rectangle), box, points, labels,
            **{name: i == attribute for i, name in enumerate(flags)},
        )  # fmt: skip
        found[split].append(example)
    for split, rows in lines.items():
        write_text(annotations / f"list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt", "\n".join(rows))
    for i, subset in enumerate(subsets):
        chosen = lines["test"][i % 2 : i % 2 + 1]
        write_text(annotations / f"list_98pt_test/list_98pt_test_{subset}.txt", "\n".join(chosen) + "\n")
        found[f"test_{subset}"] = [found["test"][i % 2]]
    return found


def write_cofw(root: pathlib.Path, protocol: bool = False) -> dict[str, list[dict]]:
    found = {}
    for split, suffix in (("train", "Tr"), ("test", "T")):
        boxes, shapes = np.array([[62, 50, 90, 84], [58, 44, 100, 93.0]]), np.zeros((2, 87))
        found[split] = []
        with h5py.File(root / f"COFW_{split}_color.mat", "w") as file:
            cells = file.create_dataset(f"Is{suffix}", (1, 2), h5py.ref_dtype)
            for i, image in enumerate((rgb(), rgb()[..., 0])):
                points, occluded = random_points(29), RNG.random(29) < 0.3
                shapes[i] = [*points.T.ravel(), *occluded]
                cells[0, i] = file.create_dataset(f"#refs#/{i}", data=image.T).ref
                x, y, w, h = boxes[i]
                more = {"visible": ~occluded}
                if protocol:
                    w, h, more, points = w + 4, h + 4, {}, random_points(68)
                    w, h = (w, h) if split == "test" else boxes[i, 2:]
                grow = np.array([w, h]) * 0.15 * protocol
                rectangle = (x - grow[0], y - grow[1], x + w - 1 + grow[0], y + h - 1 + grow[1])
                labels, landmarks = between(points, *rectangle), points - 1
                if protocol and split == "train":
                    labels = landmarks = np.full((68, 2), np.nan)
                elif protocol:
                    (root / "cofw68_test_annotations").mkdir(exist_ok=True)
                    marks = root / "cofw68_test_annotations" / f"{i + 1}_points.mat"
                    scipy.io.savemat(marks, {"Points": points, "Occ": np.zeros((68, 1))})
                box = np.array([x, y, x + w - 1, y + h - 1]) - 1
                name = f"COFW_{split}_color.mat#{i + 1}"
                found[split].append(expected(name, np.trunc(rectangle), box, landmarks, labels, **more))
            file[f"bboxes{suffix}"], file[f"phis{suffix}"] = boxes.T, shapes.T
        if protocol and split == "test":
            scipy.io.savemat(root / "cofw68_test_bboxes.mat", {"bboxes": boxes + [0, 0, 4, 4]})
    return found


def write_aflw(root: pathlib.Path) -> dict[str, list[dict]]:
    names = np.array([[["0/image1.jpg"]], [["2/image2.jpg"]], [["2/image2.jpg"]], [["3/image3.jpg"]]], dtype=object)
    shapes = np.array([random_points(19).T.ravel() for _ in range(4)])
    shapes[1, 0], shapes[1, 19] = -4, HEIGHT + 9
    boxes = np.array([[60, 150, 45, 130], [50, WIDTH + 7, 40, 140], [61, 151, 52, 133], [-2, 160, 30, 150.0]])
    order = np.array([[3, 1, 4, 2]])
    scipy.io.savemat(
        root / "AFLWinfo_release.mat",
        {"bbox": boxes, "data": shapes, "nameList": names, "ra": order, "mask_new": np.ones((4, 19))},
    )
    found = {"train": [], "test": []}
    for rank, index in enumerate(order[0] - 1):
        name = str(names[index, 0, 0])
        write_image(root / "flickr" / name)
        x0, x1, y0, y1 = boxes[index]
        rectangle = (max(x0, 0), y0, min(x1, WIDTH - 1), y1)
        points = np.clip(shapes[index].reshape(2, 19).T, 0, (WIDTH, HEIGHT))
        example = expected(f"{name}#{index + 1}", rectangle, [x0, y0, x1, y1], points, between(points, *rectangle))
        found["train" if rank < 3 else "test"].append(example)
    return found


def write_lapa(root: pathlib.Path) -> dict[str, list[dict]]:
    found = {}
    for split in ("train", "val", "test"):
        found[split] = []
        for number in range(2):
            points = random_points(106)
            rows = "".join(f"{x} {y}\n" for x, y in points)
            write_text(root / split / "landmarks" / f"{number}_0.txt", f"106\n{rows}")
            write_image(root / split / "images" / f"{number}_0.jpg")
            w, h = (points.max(0) - points.min(0)) * 0.1
            (x0, y0), (x1, y1) = points.min(0), points.max(0)
            crop = (x0 - w, y0 - h, x1 + w, y1 + h)
            labels = between(points, *crop)
            found[split].append(expected(f"{number}_0", np.trunc(crop), [x0, y0, x1, y1], points, labels))
    return found


def write_celeba(root: pathlib.Path) -> dict[str, list[dict]]:
    write_text(root / "celeba_bboxes.txt", "000001.jpg 60 40 159 139\n000002.jpg 5 30 144 169\n")
    for name in ("000001.jpg", "000002.jpg"):
        write_image(root / "img_celeba" / name)
    first = {"name": "000001.jpg", "crop": (50, 55, 169, 149), "box": (60, 40, 159, 139)}
    second = {"name": "000002.jpg", "crop": (0, 51, 158, 179), "box": (5, 30, 144, 169)}
    return {"train": [first, second]}


SETS = {
    "300w": (write_300w, {}, "68"),
    "300w/gssl": (write_300w, {"scale": 1.3}, "68"),
    "wflw": (write_wflw, {}, "98"),
    "wflw/68": (write_wflw, {"protocol": True}, "68"),
    "cofw": (write_cofw, {}, "29"),
    "cofw/68": (write_cofw, {"protocol": True}, "68"),
    "aflw": (write_aflw, {}, "19"),
    "lapa": (write_lapa, {}, "106"),
    "celeba": (write_celeba, {}, ""),
}


@pytest.mark.parametrize("dataset", SETS)
def test_every_feature(tmp_path, monkeypatch, dataset):
    write, options, layout = SETS[dataset]
    monkeypatch.setattr(aflw, "TRAIN", 3)
    (tmp_path / "manual" / "inside").mkdir(parents=True)
    truth = write(tmp_path / "manual" / "inside", **options)
    prepare(dataset, str(tmp_path / "data"), str(tmp_path / "manual"))
    builder = stream.open_dataset(dataset, tmp_path / "data")
    assert set(builder.info.splits) == set(truth)
    for split, faces_of in truth.items():
        records = {record["name"].decode(): record for record in builder.as_dataset(split=split).as_numpy_iterator()}
        assert set(records) == {face["name"] for face in faces_of}
        for face in faces_of:
            check_record(records[face["name"]], face)
    metadata = json.loads((builder.data_path / "metadata.json").read_text())
    assert metadata["layout"] == layout
    labels = [face["crop_landmarks"] for face in truth["train"] if "crop_landmarks" in face]
    if labels and np.isfinite(labels).all():
        np.testing.assert_allclose(metadata["meanface"], np.mean(labels, 0).ravel(), rtol=0, atol=1e-12)
    else:
        assert "meanface" not in metadata


def check_record(record: dict, face: dict) -> None:
    """Checks a record: its image is the right region, and all coordinates are pixels of it."""
    origin = np.asarray(face["crop"][:2], int) - record["crop"][:2]
    for name, value in face.items():
        shift = origin if name == "landmarks" else np.tile(origin, 2) if name in ("box", "crop") else 0
        if name != "name":
            np.testing.assert_allclose(
                record[name] + shift, value, rtol=0, atol=2e-4 if name != "crop_landmarks" else 1e-6
            )
    assert set(record) == set(face) | {"image"} | ({"valid"} if "landmarks" in face else set())
    if "valid" in record:
        np.testing.assert_array_equal(record["valid"], np.isfinite(face["landmarks"]).all(-1))
    x0, y0, x1, y1 = record["crop"]
    height, width = record["image"].shape[:2]
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    for x, y in ((x0, y0), (x1 - 1, y1 - 1), (0, 0), (width - 1, height - 1)):
        np.testing.assert_allclose(record["image"][y, x, :1], origin[0] + x, atol=8)
        grey = record["name"] in (b"COFW_train_color.mat#2", b"COFW_test_color.mat#2")
        np.testing.assert_allclose(record["image"][y, x, 1:2], origin[grey ^ 1] + (x if grey else y), atol=8)


@pytest.mark.parametrize(
    "dataset, file, content, message",
    [
        ("300w", "ibug/image_092 _01.pts", "version: 1\n", "not a .pts file"),
        ("300w", "ibug/image_092 _01.jpg", None, "ibug/image_092_01: has no image; expected afw/"),
        ("300w/inner", "afw/a_1.pts", None, "use 300w, 300w/gssl"),
        ("wflw", BLUR, "1 2\n", "line 1: 2 values; expected 207"),
        ("wflw", BLUR, "7 " * 206 + "x.jpg", "x.jpg: .* that is not in the test list"),
        ("wflw", "WFLW_images/1--Handshaking/two_faces.jpg", "text", "not a readable image"),
        ("cofw", "COFW_test_color.mat", None, "has no COFW_test_color.mat; expected COFW_train_color.mat and"),
        ("cofw", "COFW_test_color.mat", "text", "COFW_test_color.mat: damaged or not a MATLAB file"),
        ("cofw/68", "cofw68_test_bboxes.mat", None, "has no cofw68_test_bboxes.mat; expected .*1_points.mat"),
        ("aflw", "AFLWinfo_release.mat", None, "has no AFLWinfo_release.mat; expected AFLWinfo_release.mat and flickr"),
        ("celeba", "celeba_bboxes.txt", "000001.jpg 300 300 400 400", "lies outside the 220 x 180 image"),
        ("celeba", "celeba_bboxes.txt", "\n", "has no face"),
    ],
)  # fmt: skip
def test_missing_and_wrong_files_are_one_line(tmp_path, dataset, file, content, message):
    root = tmp_path / "manual"
    root.mkdir()
    write, options, _ = SETS.get(dataset, SETS["300w"])
    write(root, **options)
    (root / file).unlink()
    if content is not None:
        (root / file).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare(dataset, str(tmp_path / "data"), str(root))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def failures(dataset: str, root: pathlib.Path, name: str = "data") -> tuple[int, dict[str, str]]:
    """Number of records of the data set prepared from `root`/manual, and what was left out."""
    info = prepare(dataset, str(root / name), str(root / "manual"))
    return sum(split.num_examples for split in info.splits.values()), dict(info.metadata["failed"])


@pytest.mark.parametrize(
    "dataset, file, content, name, reason, lost",
    [
        ("300w", "helen/testset/d.pts", "version: 1\n{\n1 2\n}\n", "helen/testset/d.jpg", "2 numbers; expected 68", 2),
        ("300w", "helen/testset/d.jpg", None, "helen/testset/d", "has no image", 2),
        ("wflw", LIST, "{}\n1 2 x.jpg", "list_98pt_rect_attr_train.txt, line 3", "3 values; expected 207", 0),
        ("wflw", LIST, "x{}", "1--Handshaking/two_faces.jpg#0", "not only numbers", 1),
        ("wflw", BLUR, "{}" + "7 " * 206 + "x.jpg", "x.jpg", "not in the test list", 0),
        ("cofw/68", "cofw68_test_annotations/2_points.mat", None, "COFW_test_color.mat#2", "missing", 1),
        ("cofw/68", "cofw68_test_annotations/1_points.mat", "x", "COFW_test_color.mat#1", "not a MATLAB file", 1),
        ("aflw", "flickr/0/image1.jpg", None, "0/image1.jpg#1", "missing", 1),
        ("lapa", "val/landmarks/1_0.txt", "106\n1 2\n", "1_0", "does not hold 106 and 106 points", 1),
        ("lapa", "val/landmarks/1_0.txt", "106\n" + "nan nan\n" * 106, "1_0", "no landmark is annotated", 1),
        ("celeba", "celeba_bboxes.txt", "{}000003.jpg 1 2 3 4\n000001.jpg 1 2", "000003.jpg", "missing", 0),
        ("celeba", "celeba_bboxes.txt", "{}000001.jpg 1 2 x 4", "000001.jpg", "not four numbers", 0),
    ],
)  # fmt: skip
def test_a_bad_label_costs_its_face_only(tmp_path, monkeypatch, dataset, file, content, name, reason, lost):
    monkeypatch.setattr(aflw, "TRAIN", 3)
    root = tmp_path / "manual"
    root.mkdir()
    write, options, _ = SETS[dataset]
    total = sum(map(len, write(root, **options).values()))
    previous = (root / file).read_text("latin1")
    (root / file).unlink()
    if content is not None:
        (root / file).write_text(content.replace("{}", previous))
    count, failed = failures(dataset, tmp_path)
    assert count == total - lost
    assert reason in failed[name]


def test_a_damaged_image_of_cofw_is_left_out(tmp_path):
    root = tmp_path / "manual"
    root.mkdir()
    total = sum(map(len, write_cofw(root).values()))
    with h5py.File(root / "COFW_train_color.mat", "a") as file:
        del file["#refs#/1"]
    count, failed = failures("cofw", tmp_path)
    assert count == total - 1 and "the image is damaged" in failed["COFW_train_color.mat#2"]
