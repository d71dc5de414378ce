"""Reading checkpoints: zip archives without torch, refusals, damage, and the strict mapping.

The archives are written here as `torch.save` lays them out, so that the tests need no torch.
"""

import collections
import functools
import io
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from jaxface.errors import UserError
from jaxface.torch_weights import convolution, linear, read, rename, unwrap, vector


class Global:
    """Pickles as the global `module.name`."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, key, kind, array):
        self.key, self.kind, self.array = key, kind, array


class Writer(pickle._Pickler):
    """A pickler that can name globals which do not exist here; storages become persistent references."""

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", Global("torch", value.kind), value.key, "cpu", value.array.size)
        return None

    def save(self, value, **options):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, **options)


def tensor(storage, offset, shape, strides):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, collections.OrderedDict())


def write(path, tree, storages=()):
    program = io.BytesIO()
    Writer(program, 2).dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program.getvalue())
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
    return path


@pytest.fixture
def numbers():
    return Storage("0", "FloatStorage", np.arange(12, dtype=np.float32))


def test_zip_archive_with_views_nests_and_bookkeeping(tmp_path, numbers):
    half = Storage("1", "HalfStorage", np.array([1.5, 2.5], np.float16))
    inner = collections.OrderedDict()
    inner["module.a"] = tensor(numbers, 0, (3, 4), (4, 1))
    inner["module.transposed"] = tensor(numbers, 1, (4, 2), (1, 4))
    inner["module.scalar"] = tensor(numbers, 7, (), ())
    inner["module.half"] = Call(Global("torch._utils", "_rebuild_parameter"), tensor(half, 0, (2,), (1,)), True, None)
    path = write(tmp_path / "x.pth.tar", {"state_dict": inner, "epoch": 3, "arch": "net"}, (numbers, half))
    found = unwrap(read(path), "model", "state_dict")
    values = np.arange(12, dtype=np.float32)
    np.testing.assert_array_equal(found["a"], values.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"][:, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(found["transposed"][:, 1], [5, 6, 7, 8])
    assert found["scalar"] == 7 and found["half"].tolist() == [1.5, 2.5]
    assert found.keys() == {"a", "transposed", "scalar", "half"}


def test_same_values_as_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    tree = {"w": torch.randn(4, 5).T, "b": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(2)}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pt"
        torch.save({"model": tree}, path, _use_new_zipfile_serialization=not legacy)
        found = unwrap(read(path), "model")
        assert all(np.array_equal(found[name].astype(np.float32), tree[name].float().numpy()) for name in tree)


def test_safetensors(tmp_path):
    safetensors.numpy.save_file({"a.b": np.eye(2, dtype=np.float32)}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read(tmp_path / "x.safetensors")["a.b"], np.eye(2))


def test_code_is_refused_and_named(tmp_path):
    path = write(tmp_path / "evil.pth", {"a": Call(Global("os", "system"), "true")})
    with pytest.raises(UserError, match="os.system"):
        read(path)


@pytest.mark.parametrize("view", [(0, (13,), (1,)), (-1, (2,), (1,)), (11, (2,), (-1,)), (0, (2, 2), (11, 2))])
def test_views_outside_their_storage_are_refused(tmp_path, numbers, view):
    with pytest.raises(UserError, match="outside its storage"):
        read(write(tmp_path / "x.pth", {"a": tensor(numbers, *view)}, [numbers]))


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut off", b"\x80\x02 cut", b"12345678{cut"])
def test_damage_is_one_line(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_and_flipped_archives(tmp_path, numbers):
    path = write(tmp_path / "x.pth", {"a": tensor(numbers, 0, (12,), (1,))}, [numbers])
    whole = path.read_bytes()
    at = whole.index(numbers.array.tobytes())
    for broken in (whole[: len(whole) // 2], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged"):
            read(path)


def test_missing_file_and_other_zip(tmp_path):
    with pytest.raises(UserError, match="not a file"):
        read(tmp_path / "absent.pth")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(UserError, match="no data.pkl"):
        read(tmp_path / "x.zip")


def test_rename_fills_and_names_every_mismatch():
    expected = {
        "conv": {"kernel": np.zeros((3, 3, 2, 4), np.float32), "bias": np.zeros(4, np.float32)},
        "scale": np.zeros(4),
    }
    sources = {"conv/kernel": ("c.w", convolution), "conv/bias": ("c.b", vector), "scale": ("s", vector)}
    tensors = {"c.w": np.random.rand(4, 2, 3, 3), "c.b": np.ones(4), "s": np.ones((4, 1, 1))}
    filled = rename(tensors, sources, expected)
    assert filled["conv"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(filled["conv"]["kernel"][1, 2, 0, 3], tensors["c.w"][3, 0, 1, 2], rtol=1e-6)
    with pytest.raises(UserError) as caught:
        rename({"c.w": np.ones((4, 2)), "s": np.ones(5), "x": np.ones(1), "y": np.ones(1)}, sources, expected)
    for part in ("1 missing: c.b", "2 left over: x, y", "2 of another shape: c.w (4, 2)", "s (5,) for scale (4,)"):
        assert part in str(caught.value)


def test_linear_takes_one_by_one_convolutions():
    weight = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(linear(weight[:, :, None, None]), weight.T)


def test_the_format_before_1_6_needs_no_torch(tmp_path, numbers):
    tree = {"model": {"w": tensor(numbers, 1, (4, 2), (1, 4))}, "epoch": np.float64(3), "names": {"a"}}
    file = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, tree, ["0"]):
        Writer(file, 2).dump(part)
    file.write((12).to_bytes(8, "little") + numbers.array.tobytes())
    (path := tmp_path / "old.pth").write_bytes(file.getvalue())
    found = read(path)
    assert found.keys() == {"model.w"}
    np.testing.assert_array_equal(found["model.w"][:, 0], [1, 2, 3, 4])
    path.write_bytes(file.getvalue()[:-4])
    with pytest.raises(UserError, match="storage 0 is truncated"):
        read(path)
    path.write_bytes(pickle.dumps({"a": print}, 2))
    with pytest.raises(UserError, match="calls .*print; save its bare state dict instead"):
        read(path)


def test_bookkeeping_is_ignored_and_models_are_refused(tmp_path, numbers):
    settings = Call(Global("argparse", "Namespace"))
    tree = {"w": tensor(numbers, 0, (12,), (1,)), "device": Call(Global("torch", "device"), "cpu"), "args": settings}
    tree |= {"dtype": Global("torch", "float32"), "best": np.float64(2), "shape": Call(Global("torch", "Size"), [1])}
    assert read(write(tmp_path / "x.pth", tree, [numbers])).keys() == {"w"}
    with pytest.raises(UserError, match=r"holds a whole model \(torch.nn.modules.conv.Conv2d\).*save model.state_dict"):
        read(write(tmp_path / "x.pth", {"w": Call(Global("torch.nn.modules.conv", "Conv2d"))}))


def test_memory_is_bounded_by_the_file(tmp_path, numbers):
    expanded = {"a": tensor(numbers, 0, (3, 5), (1, 0))}
    assert read(write(tmp_path / "x.pth", expanded, [numbers]))["a"][:, 4].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="larger than the file"):
        read(write(tmp_path / "x.pth", {"a": tensor(numbers, 0, (10**10,), (0,))}, [numbers]))
    own: dict = {}
    own["a"] = own
    for tree in (own, functools.reduce(lambda inner, _: {"a": inner, "b": inner}, range(40), {"c": 1})):
        with pytest.raises(UserError, match="nested too deeply"):
            read(write(tmp_path / "x.pth", tree))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(prefix):
    assert unwrap({f"{prefix}a.w": 1, f"{prefix}b": 2}).keys() == {"a.w", "b"}
    assert unwrap({"state_dict": 0, f"state_dict.{prefix}a": 1}, "state_dict").keys() == {"a"}


def test_values_that_are_not_finite_are_named():
    with pytest.raises(UserError, match="NaN or infinite in s;"):
        rename({"s": np.array([1, np.nan])}, {"scale": ("s", vector)}, {"scale": np.zeros(2, np.float32)})
