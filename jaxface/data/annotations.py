"""Readers of annotation files: text in any encoding, `.pts`, MATLAB arrays of any version."""

import codecs
import contextlib
import pathlib
import re
from collections.abc import Sequence

import h5py
import numpy as np

from jaxface import array_files
from jaxface.errors import UserError


def read_pts(path: pathlib.Path, count: int = 0) -> np.ndarray:
    """The points (L,2) float64 of an iBUG `.pts` file as written there (1-based in 300-W).

    Only the rows between the braces are read. Rows of three numbers are x, y and a flag, see `points_of_rows`.

    Args:
        path: the file.
        count: expected number of points; 0 accepts any.

    Raises:
        UserError: no braces, not numbers in rows of two or three, or not `count` points.
    """
    before, brace, rest = read_text(path).partition("{")
    body, end, _ = rest.rpartition("}")
    if not brace or not end:
        raise UserError(f"{path}: not a .pts file; put its points between {{ and }}")
    header = re.search(r"n_points\D*(\d+)", before)
    try:
        points = points_of_rows(
            [split_numbers(line) for line in body.splitlines() if line.strip()], int(header[1]) if header else 0
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if not len(points) or (count and len(points) != count):
        expected = f"{count} points" if count else "one or more"
        raise UserError(f"{path}: {len(points)} points of {points.size} numbers; expected {expected}")
    return points


def split_numbers(line: str) -> list[str]:
    """The numbers of a line, separated by blanks, commas, semicolons or tabs.

    Commas inside words that blanks separate are decimal marks, "12,5 7,25", if there are two or three such words.
    """
    words = line.split()
    if len(words) in (2, 3) and all(re.fullmatch(r"[-+]?\d+,\d+", word) for word in words):
        return [word.replace(",", ".") for word in words]
    return re.split(r"[\s,;]+", line.strip(" \t\r,;"))


def points_of_rows(rows: Sequence[Sequence[str]], count: int = 0) -> np.ndarray:
    """Points (L,2) float64 of rows of words: one point a row, or all numbers in rows of any length.

    A third number is a flag if it is 0, 1 or 2 in all rows: points with 0 are NaN, as not annotated (COCO). Otherwise
    it is a depth or a confidence, and ignored.

    Args:
        rows: words of the rows.
        count: number of points if it is known; it tells pairs from triples where a row does not hold one point.

    Raises:
        ValueError: not numbers, or not in pairs or triples.
    """
    lengths = {len(row) for row in rows}
    values = np.array([word for row in rows for word in row], np.float64)
    if lengths == {3} or (lengths != {2} and count and len(values) == 3 * count):
        return drop_flagged(values.reshape(-1, 3))
    if len(values) % 2:
        raise ValueError(f"{len(values)} numbers; expected pairs")
    return values.reshape(-1, 2)


def drop_flagged(triples: np.ndarray) -> np.ndarray:
    """Points (L,2) of x, y and a third number (L,3); see `points_of_rows`."""
    flags = triples[:, 2]
    are_flags = np.isin(flags, (0, 1, 2)).all() and flags.any()
    return np.where(are_flags & (flags == 0), np.nan, triples[:, :2].T).T


def missing(points: np.ndarray) -> np.ndarray:
    """Which points (N,2), as they are written in a file, are marked as missing (N,) bool.

    Marks are NaN, infinity, (0, 0) and pairs of one negative number such as (-1, -1).
    """
    return ~np.isfinite(points).all(-1) | ((points[:, 0] == points[:, 1]) & (points[:, 0] <= 0))


def read_numbers(path: pathlib.Path) -> np.ndarray:
    """All numbers (N,) float64 of a text file. Raises UserError for anything that is not a number."""
    return _numbers(path, read_text(path))


def read_lines(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(line number from 1, words) of every non-empty line."""
    numbered = enumerate(read_text(path).splitlines(), start=1)
    return [(number, line.split()) for number, line in numbered if line.strip()]


def read_rows(path: pathlib.Path, fields: int) -> tuple[list[tuple[int, list[str]]], dict[str, str]]:
    """The non-empty lines of a list.

    Returns:
        (number from 0, words) of each line of `fields` words, where empty lines do not count, and the reason, by
        "FILE, line N", for each other line.
    """
    rows, problems = [], {}
    for index, (number, row) in enumerate(read_lines(path)):
        if len(row) == fields:
            rows.append((index, row))
        else:
            problems[f"{path.name}, line {number}"] = f"{len(row)} values; expected {fields}"
    return rows, problems


def read_mat(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a MATLAB file of any version, in MATLAB's axis order; cell arrays of version 5 have dtype object.

    Args:
        path: the file.
        names: variables to read (default: all, for files up to version 7 only).

    Raises:
        UserError: the file is missing or damaged, or has no variable of a given name.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; copy it from the data set's release")
    if h5py.is_hdf5(path):
        arrays = _read_hdf5(path, names)
    else:
        arrays = array_files.read_mat(path, names or None)
    absent = [name for name in names if name not in arrays]
    if absent:
        raise UserError(f"{path}: has no variable {', '.join(absent)}; copy the file from the data set's release")
    return arrays


def _read_hdf5(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a file of MATLAB's version 7.3."""
    try:
        with h5py.File(path) as file:
            return {name: file[name][()].T for name in names if name in file}
    except Exception as error:  # h5py raises arbitrary exceptions on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: damaged MATLAB file ({reason}); download it again") from error


def read_text(path: pathlib.Path) -> str:
    """The text of a file in UTF-8 or UTF-16 with or without a byte order mark, or in Windows-1252.

    Raises UserError if it is missing or not a text.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; copy it from the data set's release")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" not in text:
                return text.rstrip("\x1a")
    raise UserError(f"{path}: not a text file; save it as UTF-8")


def _numbers(path: pathlib.Path, text: str) -> np.ndarray:
    try:
        return np.array(text.split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path}: not only numbers ({error}); copy it again") from error
