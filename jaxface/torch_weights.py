"""Reads PyTorch checkpoints without executing their code, and maps their entries to our parameters, one to one."""

import collections
import importlib.util
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxface.errors import UserError

Tensors = dict[str, np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]

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
# Raised for damaged archives and pickle programs; those of the second line also by torch.load for the old format.
DAMAGE = (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError)
DAMAGE += (safetensors.SafetensorError, AssertionError, RuntimeError)


def read(path: str | pathlib.Path) -> Tensors:
    """All tensors of a checkpoint (.pth, .pt, .pth.tar, .safetensors) by dotted name: "state_dict.conv.weight".

    Strides and offsets are respected; values that are not tensors (epochs, names) are ignored. No code of the file is
    executed: a file that calls anything but torch's functions that rebuild tensors is rejected. Raises UserError for a
    file that cannot be read or holds no tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: not a file; give a .pth, .pt, .pth.tar or .safetensors file")
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        tree = _guarded(_read_zip, path)
    elif head[8:9] == b"{":
        tree = _guarded(safetensors.numpy.load_file, path)
    elif head[:1] == b"\x80":
        tree = _guarded(_read_legacy, path)
    else:
        raise UserError(f"{path} is empty or not a checkpoint; give a .pth, .pt, .pth.tar or .safetensors file")
    tensors = dict(_flatten(tree))
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors


def _guarded(reader: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
    try:
        return reader(path)
    except UserError:
        raise
    except DAMAGE as error:
        # torch.load puts its reason behind a page of advice.
        reason = " ".join(str(error).split("WeightsUnpickler error: ")[-1].split())[:200]
        raise UserError(f"{path} is damaged or not a checkpoint ({type(error).__name__}: {reason})") from error


def _flatten(tree: Any, prefix: str = ""):
    if isinstance(tree, np.ndarray):
        yield prefix, tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))


class _Unpickler(pickle.Unpickler):
    """Loads ordered dicts, typed storages and the two functions that rebuild tensors; rejects everything else."""

    def __init__(self, file, read_storage: Callable[[str], bytes], path: pathlib.Path):
        super().__init__(file)
        self._read_storage, self._path = read_storage, path

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        if (module, name) not in allowed:
            raise UserError(
                f"{self._path} is rejected because it calls {module}.{name}; save its bare state dict instead"
            )
        return allowed[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        return np.frombuffer(self._read_storage(key), dtype, count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and not (0 <= offset and min(strides, default=0) >= 0 and last < storage.size):
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    byte_strides = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides).copy()


def _parameter(data: np.ndarray, *_) -> np.ndarray:
    return data


def _read_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        program = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if program is None:
            raise UserError(f"{path} is a zip file, but not a PyTorch checkpoint (no data.pkl in it)")
        root = program.removesuffix("data.pkl")
        with archive.open(program) as file:
            return _Unpickler(file, lambda key: archive.read(f"{root}data/{key}"), path).load()


def _read_legacy(path: pathlib.Path) -> Any:
    """Reads the format before PyTorch 1.6 with torch.load(weights_only=True)."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{path} has the format before PyTorch 1.6; install the extra: pip install 'jaxface[torch]'")
    import torch

    def convert(tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return (tree.float() if tree.dtype == torch.bfloat16 else tree).detach().numpy()
        return {name: convert(value) for name, value in tree.items()} if isinstance(tree, Mapping) else tree

    return convert(torch.load(path, map_location="cpu", weights_only=True))


def unwrap(tensors: Tensors, *nests: str) -> Tensors:
    """The entries inside the first of `nests` that the checkpoint has ("model" of {"model": …}).

    Without any of them, all entries. DataParallel's prefix "module." is removed.
    """
    for nest in nests:
        inside = {
            name.removeprefix(f"{nest}."): value for name, value in tensors.items() if name.startswith(f"{nest}.")
        }
        if inside:
            tensors = inside
            break
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def convolution(weight: np.ndarray) -> np.ndarray:
    """A convolution kernel from OIHW to HWIO; a depthwise (C,1,K,K) becomes (K,K,1,C)."""
    return weight.transpose(2, 3, 1, 0)


def linear(weight: np.ndarray) -> np.ndarray:
    """The matrix (in,out) of a linear layer (out,in) or of a 1x1 convolution (out,in,1,1)."""
    return weight.reshape(weight.shape[:2]).T


def vector(weight: np.ndarray) -> np.ndarray:
    """One number per channel (C,), without surrounding axes of size 1."""
    return weight.reshape(weight.size)


def rename(tensors: Tensors, sources: Mapping[str, tuple[str, Transform]], expected: Any) -> Any:
    """A tree like `expected` filled from a checkpoint.

    Args:
        tensors: entries of the checkpoint by name.
        sources: for each of our paths ("encoder/stem/kernel") the checkpoint's name and the transform of its array.
            Several paths may take parts of one entry.
        expected: the tree of parameters; its leaves give shapes and dtypes.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names all of them.
        KeyError: the paths of `sources` are not those of `expected`.
    """
    leaves = flax.traverse_util.flatten_dict(expected, sep="/")
    if sources.keys() != leaves.keys():
        raise KeyError(f"name map and parameters differ in {sorted(sources.keys() ^ leaves.keys())}")
    filled, shapes = {}, {}
    for path, (name, transform) in sources.items():
        if name in tensors:
            filled[path] = _fitted(tensors[name], transform, leaves[path])
            if filled[path] is None:
                shapes[name] = f"{name} {tensors[name].shape} for {path} {leaves[path].shape}"
    names = [name for name, _ in sources.values()]
    problems = {
        "missing": sorted(set(names) - tensors.keys()),
        "left over": sorted(tensors.keys() - set(names)),
        "of another shape": sorted(shapes.values()),
    }
    if any(problems.values()):
        lines = [f"{len(found)} {problem}: {', '.join(found)}" for problem, found in problems.items() if found]
        raise UserError(f"the checkpoint does not fit the configured model; entries {'; '.join(lines)}")
    return flax.traverse_util.unflatten_dict(filled, sep="/")


def _fitted(array: np.ndarray, transform: Transform, leaf: Any) -> np.ndarray | None:
    """The transformed array in the leaf's dtype, or None if its shape is not the leaf's."""
    try:
        fitted = transform(array)
    except ValueError:  # an array with another number of axes
        return None
    return np.ascontiguousarray(fitted, leaf.dtype) if fitted.shape == leaf.shape else None
