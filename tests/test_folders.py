import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxface import detection, folders, photo, video
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks


def predict(source, boxes=None, layout="68"):
    """Finds a face in each box that is given, and none otherwise."""
    if layout != "68":
        raise UserError(f"unknown layout {layout!r}")
    if isinstance(source, list):
        return [predict(one, box) for one, box in zip(source, boxes, strict=True)]
    loaded = photo.load(source)
    boxes = [] if boxes is None else detection.check_boxes(boxes, loaded.width, loaded.height)
    points = np.full((68, 2), 1 / 3)
    return [FaceLandmarks(box=box, extent=box, layout="68", points=points, sigma=np.ones(68)) for box in boxes]


def infer(source, output, boxes=None, smooth=False, **options):
    failures = []
    if boxes is not None:
        (source / "b.json").write_text(json.dumps(boxes))
    listed = None if boxes is None else source / "b.json"
    return folders.infer_files(predict, source, output, listed, smooth, options, failures.append), failures


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.png", "c.bmp"):
        Image.new("RGB", (60, 40), "gray").save(folder / name)
    return folder


def names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_bad_file_does_not_stop_the_others(source, tmp_path):
    (source / "bad.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("")
    (source / ".hidden.png").write_text("")
    boxes = {"a.png": [5, 5, 30, 35], "b.jpg": [500, 5, 530, 35]}
    summary, failures = infer(source, tmp_path / "out", boxes)
    assert sorted(summary.failed) == ["b.jpg", "bad.jpg"] and len(failures) == 2
    assert "outside the image" in summary.failed["b.jpg"]
    assert str(summary).startswith("3 photos, 1 face, 2 failed: b.jpg (") and "notes.txt" in str(summary)
    assert "\n" not in str(summary)
    assert names(tmp_path / "out") == {
        name + end for name in ("a", "c.png", "c.bmp") for end in (".json", "_overlay.png")
    }
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (record["image"], record["width"], record["height"]) == ("a.png", 60, 40)
    assert record["faces"][0]["box"] == [5, 5, 30, 35] and record["faces"][0]["points"][0] == [0.333, 0.333]
    assert json.loads((tmp_path / "out" / "c.bmp.json").read_text())["faces"] == []


def test_an_input_is_never_overwritten_and_a_second_run_has_the_same_summary(source):
    Image.new("RGB", (60, 40), "red").save(source / "a_overlay.png")
    (source / "b.json").write_text("{}")
    before = {path: path.read_bytes() for path in source.iterdir()}
    first, _ = infer(source, source, {})
    there = names(source)
    second, _ = infer(source, source, {})
    assert all(path.read_bytes() == data for path, data in before.items())
    assert {"a.png.json", "a_overlay.json", "b.jpg.json"} <= there
    assert first.counts == second.counts and there == names(source) and not first.failed


def test_files_and_layer_of_a_face_are_written(source, tmp_path):
    red = np.full((10, 10, 4), [255, 0, 0, 255], np.uint8)

    def with_files(picture, boxes=None):
        if isinstance(picture, list):
            return [with_files(one) for one in picture]
        faces = predict(picture, np.array([[0, 0, 30, 35], [0, 0, 25, 30]]))
        files = {".obj": b"v", "_depth.png": b"p"}
        return [dataclasses.replace(face, files=files, layer=(red, (-5, 30))) for face in faces]

    def run(output):
        return folders.infer_files(with_files, source, output, None, False, {}, print)

    assert not run(tmp_path / "out").failed
    written = {name + end for name in ("a", "a_2") for end in (".obj", "_depth.png")}
    assert written < names(tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "a_overlay.png"))
    assert (drawn[38, 2] == [255, 0, 0]).all() and not (drawn[38, 6] == [255, 0, 0]).all()
    entry = json.loads((tmp_path / "out" / "a.json").read_text())["faces"][1]
    assert entry.keys() == {"box", "extent", "layout", "points", "sigma"}
    assert run(source).counts == run(source).counts  # outputs next to the inputs are not read as inputs
    Image.new("RGB", (60, 40)).save(source / "c_depth.png")
    (source / "c.bmp").unlink()
    assert "overwrite an input" in run(source).failed["c.png"]


