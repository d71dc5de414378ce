"""Shipped models: small, without paths of the machine that trained them, and of plausible quality."""

import json
import shutil

import numpy as np
import pytest

from jaxface import pretrained
from jaxface.errors import UserError
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.inference import ASSETS, Predictor
from jaxface.layouts import LAYOUT_68
from jaxface.systems.nphm.surface import head_model

MODELS = ("continuous", "deep3d", "nphm")


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


def test_neural_head_has_the_size_of_a_head():
    predictor = Predictor.pretrained("nphm")
    mesh = head_model.load(predictor.config, predictor.params).mean_mesh
    size_mm = MM_PER_UNIT * np.ptp(mesh.vertices, axis=0)
    assert ((130 < size_mm) & (size_mm < 400)).all()
    assert len(mesh.triangles) > 2000


def test_reconstruction_of_a_photograph_lies_on_it():
    """The portrait's eyes, nose and mouth, read off an enlargement as in the detector's own test."""
    data = pytest.importorskip("skimage.data")
    (face,) = Predictor.pretrained("deep3d")(data.astronaut())
    by_hand = np.array([[202, 101], [246, 103], [222, 124], [204, 141], [245, 140]])
    assert np.linalg.norm(LAYOUT_68.five_points(face.points) - by_hand, axis=1).max() < 14
    assert any(name.endswith(".glb") for name in face.files)
