"""FaceSynthetics, Menpo 2D, 300-VW and FaceScape, written in their original layout and read back."""

import json
import pathlib

import cv2
import numpy as np

from jaxface.data import stream
from jaxface.data.builders import face_synthetics, facescape
from jaxface.data.prepare import prepare
from jaxface.heads import canonical

WIDTH, HEIGHT = 220, 180


def gradient() -> np.ndarray:
    """BGR, red is x and green is y."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([0 * x, y, x], -1).astype(np.uint8)


def points_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform((60, 50), (150, 130), (count, 2)).round(3)


def write_pts(path: pathlib.Path, points: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{x} {y}\n" for x, y in points + 1)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{rows}}}\n")


def read(root: pathlib.Path, dataset: str) -> dict[str, list[dict]]:
    prepare(dataset, str(root / "data"), str(root / "manual"))
    builder = stream.open_dataset(dataset, root / "data")
    return {split: list(builder.as_dataset(split=split).as_numpy_iterator()) for split in builder.info.splits}


def check(record: dict, points: np.ndarray) -> None:
    """The landmarks are at their positions in the record's image, whose colours encode those of the photo."""
    for (x, y), original in zip(record["landmarks"].round().astype(int), points, strict=True):
        np.testing.assert_allclose(record["image"][y, x, :2], original, atol=8)


