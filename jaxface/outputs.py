"""The one writer of result files. It never overwrites a file that no earlier run of jaxface wrote.

What earlier runs wrote is known from the JSON files of their results: <stem>.json of a photo lists its files, as do the
summaries of edits and published evaluations (`listing`); <stem>.jsonl belongs to <stem>_overlay.mp4,
<stem>_painted.mp4 and the files that its first line lists, and fit.json and registered.json name the scans that were
fitted. A single file whose name the user gives carries a mark (`write_file`).
"""

import json
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from jaxface import interrupts, meshes
from jaxface.errors import UserError

# The comments of a PLY file lie within its first bytes.
HEADER_BYTES = 256
Path = pathlib.Path
RESULT_KEYS = {"image", "width", "height", "faces"}
# The entry of a summary by which `previous_outputs` knows that jaxface wrote the files that it lists.
LISTING = {"writer": "jaxface"}
# In every file that `write_file` writes, as text or, where the format allows identifiers only, as one of them.
MARKS = (b"written by jaxface", b"written_by_jaxface")
# Names of the files of a photo, for results of versions that did not list them: <stem>, the number of the second and
# further faces, the content.
OUTPUT_NAME = re.compile(r"(?P<stem>.+?)(?:_\d+)?_(overlay|turntable|normals|depth|mask)\.(png|mp4)")


def real(path: str | os.PathLike) -> Path:
    """The path without symbolic links. Unlike `Path.resolve` it accepts links that lead to themselves."""
    return Path(os.path.realpath(path))


def with_ending(target: Path, ending: str) -> Path:
    """The output path `target`, which has no ending, with one."""
    return target.with_name(target.name + ending)


def json_line(entry: dict[str, Any]) -> bytes:
    """A line of JSON. Raises ValueError if a number is not finite."""
    return (json.dumps(entry, allow_nan=False) + "\n").encode()


def previous_outputs(folder: Path) -> set[Path]:
    """The files in a folder, and below it, that earlier runs of jaxface wrote, by the JSON files in the folder."""
    written: set[Path] = set()
    if not folder.is_dir():
        return written
    for path in folder.iterdir():
        if path.suffix == ".json":
            written |= _listed_by(path, _read(path))
        elif path.suffix == ".jsonl" and _is_result(first := _read_first_line(path)):
            clips = {path.with_name(f"{path.stem}_{kind}.mp4") for kind in ("overlay", "painted")}
            written |= {path, *clips, *_listed_files(path, first)}
    resolved, root = {real(path) for path in written}, real(folder)
    return {path for path in resolved if path.is_relative_to(root)}


def listing(files: Iterable[str]) -> dict[str, Any]:
    """Entries of a summary's JSON object that list the files, by name, that a run wrote next to it."""
    return {**LISTING, "files": sorted(files)}


def _listed_by(path: Path, content: Any) -> set[Path]:
    """The JSON file `path` itself and the files that it tells of; empty if it is not a result of jaxface."""
    if _is_result(content) or (isinstance(content, dict) and content.items() >= LISTING.items()):
        if isinstance(content.get("files"), list):
            return {path, *_listed_files(path, content)}
        matches = {other: OUTPUT_NAME.fullmatch(other.name) for other in path.parent.glob("*_*.png")}
        return {path, *(other for other, match in matches.items() if match and match["stem"] == path.stem)}
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        return set()
    if path.name == "fit.json" and all("errors_mm" in entry for entry in content.values()):
        found = {path.parent / f"{name}{ending}" for name in content for ending in (".ply", ".png")}
        return {path, path.with_name("codes.npz"), *found}
    if path.name == "registered.json" and all("mesh" in entry for entry in content.values()):
        found = {Path(str(entry["mesh"])) for entry in content.values()}
        return {path, *found, *(mesh.with_suffix(".npz") for mesh in found)}
    return set()


