"""The arrays of a FLAME model file, .pkl or .npz, read without chumpy and without running what a pickle asks for.

FLAME's pickles were written by Python 2 and hold chumpy arrays and scipy matrices. Classes of those two libraries
become inert boxes here, numpy's own rebuilding is allowed, and everything else is refused.
"""

import collections
import pathlib
import pickle
from typing import Any

import numpy as np

from jaxface.errors import UserError

FOREIGN = ("chumpy", "scipy")
DAMAGE = (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, MemoryError)


class _Box:
    """What a chumpy or scipy object was saved with; it has no behaviour of its own."""

    kind = ""

    def __new__(cls, *_: Any) -> "_Box":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def _reconstructor(kind: type, base: type, _: Any) -> Any:
    """copyreg's, for boxes alone."""
    if not issubclass(kind, _Box) or base is not object:
        raise pickle.UnpicklingError("an object of an unexpected kind")
    return kind()


def _array(kind: type, shape: tuple, code: Any) -> np.ndarray:
    """numpy's _reconstruct, for plain arrays alone; their state fills them."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array of an unexpected kind")
    return np.ndarray.__new__(np.ndarray, shape, code)


def _encode(text: str, *_: str) -> bytes:
    """Python 2's byte strings are written as text by Python 3's pickles."""
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path: pathlib.Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in FOREIGN:
            return type("Box", (_Box,), {"kind": name})
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _array
        allowed = {
            ("copy_reg", "_reconstructor"): _reconstructor,
            ("copyreg", "_reconstructor"): _reconstructor,
            ("__builtin__", "object"): object,
            ("builtins", "object"): object,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in allowed:
            raise UserError(f"{self._path} is refused: a FLAME file has no business with {module}.{name}")
        return allowed[module, name]


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a FLAME model, or of another pickled dictionary of arrays such as FLAME_masks.pkl, by name.

    Sparse matrices come dense. UserError in one line: no file, another format, damage, or a pickle that calls anything
    but numpy's, chumpy's and scipy's rebuilding of arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no FLAME model at {path}: get one from flame.is.tue.mpg.de and give its .pkl or .npz file")
    try:
        tree = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
        return {str(name): found for name, value in tree.items() if (found := _dense(value)) is not None}
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or no FLAME model ({type(error).__name__}: {error})") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    made = {}
    with np.load(path, allow_pickle=False) as data:
        for name in data.files:
            try:
                made[name] = data[name]
            except ValueError:  # an array of pickled objects, which none of ours is
                continue
    return made


def _read_pickle(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        tree = _Unpickler(file, path).load()
    if not isinstance(tree, dict):
        raise pickle.UnpicklingError("not a dictionary")
    return tree


def _dense(value: Any) -> np.ndarray | None:
    """A numeric array of what was pickled; None for text and other things."""
    if isinstance(value, _Box):
        state = value.state
        if "x" in state:
            return _dense(state["x"])
        if {"data", "indices", "indptr"} <= state.keys():
            return _unpacked(value.kind, state)
        return None
    if isinstance(value, (np.ndarray, list, tuple)):
        array = np.asarray(value)
        return array if array.dtype.kind in "biuf" else None
    return None


def _unpacked(kind: str, state: dict[str, Any]) -> np.ndarray:
    """A compressed sparse matrix, by columns or rows, as an array."""
    shape = state.get("_shape", state.get("shape"))
    by_column = kind.startswith("csc")
    major = np.repeat(np.arange(shape[1] if by_column else shape[0]), np.diff(state["indptr"]))
    dense = np.zeros(shape)
    np.add.at(dense, (state["indices"], major) if by_column else (major, state["indices"]), state["data"])
    return dense
