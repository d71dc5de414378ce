"""Reads PyTorch checkpoints without executing their code.

The pickles become inert trees (`pickle_tree`), tensors are views of the file's storages: neither PyTorch nor memory
beyond the size of the file is needed.
"""

import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxface import array_files, pickle_arrays, pickle_tree
from jaxface.errors import UserError
from jaxface.pickle_tree import Call, Global, Reference

Tensors = dict[str, np.ndarray]

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Other names in the module torch that describe data, and libraries whose settings are stored beside the weights.
BOOKKEEPING = {"Size", "device", "dtype", "layout", "Tensor", "strided", "float32", "float64", "float16", "bfloat16"}
BOOKKEEPING |= {"half", "float", "double", "int64", "int32", "int16", "int8", "uint8", "bool", "long", "int"}
SETTINGS = ("omegaconf", "yacs", "easydict", "pytorch_lightning", "lightning", "lightning_fabric")
# Deeper dictionaries hold no state dict; the number of visited entries bounds files that repeat one dictionary.
MAX_DEPTH, MAX_ENTRIES = 16, 1_000_000
# A view may be this large whatever the size of its file: expanded buffers of a few numbers.
FREE_BYTES = 2**20
# First pickles of the format before PyTorch 1.6.
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DAMAGE = (zipfile.BadZipFile, safetensors.SafetensorError, struct.error, EOFError, LookupError, ValueError, TypeError)
DAMAGE += (
    zlib.error,
    NotImplementedError,
    AttributeError,
    OSError,
    MemoryError,
    RecursionError,
    RuntimeError,
    OverflowError,
)


