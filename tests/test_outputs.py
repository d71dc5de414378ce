"""Files that no earlier run of jaxface wrote are never overwritten."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxface import folders, meshes, outputs, photo
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks

BOX = np.array([1.0, 1.0, 9.0, 9.0])


def predict(source, boxes=None):
    """One face with two files of its own in every photo; a list of photos gives a list."""
    if isinstance(source, list):
        return [predict(one) for one in source]
    del boxes
    photo.load(source)
    files = {".obj": b"v 0 0 0", "_depth.png": b"depth"}
    points = np.ones((68, 2))
    return [FaceLandmarks(box=BOX, extent=BOX, layout="68", points=points, sigma=np.ones(68), files=files)]


def run(source, output):
    return folders.infer_files(predict, source, output, None, False, {}, print)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_annotations_in_the_folder_survive_and_a_second_run_writes_the_same_files(tmp_path):
    Image.new("RGB", (30, 20), "gray").save(tmp_path / "img.jpg")
    labelme = {"shapes": [], "imagePath": "img.jpg"}
    (tmp_path / "img.json").write_text(json.dumps(labelme))
    before = content(tmp_path)
    assert str(run(tmp_path, tmp_path)) == "1 photo, 1 face, 1 ignored: img.json"
    first = content(tmp_path)
    assert first.keys() - before.keys() == {f"img.jpg{end}" for end in (".json", "_overlay.png", ".obj", "_depth.png")}
    assert all(first[name] == data for name, data in before.items())
    listed = json.loads(first["img.jpg.json"])["files"]
    assert listed == ["img.jpg_overlay.png", "img.jpg.obj", "img.jpg_depth.png"]
    assert run(tmp_path, tmp_path).counts == {"photo": 1, "face": 1} and content(tmp_path) == first


@pytest.mark.parametrize("name", ["img.json", "img_overlay.png", "img.obj", "img_depth.png"])
def test_no_file_of_the_user_is_overwritten_in_another_folder(tmp_path, name):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    output.mkdir()
    Image.new("RGB", (30, 20), "gray").save(source / "img.jpg")
    (output / name).write_bytes(b"mine")
    summary = run(source, output)
    assert (output / name).read_bytes() == b"mine"
    if name in ("img.json", "img_overlay.png"):
        assert (output / "img.jpg.json").is_file() and not summary.failed
    else:
        assert f"{name} would overwrite a file that is not a result of jaxface" in summary.failed["img.jpg"]
        assert content(output).keys() == {name}


def test_an_annotation_is_not_taken_for_a_result_nor_a_photo_named_like_one(tmp_path):
    for name in ("a.png", "a_overlay.png"):
        Image.new("RGB", (30, 20), "gray").save(tmp_path / name)
    (tmp_path / "a.json").write_text(json.dumps({"shapes": []}))
    assert run(tmp_path, tmp_path / "out").counts["photo"] == 2


def test_meshes_of_earlier_runs_are_overwritten_and_others_are_not(tmp_path):
    mesh = meshes.Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32))
    ours, foreign = tmp_path / "a.ply", tmp_path / "b.ply"
    writer = outputs.Writer(tmp_path)
    writer.write(ours, meshes.encode(mesh, ".ply"))
    foreign.write_bytes(b"ply\nformat ascii 1.0\n")
    ours.with_suffix(".png").write_bytes(b"")
    outputs.Writer(tmp_path).check([ours, ours.with_suffix(".png"), tmp_path / "new.ply"])
    for path in (foreign, ours):
        with pytest.raises(UserError, match=f"{path.name} would overwrite"):
            outputs.Writer(tmp_path, [ours]).check([path])


def test_arrays_are_written_to_a_new_file_or_to_an_earlier_output(tmp_path):
    np.savez(tmp_path / "in.npz", image=np.ones((2, 3)))
    for _ in range(2):
        folders.infer_arrays(dict, tmp_path / "in.npz", tmp_path / "out.npz")
    with pytest.raises(UserError, match="in.npz: exists and is not an output of jaxface"):
        folders.infer_arrays(dict, tmp_path / "in.npz", tmp_path / "in.npz")


def test_the_second_face_of_a_photo_does_not_overwrite_the_first_of_another(tmp_path):
    for name in ("a.png", "a_2.png"):
        Image.new("RGB", (30, 20), "gray").save(tmp_path / name)

    def two(source, boxes=None):
        if isinstance(source, list):
            return [two(one) for one in source]
        return [dataclasses.replace(face, files={".obj": b"v"}) for face in 2 * predict(source)]

    summary = folders.infer_files(two, tmp_path, tmp_path / "out", None, False, {}, print)
    (reason,) = summary.failed.values()  # of either photo: they are written at the same time
    assert "would overwrite a result of another photo" in reason and summary.counts["photo"] == 1
