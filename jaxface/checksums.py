"""Checksums of all files of a folder, in a file beside them, so that a flipped bit is noticed when they are read.

`checksums.json` is one JSON object, {"params.safetensors": "<SHA-256 in hexadecimal>", ...}, with paths relative to its
folder. It is JSON so that a truncated list is noticed as well. The file lies in the folder, so that it is copied with
the files.
"""

import hashlib
import json
import os
import pathlib

NAME = "checksums.json"
Path = str | os.PathLike


def write(folder: Path) -> None:
    """Writes `folder`/checksums.json, atomically, for all files below `folder`."""
    folder = pathlib.Path(folder)
    sums = {name: _sha256(folder / name) for name in _files(folder)}
    partial = folder / f"{NAME}.partial"
    partial.write_text(json.dumps(sums, separators=(",", ":")))
    partial.replace(folder / NAME)


def exists(folder: Path) -> bool:
    """Whether `folder` has a list of checksums; folders of earlier versions have none."""
    return (pathlib.Path(folder) / NAME).is_file()


def problem(folder: Path, only: str = "") -> str | None:
    """The first file of `folder` that is missing or changed, and what is wrong with it; None if there is none.

    Files that are not listed are ignored, and a folder without a list has no problem.

    Args:
        folder: folder of `write`.
        only: check this file only.
    """
    folder = pathlib.Path(folder)
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
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if name not in (NAME, f"{NAME}.partial"))


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
