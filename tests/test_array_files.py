"""Foreign array files: the same values as numpy and scipy, lengths checked, memory bounded by the file."""

import io
import random
import struct
import zipfile

import numpy as np
import pytest
import scipy.io

from jaxface import array_files
from jaxface.errors import UserError


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path, compressed):
    rng, kinds = np.random.default_rng(0), "f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split()
    variables = {f"of_{kind}": (50 * rng.normal(size=(3, 4, 2))).astype(kind) for kind in kinds}
    cells = np.array([["image/a.jpg", np.eye(2)]], object)
    variables |= {"cells": cells, "text": "hällo", "rows": np.array(["abc", "def"]), "flag": np.array([[True]])}
    scipy.io.savemat(path := tmp_path / "a.mat", variables | {"struct": {"x": 1}}, do_compression=compressed)
    found, expected = array_files.read_mat(path), scipy.io.loadmat(path)
    assert found.keys() == variables.keys() and "struct" in array_files.mat_names(path)
    for name in set(variables) - {"cells"}:
        assert found[name].dtype.kind == expected[name].dtype.kind, name
        np.testing.assert_array_equal(found[name], expected[name])
    for ours, theirs in zip(found["cells"].ravel(), expected["cells"].ravel(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    scipy.io.savemat(path, {"a": np.eye(3), "b": np.int32([[1, 2]])}, format="4")
    np.testing.assert_array_equal(array_files.read_mat(path, ["b"])["b"], [[1, 2]])


def test_damaged_mat_files_are_one_line(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.arange(40.0), "b": np.array([["x", 1.0]], object), "c": "text"})
    whole, path = (tmp_path / "a.mat").read_bytes(), tmp_path / "b.mat"
    rng = random.Random(0)
    for number in range(300):
        damaged = bytearray(whole[: rng.randrange(len(whole)) if number % 4 == 0 else None])
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(damaged) or 1) : 1] = b""
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            array_files.read_mat(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match="MATLAB 7.3 format is not supported"):
        array_files.read_mat(path)


def test_npz_leaves_objects_out_and_refuses_bombs(tmp_path):
    np.savez(path := tmp_path / "a.npz", numbers=np.eye(2), words=np.array([{"a": 1}], object))
    assert array_files.read_npz(path).keys() == {"numbers"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(300_000_000))
    with pytest.raises(UserError, match="300000000 bytes from a file of"):
        array_files.read_npz(path)


def test_npy_headers_are_checked(tmp_path):
    np.save(path := tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(array_files.read_npy(path), np.arange(6.0).reshape(2, 3))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(UserError, match="0 bytes follow"):
        array_files.read_npy(path)
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="Python objects"):
        array_files.read_npy(path)
