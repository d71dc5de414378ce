"""The files that launch.convert takes besides a checkpoint."""

import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.systems.nphm.torch_weights import read_anchors
from jaxface.systems.pipnet import meanface


def test_a_mean_face_is_read_exactly(tmp_path):
    numbers = tuple(np.random.default_rng(0).random(8).tolist())
    (path := tmp_path / "meanface.txt").write_text(" ".join(map(repr, numbers)) + "\n")
    assert meanface.read(path) == numbers


@pytest.mark.parametrize("text, message", [("0.1 0.2 0.3", "3 numbers"), ("a b", "text of numbers"), ("", "0 numbers")])
def test_an_unusable_mean_face_raises_one_line(tmp_path, text, message):
    (path := tmp_path / "meanface.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        meanface.read(path)


@pytest.mark.parametrize("shape", [(39, 3), (1, 39, 3)])
def test_anchors_are_read(tmp_path, shape):
    np.save(path := tmp_path / "anchors.npy", np.arange(117, dtype=np.float32).reshape(shape))
    assert read_anchors(path) == tuple(range(117))


@pytest.mark.parametrize("array", [np.zeros((3, 39), np.float32), np.zeros((39, 3), int), np.full((39, 3), np.nan)])
def test_unusable_anchors_raise_one_line(tmp_path, array):
    np.save(path := tmp_path / "anchors.npy", array)
    with pytest.raises(UserError, match=r"finite floats \(A,3\)"):
        read_anchors(path)
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(UserError, match="not an .npy file"):
        read_anchors(tmp_path / "empty.npy")
