"""Arrays of a FLAME model file, .pkl or .npz, read without chumpy and without executing code from the pickle.

FLAME's pickles were written by Python 2 and contain chumpy arrays and scipy matrices. `pickle_tree` turns all objects
into inert nodes, from which the arrays are rebuilt here.
"""

import pathlib
from typing import Any

import numpy as np

from jaxface import array_files, pickle_arrays, pickle_tree
from jaxface.errors import UserError
from jaxface.pickle_tree import Call

# Libraries whose objects FLAME's files and their usual conversions contain.
FOREIGN = ("chumpy", "scipy", "smplx")
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)
SPARSE = {"data", "indices", "indptr"}
COORDINATES = {"row", "col"}
# Largest number of entries of a sparse matrix that is returned dense.
MAX_DENSE = 10_000_000
# Chumpy arrays may wrap each other at most this often.
MAX_WRAPPERS = 8


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by name of a FLAME model or of another pickled dictionary of arrays such as FLAME_masks.pkl.

    Sparse matrices are returned dense. Raises UserError if the file is missing, damaged or of another format, or if
    the pickle names anything but containers and numpy, chumpy and scipy arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; download FLAME from flame.is.tue.mpg.de and give its .pkl or .npz file")
    if path.suffix.lower() == ".npz":
        return array_files.read_npz(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    _check_kind(path, data[:64])
    try:
        tree = pickle_tree.loads(data, _allowed)
        return _arrays(tree)
    except pickle_tree.Refused as refused:
        if "\r" in refused.name:
            raise UserError(f"{path}: line ends were changed by a text-mode transfer; copy the file again") from None
        name = " ".join(refused.name.split())[:80]
        raise UserError(
            f"{path}: refused, a FLAME file does not need {name}; download the original file again"
        ) from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged, or not a FLAME file ({_reason(error)}); download it again") from error


def _allowed(module: str, name: str) -> bool:
    return module.split(".")[0] in FOREIGN or pickle_tree.is_standard(module, name)


def _check_kind(path: pathlib.Path, head: bytes) -> None:
    """Raises UserError for files of other kinds that are often found under this name."""
    if head.startswith(b"PK"):
        raise UserError(f"{path}: a zip archive; unpack it and give the .pkl or .npz file in it")
    if head.startswith(b"\x93NUMPY"):
        raise UserError(f"{path}: an .npy file; give FLAME's .pkl, or an .npz of its arrays")
    if head.lstrip()[:1] == b"<" or head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a web page or a Git LFS pointer instead of FLAME; download the file again")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _arrays(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a dictionary, or of an object whose attributes they are (smplx.utils.Struct)."""
    entries = pickle_arrays.mapping(tree)
    if entries is None and isinstance(tree, Call):
        entries = pickle_arrays.mapping(tree.state)
    if entries is None:
        raise ValueError("not a dictionary")
    arrays = {str(name): _dense(value) for name, value in entries.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def _dense(node: Any) -> np.ndarray | None:
    """Numeric array of a node; None for text and other types."""
    for _ in range(MAX_WRAPPERS):
        state = pickle_arrays.mapping(node.state) if isinstance(node, Call) else None
        if state is None:
            return pickle_arrays.array(node)
        if "x" not in state:
            return _densify(node.kind.name, state)
        node = state["x"]  # a chumpy array
    raise ValueError("a chumpy array contains itself")


def _densify(kind: str, state: dict[str, Any]) -> np.ndarray | None:
    """Dense array of a sparse matrix (CSC, CSR or COO); None if the object is not one."""
    if isinstance(state.get("coords"), tuple) and len(state["coords"]) == 2:  # COO since scipy 1.13
        state = state | dict(zip(("row", "col"), state["coords"], strict=True))
    by_coordinates = COORDINATES <= state.keys()
    names = {"data", *COORDINATES} if by_coordinates else SPARSE
    if not names <= state.keys():
        return None
    shape = state.get("_shape", state.get("shape"))
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("a sparse matrix has no shape")
    if shape[0] * shape[1] > MAX_DENSE:
        raise ValueError(f"a sparse matrix has the shape {shape}")
    parts = {name: pickle_arrays.array(state[name]) for name in names}
    if any(part is None or part.ndim != 1 for part in parts.values()):
        raise ValueError("a sparse matrix lacks its entries")
    if by_coordinates:
        index = parts["row"], parts["col"]
    else:
        by_column, counts = kind.startswith("csc"), np.diff(parts["indptr"])
        majors = shape[1] if by_column else shape[0]
        if len(counts) != majors or (counts < 0).any() or counts.sum() != len(parts["data"]):
            raise ValueError("a sparse matrix is inconsistent")
        major = np.repeat(np.arange(majors), counts)
        index = (parts["indices"], major) if by_column else (major, parts["indices"])
    dense = np.zeros(shape)
    np.add.at(dense, index, parts["data"])
    return dense
