"""Checksums of all files of a folder, in a file beside them, so that a flipped bit is noticed when they are read.

`checksums.json` is one JSON object, {"params.safetensors": "<SHA-256 in hexadecimal>", ...}, with paths relative to its
folder. It is JSON so that a truncated list is noticed as well. The file lies in the folder, so that it is copied with
the files. `python -m jaxface.checksums FOLDER` writes it anew after an intended change.
"""

import hashlib
import json
import os
import pathlib
import sys

from jaxface import storage
from jaxface.errors import UserError

NAME = "checksums.json"
Path = str | os.PathLike


def write(folder: Path) -> None:
    """Writes `folder`/checksums.json, atomically, for all files below `folder`."""
    folder = storage.path(folder)
    sums = {name: _sha256(folder / name) for name in _files(folder)}
    storage.write_text(folder / NAME, json.dumps(sums, separators=(",", ":")))


def read(path: Path) -> bytes:
    """The content of a file of the package, whose folder has a list of checksums.

    Raises UserError if the file or the list cannot be read, or the content has another checksum than in the list.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); install the package again") from error
    if hashlib.sha256(content).hexdigest() != listed(path.parent).get(path.name):
        raise UserError(f"{path}: damaged, it has another checksum than in {NAME}; install the package again")
    return content


def listed(folder: Path) -> dict[str, str]:
    """The checksums of a folder of the package by file name. Raises UserError if the list cannot be read."""
    path = pathlib.Path(folder) / NAME
    try:
        return {name: str(value) for name, value in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: missing or damaged; install the package again") from error


def exists(folder: Path) -> bool:
    """Whether `folder` has a list of checksums; folders of earlier versions have none."""
    return (storage.path(folder) / NAME).is_file()


def problem(folder: Path, only: str = "") -> str | None:
    """The first file of `folder` that is missing or changed, and what is wrong with it; None if there is none.

    Files that are not listed are ignored, and a folder without a list has no problem.

    Args:
        folder: folder of `write`.
        only: check this file only.
    """
    folder = storage.path(folder)
    if not exists(folder):
        return None
    try:
        sums = json.loads((folder / NAME).read_text())
        listed = {name: str(value) for name, value in sums.items() if only in ("", name)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return f"{NAME} is damaged"
    for name, expected in listed.items():
        try:
            actual = _sha256(folder / name)
        except (OSError, ValueError) as error:
            return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name} cannot be read"
        if actual != expected:
            return f"{name} has another checksum than in {NAME}"
    return None


def _files(folder: pathlib.Path) -> list[str]:
    return [name for name in storage.files(folder) if name not in (NAME, f"{NAME}.partial")]


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(argument)