def read(path: str | pathlib.Path) -> Tensors:
    """All tensors of a checkpoint (.pth, .pt, .pth.tar, .safetensors) by dotted name: "state_dict.conv.weight".

    The arrays are read-only. Strides and offsets are respected; values that are not tensors (epochs, names, settings)
    are ignored. No code of the file is executed: a file that names anything but tensors and plain data is rejected.
    Raises UserError for a file that cannot be read or holds no tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: not a file; give a .pth, .pt, .pth.tar or .safetensors file")
    tree = _guarded(_read_tree, path)
    if not tree:
        raise UserError(f"{path} holds no tensors; give a file with a state dict")
    return tree


def _guarded(reader: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
    try:
        return reader(path)
    except UserError:
        raise
    except pickle_tree.Refused as refused:
        if refused.name.startswith(("torch.nn.", "torchvision.", "__torch__", "__main__.", "models.")):
            raise UserError(
                f"{path} is rejected because it holds a whole model ({_shown(refused.name)}) instead of its weights; "
                "save model.state_dict()"
            ) from None
        raise UserError(
            f"{path} is rejected because it calls {_shown(refused.name)}; save its bare state dict instead"
        ) from None
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {reason}); download it again"
        ) from error


def _shown(name: str) -> str:
    """A name of the file on one line."""
    return " ".join(name.split())[:80]


def _read_tree(path: pathlib.Path) -> Tensors:
    data = path.read_bytes()
    if data.startswith(b"PK"):
        return _read_zip(path, data)
    if data[8:9] == b"{":
        return dict(safetensors.numpy.load_file(path))
    if data[:1] == b"\x80":
        return _read_legacy(data)
    raise UserError(f"{path} is empty or not a checkpoint; give a .pth, .pt, .pth.tar or .safetensors file")


def _allowed(module: str, name: str) -> bool:
    """Whether a checkpoint may contain a name; none of them is ever called."""
    if module == "torch" or module == "torch.storage":
        return name.endswith("Storage") or name in BOOKKEEPING
    if module == "torch._utils":
        return name.startswith("_rebuild")
    if (module, name) in (("torch.nn.parameter", "Parameter"), ("torch.serialization", "_get_layout")):
        return True
    return module.split(".")[0] in SETTINGS or pickle_tree.is_standard(module, name)


def _read_zip(path: pathlib.Path, data: bytes) -> Tensors:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        program = next((name for name in names if name.endswith("/data.pkl")), None)
        if program is None:
            inside = f"it contains {names[0][:80]!r}; unpack it" if names else "it is empty; download it again"
            raise UserError(f"{path} is a zip file, but not a PyTorch checkpoint (no data.pkl in it); {inside}")
        root = program.removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise UserError(f"{path} is a TorchScript archive; save model.state_dict() of the original model instead")
        array_files.check_size(sum(info.file_size for info in archive.infolist()), len(data))
        tree = pickle_tree.loads(archive.read(program), _allowed)
        return _Tensors(lambda key: archive.read(f"{root}data/{key}"), len(data)).collect(tree)


def _read_legacy(data: bytes) -> Tensors:
    """The format before PyTorch 1.6: five pickles, then for each storage its number of elements and its numbers."""
    file = io.BytesIO(data)
    if pickle_tree.load(file, _allowed) != LEGACY_MAGIC or pickle_tree.load(file, _allowed) != LEGACY_PROTOCOL:
        raise ValueError("not a PyTorch file")
    pickle_tree.load(file, _allowed)  # sizes of C types
    tree, keys = pickle_tree.load(file, _allowed), pickle_tree.load(file, _allowed)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is damaged")
    tensors = _Tensors(None, len(data))
    itemsizes = tensors.storage_sizes(tree)
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        size = count * itemsizes.get(key, 0)
        content = file.read(size) if 0 <= size <= len(data) else b""
        if key not in itemsizes or len(content) != size:
            raise ValueError(f"the storage {key} is truncated")
        tensors.contents[key] = content
    return tensors.collect(tree)


class _Tensors:
    """Rebuilds the tensors of a tree as views of storages."""

    def __init__(self, read_storage: Callable[[str], bytes] | None, file_size: int):
        self.contents: dict[str, bytes] = {}
        self._read_storage, self._limit = read_storage, max(file_size, FREE_BYTES)

    def collect(self, tree: Any) -> Tensors:
        """The tensors by dotted name."""
        tensors = {}
        for name, node in _entries(tree):
            tensor = self._tensor(node)
            if tensor is not None:
                tensors[name] = tensor
        return tensors

    def storage_sizes(self, tree: Any) -> dict[str, int]:
        """Bytes per element of each storage that a tensor of the tree refers to."""
        sizes = {}
        for _, node in _entries(tree):
            for reference in _references(node):
                dtype, key, _ = _storage(reference)
                sizes[key] = dtype.itemsize
        return sizes

    def _tensor(self, node: Any) -> np.ndarray | None:
        """The array of a tensor or parameter; None for other nodes."""
        node = _unwrapped(node)
        if not isinstance(node, Call) or node.kind.module != "torch._utils":
            return None
        if node.kind.name not in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            raise ValueError(f"a tensor is of the unsupported kind {node.kind.name}")
        reference, offset, shape, strides, *_ = node.arguments
        return _view(self._load(reference), offset, shape, strides, self._limit)

    def _load(self, reference: Any) -> np.ndarray:
        dtype, key, count = _storage(reference)
        if key not in self.contents:
            if self._read_storage is None:
                raise LookupError(f"the storage {key} is missing")
            self.contents[key] = self._read_storage(key)
        return np.frombuffer(self.contents[key], dtype, count)


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of the values of nested dictionaries that are not dictionaries themselves."""
    pending, visited = [("", tree, 0)], 0
    while pending:
        prefix, node, depth = pending.pop()
        entries = pickle_arrays.mapping(node)
        if entries is None:
            yield prefix, node
            continue
        if depth >= MAX_DEPTH:
            raise ValueError("its dictionaries are nested too deeply")
        visited += len(entries)
        if visited > MAX_ENTRIES:
            raise ValueError("it has too many entries")
        inner = [(f"{prefix}.{name}" if prefix else str(name), value, depth + 1) for name, value in entries.items()]
        pending += reversed(inner)


def _unwrapped(node: Any) -> Any:
    """The tensor inside a parameter."""
    while isinstance(node, Call) and node.kind.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        node = node.arguments[0] if node.arguments else None
    return node


def _references(node: Any) -> list[Reference]:
    node = _unwrapped(node)
    arguments = node.arguments if isinstance(node, Call) else ()
    return [argument for argument in arguments if isinstance(argument, Reference)]


def _storage(reference: Any) -> tuple[np.dtype, str, int]:
    """(dtype, key, number of elements) of a storage."""
    if not isinstance(reference, Reference) or not isinstance(reference.key, tuple) or len(reference.key) < 5:
        raise ValueError("a tensor has no storage")
    kind, storage, key, _, count = reference.key[:5]
    if kind != "storage" or not isinstance(storage, Global) or storage.name not in STORAGES:
        raise ValueError(f"a storage is of the unsupported kind {getattr(storage, 'name', kind)}")
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage is damaged")
    return np.dtype(STORAGES[storage.name]), key, count


def _view(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, limit: int) -> np.ndarray:
    """A read-only view of a storage."""
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor reaches outside its storage")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise ValueError("a tensor reaches outside its storage")
    if math.prod(shape) * storage.itemsize > limit:
        raise ValueError(f"a tensor {shape} is larger than the file")
    byte_strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides, writeable=False)
