"""Scan files of `launch.fit`: grouping by person, reading, default unit and alignment, landmarks, names of results."""

import collections
import json
import os
import pathlib
import re

import numpy as np

from jaxface import array_files, json_files, meshes, outputs
from jaxface.data import nphm_scans
from jaxface.errors import UserError

# Summaries of earlier runs, whose keys and entries name the meshes that they wrote.
FIT_SUMMARY, REGISTERED_SUMMARY = "fit.json", "registered.json"
# The folder in which macOS archives keep what is not the user's.
MACOS_FOLDER = "__MACOSX"
LANDMARKS = 68
MAX_LISTED = 5


def find(sources: list[str]) -> dict[str, list[pathlib.Path]]:
    """Scan files by person: "" for files and a flat folder, else the name of their folder.

    In folders, hidden files, results of earlier runs, and the meshes that NPHM's data set holds beside its scans are
    not scans. A scan in NPHM's layout, SSS/EEE/scan.ply or SSS/E/obs.npy, belongs to the person SSS. A file given
    twice is taken once. Raises UserError if a folder has no scan.
    """
    people: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    known = set()
    for source in map(pathlib.Path, sources):
        found = _in_folder(source) if source.is_dir() else [("", source)]
        for person, path in found:
            if outputs.real(path) not in known:
                known.add(outputs.real(path))
                people[person].append(path)
    return dict(people)


def _in_folder(source: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """(person, scan) of the scans of a folder and its subfolders."""
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and _is_scan(path, source)]
    results = _results({path.parent for path in paths})
    paths = [path for path in paths if path.resolve() not in results]
    if not paths:
        endings = ", ".join(meshes.READABLE)
        raise UserError(f"{source}: the folder has no scan; give files {endings} or {nphm_scans.OBSERVATION}")
    found = []
    for path in paths:
        person = path.parent.relative_to(source)
        if path.name == nphm_scans.OBSERVATION or _is_nphm(path.parent):
            person = person.parent
        found.append(("" if person == pathlib.Path() else person.as_posix(), path))
    return found


def _is_scan(path: pathlib.Path, source: pathlib.Path) -> bool:
    parts = path.relative_to(source).parts
    if any(part.startswith(".") or part == MACOS_FOLDER for part in parts):
        return False
    if path.name in nphm_scans.FILES[1:] and _is_nphm(path.parent):
        return False
    return path.name == nphm_scans.OBSERVATION or path.suffix.lower() in meshes.READABLE


def _is_nphm(folder: pathlib.Path) -> bool:
    """Whether a folder holds one scan of NPHM's data set."""
    scan, *others = (folder / name for name in nphm_scans.FILES)
    return scan.is_file() and any(path.is_file() for path in others)


def _results(folders: set[pathlib.Path]) -> set[pathlib.Path]:
    """Meshes that earlier runs wrote into these folders or their subfolders, according to their summaries."""
    written = set()
    ancestors = {ancestor for folder in folders for ancestor in (folder, *folder.parents)}
    for folder in ancestors:
        written |= {(folder / f"{name}.ply").resolve() for name in _summary(folder / FIT_SUMMARY)}
        for entry in _summary(folder / REGISTERED_SUMMARY).values():
            if isinstance(entry, dict) and isinstance(entry.get("mesh"), str):
                mesh = pathlib.Path(entry["mesh"])
                written |= {mesh.resolve(), (folder / mesh.name).resolve()}
            # Scans in a training set that `--training_set` wrote, wherever it was moved.
            if isinstance(entry, dict) and isinstance(entry.get("files"), list):
                files = [pathlib.Path(str(name)) for name in entry["files"]]
                written |= {folder.joinpath(*file.parts[-3:]).resolve() for file in files}
    return written


def _summary(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read(path: pathlib.Path) -> meshes.Mesh:
    """Reads a scan; the back view <stem>_back.npy of a single-view observation is added if it exists."""
    if path.suffix.lower() != ".npy":
        return meshes.read_scan(path)
    views = [nphm_scans.read_observation(path)]
    back = path.with_stem(f"{path.stem}_back")
    if back.is_file():
        views.append(nphm_scans.read_observation(back))
    return meshes.Mesh(np.concatenate(views), np.zeros((0, 3), np.int32))


def frame(path: pathlib.Path, units: str | None, align: str) -> tuple[str | None, str]:
    """(units, align) of a scan from the flags; by default .npy files are in NPHM's unit and frame."""
    if path.suffix.lower() != ".npy":
        return units, align
    units = units or "nphm"
    return units, "none" if align == "auto" and units == "nphm" else align


def read_landmarks(path: str, scans: list[pathlib.Path]) -> dict[pathlib.Path, np.ndarray]:
    """Landmarks (68,3) of scans in their own frames, NaN where they are missing.

    Args:
        path: for one scan 68 rows of three numbers (.npy or text), or the .npz that an earlier registration wrote; for
            several a JSON object {file name: 68 points}, with null for a missing point.
        scans: the scans of the run.

    Raises:
        UserError: the file holds anything else, or has no landmarks of a scan.
    """
    if path.lower().endswith(".json"):
        return _json_landmarks(pathlib.Path(path), scans)
    if len(scans) != 1:
        raise UserError(f"--landmarks: {path} is for one scan; give a .json {{file name: 68 points}} for {len(scans)}")
    if path.lower().endswith(".npz"):
        points = array_files.read_npz(path).get("landmarks", np.zeros(0))
    elif path.lower().endswith(".npy"):
        points = array_files.read_npy(path)
    else:
        try:
            points = np.loadtxt(path)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--landmarks: {path} cannot be read as numbers ({reason}); give {LANDMARKS} rows"
            ) from error
    return {scans[0]: _landmarks(points, path)}


