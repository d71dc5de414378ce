"""Arrays of a FLAME model file, .pkl or .npz, read without chumpy and without executing code from the pickle.

FLAME's pickles were written by Python 2 and contain chumpy arrays and scipy matrices. Classes of these two libraries
are replaced by inert stand-ins, reconstruction of plain numpy arrays is allowed, and everything else is refused.
"""

import collections
import pathlib
import pickle
from typing import Any

import numpy as np

from jaxface.errors import UserError

FOREIGN = ("chumpy", "scipy")
DAMAGE = (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, MemoryError)


class _StandIn:
    """Inert stand-in of a chumpy or scipy object: its saved state without behaviour."""

    kind = ""

    def __new__(cls, *_: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def _reconstructor(kind: type, base: type, _: Any) -> Any:
    """copyreg._reconstructor, restricted to stand-ins."""
    if not issubclass(kind, _StandIn) or base is not object:
        raise pickle.UnpicklingError("unexpected object type")
    return kind()


def _array(kind: type, shape: tuple, code: Any) -> np.ndarray:
    """numpy's _reconstruct, restricted to plain arrays; their saved state fills them."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("unexpected array type")
    return np.ndarray.__new__(np.ndarray, shape, code)


def _encode(text: str, *_: str) -> bytes:
    """_codecs.encode: Python 3 pickles Python 2's byte strings as text."""
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path: pathlib.Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in FOREIGN:
            return type("StandIn", (_StandIn,), {"kind": name})
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
            raise UserError(
                f"{self._path}: refused, a FLAME file does not need {module}.{name}; download the original file again"
            )
        return allowed[module, name]


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by name of a FLAME model or of another pickled dictionary of arrays such as FLAME_masks.pkl.

    Sparse matrices are returned dense. Raises UserError if the file is missing, damaged or of another format, or if
    the pickle calls anything but the reconstruction of numpy, chumpy and scipy arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; download FLAME from flame.is.tue.mpg.de and give its .pkl or .npz file")
    try:
        tree = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
        return {str(name): array for name, value in tree.items() if (array := _dense(value)) is not None}
    except DAMAGE as error:
        raise UserError(
            f"{path}: damaged, or not a FLAME file ({type(error).__name__}: {error}); download it again"
        ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = {}
    with np.load(path, allow_pickle=False) as data:
        for name in data.files:
            try:
                arrays[name] = data[name]
            except ValueError:  # a pickled object array; the arrays that are needed are numeric
                continue
    return arrays


def _read_pickle(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        tree = _Unpickler(file, path).load()
    if not isinstance(tree, dict):
        raise pickle.UnpicklingError("not a dictionary")
    return tree


def _dense(value: Any) -> np.ndarray | None:
    """Numeric array of an unpickled value; None for text and other types."""
    if isinstance(value, _StandIn):
        state = value.state
        if "x" in state:
            return _dense(state["x"])
        if {"data", "indices", "indptr"} <= state.keys():
            return _densify(value.kind, state)
        return None
    if isinstance(value, (np.ndarray, list, tuple)):
        array = np.asarray(value)
        return array if array.dtype.kind in "biuf" else None
    return None


def _densify(kind: str, state: dict[str, Any]) -> np.ndarray:
    """Dense array of a compressed sparse matrix (CSC or CSR)."""
    shape = state.get("_shape", state.get("shape"))
    by_column = kind.startswith("csc")
    major = np.repeat(np.arange(shape[1] if by_column else shape[0]), np.diff(state["indptr"]))
    dense = np.zeros(shape)
    np.add.at(dense, (state["indices"], major) if by_column else (major, state["indices"]), state["data"])
    return dense
