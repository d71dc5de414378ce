"""Shipped models: small, without paths of the machine that trained them, and of plausible quality."""

import json
import shutil
import threading

import numpy as np
import pytest

from jaxface import checksums, detection, layouts, pretrained
from jaxface.errors import UserError
from jaxface.heads import head_file
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.inference import ASSETS, Predictor
from jaxface.layouts import LAYOUT_68
from jaxface.systems.nphm.surface import head_model

MODELS = ("continuous", "deep3d", "nphm", "pipnet", "jvcr")


@pytest.mark.parametrize("name", MODELS)
def test_models_are_small_and_name_no_folder_of_the_training_machine(name):
    files = [path for path in (ASSETS / name).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 12e6
    for path in files:
        if path.name == "config.json":
            config = json.loads(path.read_text())
            assert config["data"]["dir"] == "data" and not config["init"] and not config["resume"]


@pytest.mark.parametrize("name", MODELS)
def test_a_flipped_bit_of_a_model_is_noticed(name, tmp_path):
    for path in [path.relative_to(ASSETS / name) for path in (ASSETS / name).rglob("*") if path.is_file()]:
        copy = tmp_path / path.name
        shutil.copytree(ASSETS / name, copy, dirs_exist_ok=True)
        content = bytearray((copy / path).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / path).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            pretrained.load_asset(copy)
        (copy / path).write_bytes((ASSETS / name / path).read_bytes())


FOLDERS = (layouts.FOLDER, detection.MODEL_FILE.parent)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_of_the_package_have_the_listed_checksums(folder):
    """After an intended change: python -m jaxface.checksums FOLDER."""
    assert {path.name for path in folder.iterdir()} == {checksums.NAME, *checksums.listed(folder)}
    assert checksums.problem(folder) is None


def flip_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [flip_middle, lambda data: b"", None])
def test_damaged_layouts_detectors_and_heads_are_one_line(tmp_path, monkeypatch, damage):
    for folder in (*FOLDERS, head_file.FOLDER):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.setattr(layouts, "FOLDER", tmp_path / "layouts")
    monkeypatch.setattr(detection, "MODEL_FILE", tmp_path / "detection" / detection.MODEL_FILE.name)
    monkeypatch.setattr(detection, "_thread", threading.local())
    monkeypatch.setattr(head_file, "FOLDER", tmp_path / "heads")
    readers = {
        layouts.FOLDER / "98.json": lambda: layouts.load.__wrapped__("98"),
        layouts.FOLDER / checksums.NAME: lambda: layouts.load.__wrapped__("98"),
        detection.MODEL_FILE: lambda: detection.detect_faces(np.zeros((64, 64, 3), np.uint8)),
        head_file.FOLDER / "makehuman.npz": lambda: head_file.read("makehuman"),
    }
    for path, reader in readers.items():
        data = path.read_bytes()
        reader()
        monkeypatch.setattr(detection, "_thread", threading.local())
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(data))
        with pytest.raises(UserError, match=r"install the package again$"):
            reader()
        path.write_bytes(data)


def test_neural_head_has_the_size_of_a_head():
    predictor = Predictor.pretrained("nphm")
    mesh = head_model.load(predictor.config, predictor.params).mean_mesh
    size_mm = MM_PER_UNIT * np.ptp(mesh.vertices, axis=0)
    assert ((130 < size_mm) & (size_mm < 400)).all()
    assert len(mesh.triangles) > 2000


@pytest.mark.parametrize("name, largest", [("deep3d", 14), ("pipnet", 8), ("jvcr", 9)])
def test_points_on_a_photograph_lie_on_it(name, largest):
    """The portrait's eyes, nose and mouth, read off an enlargement as in the detector's own test."""
    data = pytest.importorskip("skimage.data")
    (face,) = Predictor.pretrained(name)(data.astronaut())
    by_hand = np.array([[202, 101], [246, 103], [222, 124], [204, 141], [245, 140]])
    assert np.linalg.norm(LAYOUT_68.five_points(face.points) - by_hand, axis=1).max() < largest
    assert any(file.endswith(".glb") for file in face.files) == (name != "pipnet")