def test_unavoidable_name_collisions_fail(tmp_path):
    for name in ("a.png", "a.jpg", "a.png_overlay.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / name)
    summary, _ = infer(tmp_path, tmp_path)
    assert list(summary.failed) == ["a.png"] and "overwrite" in summary.failed["a.png"]


@pytest.mark.parametrize("smooth", [False, True])
def test_a_clip_gives_a_line_for_every_frame_and_a_clip(source, tmp_path, smooth):
    with video.ClipWriter(source / "v.mp4", 10.0, 64, 48) as writer:
        for _ in range(3):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    summary, _ = infer(source, tmp_path / "out", {"v.mp4": [5, 5, 30, 35]}, smooth)
    assert "1 video, 3 frames" in str(summary)
    lines = [json.loads(line) for line in (tmp_path / "out" / "v.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time"]) for line in lines] == [(0, 0), (1, 0.1), (2, 0.2)]
    assert all(len(line["faces"]) == 1 for line in lines)
    assert len(list(video.open_clip(tmp_path / "out" / "v_overlay.mp4").frames())) == 3


def test_mistakes_that_end_the_run(source, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        infer(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UserError, match="no photo and no video"):
        infer(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="unknown layout"):
        infer(source, tmp_path / "out", layout="70")
    with pytest.raises(UserError, match="folder cannot be created"):
        infer(source, source / "a.png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"none.png": [1, 2, 3, 4]}', '{"a.png": [1, 2, 3]}', '{"a.png": [1, 2, NaN, 4]}']
    + ['{"a.png": [1, 2, 30, 40], "a.png": [5, 6, 30, 40]}']
    + ['{"a.png": [9, 2, 3, 4]}', '{"a.png": "face"}', '{"a.png": [[1, 2, 3, 4], [1, 2, 3, 4]]}', '{"a.png": null}'],
)
def test_bad_boxes_are_one_line(source, text):
    (source / "b.json").write_text(text)
    with pytest.raises(UserError, match="b.json") as caught:
        folders.read_boxes(source / "b.json", source)
    assert "\n" not in str(caught.value)


def test_boxes_are_those_of_the_files_whatever_leads_to_them(source):
    (source / "below").mkdir()
    (source / "below" / "c.png").write_bytes((source / "a.png").read_bytes())
    names = {"./a.png": [1, 2, 30, 40], str(source / "b.jpg"): [5, 6, 30, 40], "below/c.png": [7, 8, 30, 40]}
    (source / "b.json").write_text(json.dumps(names))
    found = {name: box.tolist() for name, box in folders.read_boxes(source / "b.json", source).items()}
    assert found == {"a.png": [1, 2, 30, 40], "b.jpg": [5, 6, 30, 40]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_boxes_are_read_in_every_unicode_encoding(source, encoding):
    (source / "b.json").write_bytes('{"a.png": [1, 2, 30, 40], "é": [1, 2, 3, 4]}'.encode(encoding))
    assert {name: box.tolist() for name, box in folders.read_boxes(source / "b.json", source).items()} == {
        "a.png": [1, 2, 30, 40]
    }


def test_arrays_go_through_as_they_are(tmp_path):
    np.savez(tmp_path / "in.npz", image=np.ones((2, 3)))
    folders.infer_arrays(lambda arrays: {"twice": 2 * arrays["image"]}, tmp_path / "in.npz", tmp_path / "out.npz")
    assert np.array_equal(np.load(tmp_path / "out.npz")["twice"], np.full((2, 3), 2, np.float32))


@pytest.mark.parametrize("content", [None, b"", b"no arrays", {"a": np.array([None])}, {"a": np.ones(3, np.uint8)}])
def test_other_arrays_are_one_line(tmp_path, content):
    if isinstance(content, dict):
        np.savez(tmp_path / "in.npz", **content)
    elif content is not None:
        (tmp_path / "in.npz").write_bytes(content)
    with pytest.raises(UserError, match="in.npz") as caught:
        folders.infer_arrays(dict, tmp_path / "in.npz", tmp_path / "out.npz")
    assert "\n" not in str(caught.value)


def test_arrays_that_do_not_fit_a_network_name_their_file(tmp_path):
    def raw(arrays):
        raise UserError("arrays: they do not fit the network")

    np.savez(tmp_path / "in.npz", image=np.ones((2, 3)))
    with pytest.raises(UserError, match="in.npz: arrays: they do not fit"):
        folders.infer_arrays(raw, tmp_path / "in.npz", tmp_path / "out.npz")


def test_five_points_next_to_a_photo_locate_its_face(source, tmp_path):
    """boxes.json comes first; a malformed file is the failure of its photo."""
    (source / "detections").mkdir()
    for name in ("a", "b"):
        (source / "detections" / f"{name}.txt").write_text("20 15\n30 15\n25 20\n21 26\n29 26\n")
    (source / "detections" / "c.txt").write_text("1 2\n")
    given = {}

    def located(loaded, boxes=()):
        for box in boxes if isinstance(loaded, list) else []:
            given[np.shape(box)] = box
        return [[]] * len(loaded) if isinstance(loaded, list) else []

    listed = source / "b.json"
    listed.write_text(json.dumps({"b.jpg": [5, 5, 30, 35]}))
    summary = folders.infer_files(located, source, tmp_path / "out", listed, False, {}, lambda line: None)
    assert sorted(summary.failed) == ["c.bmp", "c.png"] and "1 points; expected 5" in summary.failed["c.png"]
    assert given[5, 2][2].tolist() == [25, 20] and given[(4,)].tolist() == [5, 5, 30, 35]


def person(photos, boxes, layout="68"):
    """A face in every photo that has a box; its track is the number of the photo, so that the order shows."""
    found = [predict(one, box, layout) for one, box in zip(photos, boxes, strict=True)]
    return [[dataclasses.replace(face, track=number) for face in faces] for number, faces in enumerate(found)]


def test_photos_of_one_person_are_passed_together(source, tmp_path):
    (source / "bad.jpg").write_bytes(b"no picture")
    (source / "film.mp4").write_bytes(b"")
    listed, failures = tmp_path / "b.json", []
    listed.write_text(json.dumps({"a.png": [5, 5, 30, 35], "c.png": [5, 5, 40, 35]}))
    summary = folders.infer_multiview(person, source, tmp_path / "out", listed, {}, failures.append)
    assert summary.counts == {"photo": 4, "face": 2} and list(summary.failed) == ["bad.jpg"] == [failures[0][:7]]
    assert summary.ignored == ["film.mp4"]
    names = ("a", "b", "c.bmp", "c.png")
    faces = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["faces"] for name in names}
    assert [faces[name][0]["track"] for name in ("a", "c.png")] == [0, 3] and faces["b"] == []


def test_one_person_needs_a_folder_with_readable_photos(source, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.jpg").write_bytes(b"no picture")
    for wrong, message in ((source / "a.png", "not a folder"), (tmp_path / "bad", "none of its photos")):
        with pytest.raises(UserError, match=message):
            folders.infer_multiview(person, wrong, tmp_path / "out", None, {}, print)


def test_a_link_to_itself_and_a_pipe_are_ignored(source, tmp_path):
    (source / "loop.png").symlink_to(source / "loop.png")
    os.mkfifo(source / "pipe.jpg")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.json").symlink_to(out / "a.json")
    summary, failures = infer(source, out)
    assert summary.counts["photo"] == 4 and summary.ignored == ["loop.png", "pipe.jpg"] and not failures
    assert (out / "a.json").is_symlink() and (out / "a.png.json").is_file()


def test_a_folder_of_other_files_names_one(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "iphone.HEIC").write_bytes(b"")
    with pytest.raises(UserError, match="no photo and no video but 'iphone.HEIC', which is neither"):
        infer(tmp_path / "in", tmp_path / "out")