def _listed_files(path: Path, content: dict[str, Any]) -> set[Path]:
    """The files next to `path` that its entry `files` names."""
    files = content.get("files", [])
    names = [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
    return {path.with_name(name) for name in names if name and Path(name).name == name}


def _is_marked(path: Path) -> bool:
    """Whether a file is a fitted or registered mesh of jaxface, or belongs to one: its image or its arrays."""
    mesh = path.with_suffix(".ply") if path.suffix in (".png", ".npz") else path
    try:
        with open(mesh, "rb") as file:
            return mesh.suffix == ".ply" and f"comment {meshes.WRITTEN_BY}\n".encode() in file.read(HEADER_BYTES)
    except OSError:
        return False


def _is_result(content: Any) -> bool:
    return isinstance(content, dict) and content.keys() >= RESULT_KEYS and isinstance(content["faces"], list)


def _read(path: Path) -> Any:
    """The content of a JSON file, None if it is not one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _read_first_line(path: Path) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None


class Writer:
    """Writes the results of one run into a folder.

    Attributes:
        folder: the folder, which need not exist yet.
        earlier: resolved paths of the files that earlier runs wrote.
    """

    def __init__(self, folder: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()):
        self.folder = Path(folder)
        self.earlier = previous_outputs(self.folder)
        self._claimed: set[Path] = set()
        self._lock = threading.Lock()
        self._inputs = {real(path) for path in inputs}
        self._real_folder = real(self.folder)

    def _real(self, path: Path) -> Path:
        """As `real`, which looks at every part of a path: those of the folder are known."""
        if path.parent != self.folder or os.path.islink(path):
            return real(path)
        return self._real_folder / path.name

    def may_write(self, path: Path) -> bool:
        """Whether the file does not exist or is an output of jaxface, and is not an input."""
        return self._may_write(path, self._real(path))

    def _may_write(self, path: Path, resolved: Path) -> bool:
        if resolved in self._inputs:
            return False
        return resolved in self.earlier or not os.path.lexists(path) or _is_marked(path)

    def check(self, paths: Iterable[Path]) -> None:
        """Raises UserError if one of the files must not be written."""
        for path in paths:
            resolved = self._real(path)
            if resolved in self._inputs:
                raise UserError(f"{path.name} would overwrite an input; choose another --output")
            if not self._may_write(path, resolved):
                raise UserError(
                    f"{path.name} would overwrite a file that is not a result of jaxface; move it, or "
                    "choose another --output"
                )

    def claim(self, paths: Iterable[Path]) -> None:
        """Reserves the files of one input; safe to call from several threads.

        Raises UserError if one of them must not be written, or is a file of another input of this run.
        """
        paths = list(paths)
        self.check(paths)
        resolved = {self._real(path) for path in paths}
        with self._lock:
            if taken := resolved & self._claimed:
                name = min(taken).name
                raise UserError(f"{name} would overwrite a result of another photo; rename one of them")
            self._claimed |= resolved

    def make_folder(self) -> None:
        """Creates the folder. Raises UserError if that is not possible."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: the folder cannot be created ({error.strerror}); change --output"
            ) from error

    def write(self, path: Path, data: bytes) -> None:
        """Writes a file atomically: completely or not at all.

        Raises:
            UserError: the file must not be overwritten.
            OSError: it cannot be written.
        """
        self.check([path])
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with interrupts.temporary(partial):
                partial.write_bytes(data)
                self.replace(partial, path)
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from error

    def replace(self, partial: Path, path: Path) -> None:
        """Moves a completely written file to its place. Raises UserError if that must not be overwritten."""
        self.check([path])
        partial.replace(path)
        self.earlier.add(self._real(path))


def write_file(path: str | os.PathLike, data: bytes, inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Writes a file that the user named with --output, atomically.

    Args:
        path: the file. An existing file is overwritten if it carries one of MARKS.
        data: its content, with one of MARKS.
        inputs: files that the content was made from.

    Raises:
        UserError: the file is an input, or exists and was not written by jaxface, or cannot be written.
    """
    if not any(mark in data for mark in MARKS):
        raise ValueError(f"{path}: the content has no mark")
    check_file(path, _has_mark, inputs)
    partial = Path(f"{path}.partial")
    try:
        with interrupts.temporary(partial):
            partial.write_bytes(data)
            partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def check_file(
    path: str | os.PathLike, is_own: Callable[[Path], bool], inputs: Iterable[str | os.PathLike] = ()
) -> None:
    """Raises UserError if a file that the user named is an input, or exists and is not an earlier output (`is_own`)."""
    target = Path(path)
    is_input = real(target) in {real(source) for source in inputs}
    if is_input or (os.path.lexists(target) and not (target.is_file() and is_own(target))):
        raise UserError(f"{path}: exists and is not an output of jaxface; choose another --output")


def _has_mark(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return any(mark in data for mark in MARKS)
