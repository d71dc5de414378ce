"""Readers of the files that landmarks come in: `.pts` and plain numbers as text, MATLAB's arrays."""

import pathlib

import h5py
import numpy as np
import scipy.io

from jaxface.errors import UserError


def read_pts(path: pathlib.Path, count: int = 0) -> np.ndarray:
    """The points (L,2) float64 of an iBUG `.pts` file, as they stand there (1-based in 300-W).

    The rows between the braces count; what the header says does not. Raises UserError where they are not numbers in
    pairs, or not `count` (0: any number of them).
    """
    lines = _text(path).splitlines()
    braces = [i for i, line in enumerate(lines) if line.strip() in ("{", "}")]
    if len(braces) != 2:
        raise UserError(f"{path} is no .pts file: its points do not stand between {{ and }}")
    points = _numbers(path, " ".join(lines[braces[0] + 1 : braces[1]]))
    if len(points) % 2 or (count and len(points) != 2 * count):
        raise UserError(f"{path} has {len(points)} numbers; expected {f'{count} points' if count else 'pairs'}")
    return points.reshape(-1, 2)


def read_numbers(path: pathlib.Path) -> np.ndarray:
    """All numbers (N,) float64 of a text file. Raises UserError where something is not a number."""
    return _numbers(path, _text(path))


def read_lines(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(number from 1, words) of every line that is not empty."""
    numbered = enumerate(_text(path).splitlines(), start=1)
    return [(number, line.split()) for number, line in numbered if line.strip()]


def read_rows(path: pathlib.Path, fields: int) -> list[list[str]]:
    """The words of every line that is not empty. Raises UserError for a line with another number of words."""
    rows = read_lines(path)
    for number, row in rows:
        if len(row) != fields:
            raise UserError(f"{path}, line {number}: {len(row)} values where {fields} belong")
    return [row for _, row in rows]


def read_mat(path: pathlib.Path, *names: str) -> list[np.ndarray]:
    """Numeric arrays of a MATLAB file of any version, in MATLAB's axis order; cells of version 5 as object arrays.

    Raises UserError where the file is missing or damaged, or lacks one of them.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                return [file[name][()].T for name in names]
        contents = scipy.io.loadmat(path, variable_names=names)
        return [contents[name] for name in names]
    except (OSError, KeyError, ValueError, TypeError, scipy.io.matlab.MatReadError) as error:
        raise UserError(f"{path} is no MATLAB file with {', '.join(names)} ({error})") from error


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no text file ({error})") from error


def _numbers(path: pathlib.Path, text: str) -> np.ndarray:
    try:
        return np.array(text.split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path} holds something that is not a number ({error})") from error
