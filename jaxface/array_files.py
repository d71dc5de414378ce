"""Foreign array files (.npy, .npz, MATLAB .mat up to version 7), read with memory bounded by the size of the file.

No pickle is read. `scipy.io.loadmat` crashes the process on some damaged files; the reader here checks every length and
returns numeric, character and cell arrays.
"""

import ast
import io
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from jaxface.errors import UserError

# Compressed data may be this much larger than its file.
MAX_RATIO, FREE_BYTES = 64, 64 * 2**20
DAMAGE = (ValueError, LookupError, TypeError, OSError, EOFError, MemoryError, RecursionError, SyntaxError)
DAMAGE += (struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
NPY_MAGIC, HDF5_MAGIC = b"\x93NUMPY", b"\x89HDF"
MAX_DIMENSIONS, MAX_HEADER = 32, 65536


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of an .npy file. Raises UserError if it is missing, damaged, or holds Python objects."""
    path = pathlib.Path(path)
    data = _content(path)
    try:
        return _npy(data)
    except DAMAGE as error:
        raise UserError(f"{path}: not an .npy file of numbers ({_reason(error)}); save it again") from error


def read_npz(path: str | os.PathLike, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name of an .npz file; entries that hold Python objects are left out.

    Args:
        path: the file.
        names: entries to read (default: all).

    Raises:
        UserError: the file is missing or damaged, or its entries are far larger than the file.
    """
    path = pathlib.Path(path)
    data = _content(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = {name: info for name, info in infos.items() if names is None or name in names}
            check_size(sum(info.file_size for info in chosen.values()), len(data))
            arrays = {name: _entry(archive, info) for name, info in chosen.items()}
    except DAMAGE as error:
        raise UserError(f"{path}: not an .npz file of numbers ({_reason(error)}); save it again") from error
    return {name: array for name, array in arrays.items() if array is not None}


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray | None:
    """The array of an entry; None if it holds Python objects."""
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ValueError(f"{info.filename} has another length than its header says")
    return None if _npy_header(data)[0].hasobject else _npy(data)


def _content(path: pathlib.Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def check_size(size: int, file_size: int) -> None:
    """Raises ValueError if `size` bytes are more than a file of `file_size` bytes can plausibly hold, compressed."""
    if size > FREE_BYTES + MAX_RATIO * file_size:
        raise ValueError(f"{size} bytes from a file of {file_size}")


def _npy_header(data: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """(dtype, shape, Fortran order, start of the numbers) of an .npy file."""
    if not data.startswith(NPY_MAGIC) or len(data) < 12:
        raise ValueError("it does not start as an .npy file")
    wide = data[6] > 1
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    start = (12 if wide else 10) + length
    if start > len(data) or length > MAX_HEADER:
        raise ValueError("its header is damaged")
    header = ast.literal_eval(data[start - length : start].decode("latin1").strip())
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("its shape is damaged")
    return np.lib.format.descr_to_dtype(header["descr"]), shape, bool(header["fortran_order"]), start


def _npy(data: bytes) -> np.ndarray:
    dtype, shape, fortran, start = _npy_header(data)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    count = math.prod(shape)
    if len(shape) > MAX_DIMENSIONS or count * dtype.itemsize > len(data) - start:
        raise ValueError(f"its header says {dtype} {shape}, but {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C").copy()


def read_mat(path: str | os.PathLike, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Variables by name of a MATLAB file of version 4, 6 or 7, in MATLAB's shape, at least two axes.

    Numeric and logical arrays have their own dtype, character arrays are strings of one row each, cell arrays have
    dtype object. Other variables (structures, sparse and complex arrays) are left out.

    Args:
        path: the file.
        names: variables to read (default: all).

    Raises:
        UserError: the file is missing or damaged, or has MATLAB's version 7.3.
    """
    path = pathlib.Path(path)
    data = _content(path)
    if HDF5_MAGIC in (data[:4], data[512:516]):
        raise UserError(f"{path}: MATLAB 7.3 format is not supported; save it again in MATLAB with the option '-v7'")
    try:
        found = {name: value for name, value in _variables(data) if names is None or name in names}
        return {name: array for name, value in found.items() if (array := _value(value)) is not None}
    except DAMAGE as error:
        raise UserError(f"{path}: damaged or not a MATLAB file ({_reason(error)}); download it again") from error


def mat_names(path: str | os.PathLike) -> list[str]:
    """Names of all variables of a MATLAB file that `read_mat` reads."""
    try:
        return [name for name, _ in _variables(_content(pathlib.Path(path)))]
    except DAMAGE:
        return []


# MATLAB version 5: element types, array classes and their numpy types.
ELEMENT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
UNICODE = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
CELL, CHARACTER = 1, 4
MATRIX, COMPRESSED = 14, 15
COMPLEX_FLAG = 0x0800
MAX_NESTING = 4
# MATLAB version 4: number types by the tens of its header's code.
V4_TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")


def _variables(data: bytes) -> Iterator[tuple[str, Any]]:
    """(name, undecoded value) of each variable."""
    if len(data) >= 128 and data[126:128] in (b"IM", b"MI"):
        order = "<" if data[126:128] == b"IM" else ">"
        yield from _version_5(data, order)
    else:
        yield from _version_4(data)


def _value(value: Any, depth: int = 0) -> np.ndarray | None:
    """Decodes a variable of `_variables`."""
    return value if isinstance(value, np.ndarray) else _matrix_value(*value, depth)


def _version_4(data: bytes) -> Iterator[tuple[str, np.ndarray | None]]:
    start = 0
    while start < len(data):
        if len(data) - start < 20:
            raise ValueError("it is truncated, or not a MATLAB file")
        order = next((o for o in "<>" if 0 <= struct.unpack_from(f"{o}i", data, start)[0] < 5000), None)
        if order is None:
            raise ValueError("not a MATLAB file")
        code, rows, columns, is_complex, length = struct.unpack_from(f"{order}5i", data, start)
        kind, number = code % 10, code // 10 % 10
        if kind > 2 or number >= len(V4_TYPES) or min(rows, columns, length) < 0 or is_complex not in (0, 1):
            raise ValueError("not a MATLAB file")
        dtype, begin = np.dtype(V4_TYPES[number]).newbyteorder(order), start + 20 + length
        end = begin + rows * columns * dtype.itemsize * (1 + is_complex)
        if not 0 < length < 1000 or end > len(data):
            raise ValueError("a variable is truncated")
        if kind == 0 and not is_complex:
            array = np.frombuffer(data, dtype, rows * columns, begin).reshape((rows, columns), order="F").copy()
            yield data[start + 20 : begin].split(b"\0")[0].decode("latin1"), array
        start = end


def _version_5(data: bytes, order: str) -> Iterator[tuple[str, tuple]]:
    budget = FREE_BYTES + MAX_RATIO * len(data)
    for kind, content in _elements(memoryview(data)[128:], order):
        if kind == COMPRESSED:
            decompressor = zlib.decompressobj()
            inner = decompressor.decompress(content, budget)
            if decompressor.unconsumed_tail:
                raise ValueError(f"more than {budget} bytes from a file of {len(data)}")
            budget -= len(inner)
            kind, content = next(_elements(memoryview(inner), order))
        if kind == MATRIX and len(content):
            name, parts = _matrix(content, order)
            yield name, parts


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of each data element."""
    start = 0
    while start + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, start)
        if kind >> 16:  # the small format: size and type in one word
            kind, size, begin, next_start = kind & 0xFFFF, kind >> 16, start + 4, start + 8
            if size > 4:
                raise ValueError("a small element is too large")
        else:
            begin = start + 8
            # Compressed elements are not padded to multiples of eight bytes.
            next_start = begin + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise ValueError("an element is truncated")
        yield kind, data[begin : begin + size]
        start = next_start


def _matrix(content: memoryview, order: str) -> tuple[str, tuple]:
    """(name, (flags, shape, the remaining elements, byte order)) of a matrix element."""
    flags, shape, name, *rest = _elements(content, order)
    if flags[0] != 6 or len(flags[1]) != 8 or shape[0] != 5 or ELEMENT_TYPES.get(name[0]) != "i1":
        raise ValueError("the header of a variable is damaged")
    sizes = np.frombuffer(shape[1], f"{order}i4").tolist()
    if not 2 <= len(sizes) <= MAX_DIMENSIONS or min(sizes) < 0:
        raise ValueError("the shape of a variable is damaged")
    flag = int(np.frombuffer(flags[1], f"{order}u4")[0])
    return bytes(name[1]).decode("latin1"), (flag, tuple(sizes), rest, order)


def _matrix_value(flag: int, shape: tuple[int, ...], rest: list, order: str, depth: int) -> np.ndarray | None:
    kind, count = flag & 0xFF, math.prod(shape)
    if kind == CELL:
        return _cells(shape, count, rest, order, depth)
    if kind not in (CHARACTER, *CLASSES) or flag & COMPLEX_FLAG:
        return None
    if count == 0:
        return np.zeros(shape, CLASSES.get(kind, "U1"))
    (element, content), *_ = rest
    if kind == CHARACTER and element in UNICODE:
        return _text_rows(content, UNICODE[element], order, shape)
    if element not in ELEMENT_TYPES:
        raise ValueError(f"a variable has the unknown type {element}")
    stored = np.dtype(ELEMENT_TYPES[element]).newbyteorder(order)
    if count * stored.itemsize > len(content):
        raise ValueError("a variable is truncated")
    values = np.frombuffer(content, stored, count).reshape(shape, order="F")
    if kind == CHARACTER:
        rows = ["".join(map(chr, row)) for row in values.reshape(len(values), -1).tolist()]
        return np.array(rows)
    return np.ascontiguousarray(values, CLASSES[kind])


def _text_rows(content: memoryview, encoding: str, order: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a character array in a Unicode encoding, which lists it column by column."""
    if encoding != "utf-8":
        encoding += "-le" if order == "<" else "-be"
    text = bytes(content).decode(encoding)
    rows = shape[0]
    return np.array([text[row::rows] for row in range(rows)] if rows <= len(text) else [text])


def _cells(shape: tuple[int, ...], count: int, rest: list, order: str, depth: int) -> np.ndarray:
    if depth >= MAX_NESTING or count != len(rest):
        raise ValueError("a cell array is damaged or nested too deeply")
    cells = np.empty(count, object)
    for index, (element, content) in enumerate(rest):
        if element != MATRIX:
            raise ValueError("a cell array is damaged")
        cells[index] = _value(_matrix(content, order)[1], depth + 1) if len(content) else np.zeros((0, 0))
    return cells.reshape(shape, order="F")