def test_face_synthetics(tmp_path, monkeypatch):
    monkeypatch.setattr(face_synthetics, "TEST_EVERY", 3)
    manual = tmp_path / "manual"
    manual.mkdir()
    for number in range(4):
        cv2.imwrite(str(manual / f"{number:06d}.png"), gradient())
        cv2.imwrite(str(manual / f"{number:06d}_seg.png"), gradient()[..., 2] // 12)
        np.savetxt(manual / f"{number:06d}_ldmks.txt", points_of(70, number))
    found = read(tmp_path, "face_synthetics")
    assert [record["name"] for record in found["test"]] == [b"000000", b"000003"] and len(found["train"]) == 2
    for record in found["train"] + found["test"]:
        check(record, points_of(70, int(record["name"])))
        np.testing.assert_allclose(record["segmentation"][..., 0] * 12, record["image"][..., 0], atol=20)
    (manual / "000002_ldmks.txt").write_text("1 2")
    info = prepare("face_synthetics", str(tmp_path / "again"), str(manual))
    assert info.splits["train"].num_examples == 1 and "expected 70 lines" in info.metadata["failed"]["000002"]
    folder = stream.open_dataset("face_synthetics", tmp_path / "data").data_path
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["layout"] == "70"


def test_menpo_takes_its_variant_by_the_number_of_points(tmp_path):
    manual = tmp_path / "manual"
    for number in range(12):
        write_pts(manual / "any" / f"{number:02d}.pts", points_of(39 if number % 3 == 0 else 68, number))
        cv2.imwrite(str(manual / "any" / f"{number:02d}.jpg"), gradient())
    semifrontal, profile = read(tmp_path, "menpo2d"), read(tmp_path, "menpo2d/profile")
    assert {split: len(records) for split, records in semifrontal.items()} == {"train": 7, "test": 1}
    assert {split: len(records) for split, records in profile.items()} == {"train": 3, "test": 1}
    for record in semifrontal["train"] + profile["train"]:
        number = int(pathlib.Path(record["name"].decode()).stem)
        check(record, points_of(39 if number % 3 == 0 else 68, number))


def test_menpo_leaves_out_labels_of_another_size(tmp_path):
    manual = tmp_path / "manual"
    for number in range(12):
        write_pts(manual / f"{number:02d}.pts", points_of(5 if number == 4 else 68, number))
        cv2.imwrite(str(manual / f"{number:02d}.jpg"), gradient())
    (manual / "07.pts").write_text("{")
    (manual / "08.jpg").unlink()
    info = prepare("menpo2d", str(tmp_path / "data"), str(manual))
    assert sum(split.num_examples for split in info.splits.values()) == 9
    assert set(info.metadata["failed"]) == {"04.pts", "07.pts", "08.pts"}


def write_video(folder: pathlib.Path, frames: int) -> None:
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(str(folder / "vid.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for number in range(1, frames + 1):
        writer.write(gradient())
        write_pts(folder / "annot" / f"{number:06d}.pts", points_of(68, number))
    writer.release()


def test_300vw_reads_frames_in_order(tmp_path):
    for video, frames in (("001", 12), ("114", 3), ("203", 2)):
        write_video(tmp_path / "manual" / video, frames)
    found = read(tmp_path, "300vw")
    assert {split: len(records) for split, records in found.items()} == {
        "train": 2, "test": 5, "test_1": 3, "test_2": 2,
    }  # fmt: skip
    assert sorted(record["frame"] for record in found["train"]) == [1, 11]
    for record in found["test"]:
        check(record, points_of(68, int(record["frame"])))
    (tmp_path / "manual" / "114" / "annot" / "000009.pts").write_text(
        (tmp_path / "manual" / "114" / "annot" / "000001.pts").read_text()
    )
    (tmp_path / "manual" / "001" / "annot" / "000011.pts").write_text("n_points: 68")
    (tmp_path / "manual" / "203" / "annot" / "000001.pts").unlink()
    info = prepare("300vw", str(tmp_path / "other"), str(tmp_path / "manual"))
    assert {split: info.splits[split].num_examples for split in info.splits} == {
        "train": 1, "test": 4, "test_1": 3, "test_2": 1,
    }  # fmt: skip
    failed = info.metadata["failed"]
    assert "ends before frame 9" in failed["114/000004 and later"] and "not a .pts file" in failed["001/000011"]


def test_facescape_projects_its_meshes(tmp_path):
    """One person in front of two cameras, of which one sees the back of the head, and a person for testing."""
    manual = tmp_path / "manual"
    rng = np.random.default_rng(0)
    vertices = rng.uniform((-90, -120, 0), (90, 120, 60), (facescape.MESH_VERTICES, 3))
    landmarks = np.array(facescape.LANDMARKS.split(), int)
    vertices[landmarks] = canonical.queries("68") * 100
    text = "".join(f"v {x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in vertices)
    intrinsics = [[120, 0, 110], [0, 120, 90], [0, 0, 1.0]]
    front = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 600.0]]
    back = [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 600.0]]
    params = {}
    for view, (extrinsics, valid) in enumerate(((front, True), (back, True), (front, False))):
        params |= {f"{view}_K": intrinsics, f"{view}_Rt": extrinsics, f"{view}_distortion": [0.0] * 5}
        params |= {f"{view}_width": WIDTH, f"{view}_height": HEIGHT, f"{view}_valid": valid}
    for person in ("1", "2"):
        meshes = manual / "facescape_trainset" / person / "models_reg"
        meshes.mkdir(parents=True)
        for name in ("1_neutral", "16_mouth_stretch"):
            (meshes / f"{name}.obj").write_text(text)
        folder = manual / "fsmview_trainset" / person / "1_neutral"
        folder.mkdir(parents=True)
        (folder / "params.json").write_text(json.dumps(params))
        for view in range(3):
            cv2.imwrite(str(folder / f"{view}.jpg"), gradient(), [cv2.IMWRITE_JPEG_QUALITY, 100])
    scale, offset = 0.5, [10.0, 20.0, 30.0]
    pose = [scale, np.c_[np.eye(3), offset].tolist()]
    (manual / "Rt_scale_dict.json").write_text(json.dumps({"1": {"1": pose}, "2": {"1": pose}}))
    for person in ("1", "2"):
        # An expression without its mesh, and one without a pose.
        for name in ("3_smile", "16_mouth_stretch"):
            (manual / "fsmview_trainset" / person / name).mkdir()
            (manual / "fsmview_trainset" / person / name / "params.json").write_text(json.dumps(params))
    found = read(tmp_path, "facescape")
    failed = json.loads((stream.open_dataset("facescape", tmp_path / "data").data_path / "metadata.json").read_text())[
        "failed"
    ]
    assert "3_smile.obj: missing" in failed["1/3_smile"] and "no scale and pose" in failed["2/16_mouth_stretch"]
    assert {split: [record["name"] for record in records] for split, records in found.items()} == {
        "train": [b"2/1_neutral/0.jpg"],
        "test": [b"1/1_neutral/0.jpg"],
    }
    (record,) = found["train"]
    world = (vertices - offset) / scale
    expected = world[:, :2] * [120, -120] / (600 - world[:, 2:]) + [110, 90]
    origin = expected[landmarks][0] - record["landmarks"][0]
    np.testing.assert_allclose(record["landmarks"] + origin, expected[landmarks], atol=1e-3)
    # The mesh of this test is the template: vertices keep their places on it.
    nearest = np.abs(expected[:, None] - (record["dense"][:40] + origin)).sum(-1).argmin(0)
    np.testing.assert_allclose(record["dense_queries"][:40], vertices[nearest] / 100, atol=0.02)