def _json_landmarks(path: pathlib.Path, scans: list[pathlib.Path]) -> dict[pathlib.Path, np.ndarray]:
    try:
        entries = json_files.read(path, f"give {{file name: {LANDMARKS} points}}")
        by_name = {name: [[np.nan] * 3 if p is None else p for p in points] for name, points in entries.items()}
    except UserError as error:
        raise UserError(f"--landmarks: {error}") from error
    except TypeError as error:
        raise UserError(
            f"--landmarks: {path} cannot be read as {{file name: {LANDMARKS} points}} ({error}); check the file"
        ) from error
    found, counts = {}, collections.Counter(scan.name for scan in scans)
    for scan in scans:
        in_folder = f"{scan.parent.name}/{scan.name}"
        names = [str(scan), scan.as_posix(), in_folder] + [scan.name] * (counts[scan.name] == 1)
        keys = [name for name in names if name in by_name]
        if not keys:
            missing = in_folder if counts[scan.name] > 1 else scan.name
            raise UserError(f"--landmarks: {path} has no entry {missing}; add one, or leave the scan out")
        found[scan] = _landmarks(by_name[keys[0]], f"{path}, {keys[0]}")
    return found


def _landmarks(values: object, name: str) -> np.ndarray:
    try:
        points = np.asarray(values, np.float64)
    except (ValueError, TypeError):
        points = np.zeros(0)
    if points.shape != (LANDMARKS, 3):
        raise UserError(
            f"--landmarks: {name} must hold {LANDMARKS} points x y z in iBUG's order; it has {points.shape}"
        )
    return points


def in_time(paths: list[pathlib.Path], sources: list[str]) -> list[pathlib.Path]:
    """The scans of a person in the order of time.

    Files that the user listed one by one (`sources`) keep their order. Those of folders are ordered by their names, in
    which numbers count as numbers: frame_2 comes before frame_10.
    """
    if {*map(str, paths)} <= {*map(str, map(pathlib.Path, sources))}:
        return paths
    return sorted(paths, key=_with_numbers)


def _with_numbers(path: pathlib.Path) -> list[tuple[int, str]]:
    """Sort key of a path: pairs (0, text) and (number, "")."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)]


def result_names(people: dict[str, list[pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Scan files by the name of their results, "stem" or "person/stem", in the order of `people`."""
    names = {}
    for person, paths in people.items():
        for stem, path in zip(unique_stems(paths), paths, strict=True):
            names[str(pathlib.Path(person) / stem)] = path
    return names


def unique_stems(paths: list[pathlib.Path]) -> list[str]:
    """A unique name for each file: its stem, else its file name, else folder_file name, else number_file name."""
    names = [path.stem for path in paths]
    file_names = [path.name for path in paths]
    with_folder = [f"{path.parent.name}_{path.name}" for path in paths]
    numbered = [f"{number}_{path.name}" for number, path in enumerate(paths)]
    for longer in (file_names, with_folder, numbered):
        counts = collections.Counter(names)
        names = [name if counts[name] == 1 else other for name, other in zip(names, longer, strict=True)]
    return names


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 scan", "2 scans"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def reason(path: str | os.PathLike, error: Exception) -> str:
    """The message of a scan's error, which starts with its path once."""
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def outcome(done: int, verb: str, failed: dict[pathlib.Path, str]) -> str:
    """The last line of a run: "3 scans fitted, 1 failed: a.ply (…)"."""
    line = f"{count(done, 'scan')} {verb}"
    if not failed:
        return line
    reasons = list(failed.values())
    more = [f"and {len(reasons) - MAX_LISTED} more"] if len(reasons) > MAX_LISTED else []
    return f"{line}, {len(reasons)} failed: {'; '.join(reasons[:MAX_LISTED] + more)}"
