"""Readers of annotation files: `.pts`, whitespace-separated text, MATLAB arrays of any version."""

import pathlib

import h5py
import numpy as np

from jaxface import array_files
from jaxface.errors import UserError


def read_pts(path: pathlib.Path, count: int = 0) -> np.ndarray:
    """The points (L,2) float64 of an iBUG `.pts` file as written there (1-based in 300-W).

    Only the rows between the braces are read; the header's number of points is ignored.

    Args:
        path: the file.
        count: expected number of points; 0 accepts any.

    Raises:
        UserError: no braces, not numbers in pairs, or not `count` points.
    """
    lines = _text(path).splitlines()
    braces = [i for i, line in enumerate(lines) if line.strip() in ("{", "}")]
    if len(braces) != 2:
        raise UserError(f"{path}: not a .pts file; put its points between {{ and }}")
    points = _numbers(path, " ".join(lines[braces[0] + 1 : braces[1]]))
    if len(points) % 2 or (count and len(points) != 2 * count):
        raise UserError(f"{path}: {len(points)} numbers; expected {f'{count} points' if count else 'pairs'}")
    return points.reshape(-1, 2)


def read_numbers(path: pathlib.Path) -> np.ndarray:
    """All numbers (N,) float64 of a text file. Raises UserError for anything that is not a number."""
    return _numbers(path, _text(path))


def read_lines(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(line number from 1, words) of every non-empty line."""
    numbered = enumerate(_text(path).splitlines(), start=1)
    return [(number, line.split()) for number, line in numbered if line.strip()]


def read_rows(path: pathlib.Path, fields: int) -> list[list[str]]:
    """The words of every non-empty line. Raises UserError for a line that does not have `fields` words."""
    rows = read_lines(path)
    for number, row in rows:
        if len(row) != fields:
            raise UserError(f"{path}, line {number}: {len(row)} values; expected {fields}")
    return [row for _, row in rows]


def read_mat(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a MATLAB file of any version, in MATLAB's axis order; cell arrays of version 5 have dtype object.

    Args:
        path: the file.
        names: variables to read (default: all, for files up to version 7 only).

    Raises:
        UserError: the file is missing or damaged, or has no variable of a given name.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing")
    if h5py.is_hdf5(path):
        arrays = _read_hdf5(path, names)
    else:
        arrays = array_files.read_mat(path, names or None)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path}: has no variable {', '.join(missing)}")
    return arrays


def _read_hdf5(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a file of MATLAB's version 7.3."""
    try:
        with h5py.File(path) as file:
            return {name: file[name][()].T for name in names if name in file}
    except Exception as error:  # h5py raises arbitrary exceptions on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: damaged MATLAB file ({reason}); download it again") from error


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: missing")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file ({error})") from error


def _numbers(path: pathlib.Path, text: str) -> np.ndarray:
    try:
        return np.array(text.split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path}: not only numbers ({error})") from error
