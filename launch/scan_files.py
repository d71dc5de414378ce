"""Scan files of `launch.fit`: grouping by person, reading, default unit and alignment, names of the results."""

import collections
import pathlib

import numpy as np

from jaxface import meshes
from jaxface.data import nphm_scans
from jaxface.errors import UserError


def find(sources: list[str]) -> dict[str, list[pathlib.Path]]:
    """Scan files by person: "" for files and a flat folder, else the name of their folder.

    An observation in NPHM's layout, SSS/E/obs.npy, belongs to the person SSS. Raises UserError if a folder has no scan.
    """
    people: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for source in map(pathlib.Path, sources):
        if not source.is_dir():
            people[""].append(source)
            continue
        scans = [path for path in sorted(source.rglob("*")) if path.is_file() and _is_scan(path)]
        if not scans:
            endings = ", ".join(meshes.READABLE)
            raise UserError(f"{source}: the folder has no scan; give files {endings} or {nphm_scans.OBSERVATION}")
        for path in scans:
            person = path.parent.relative_to(source)
            person = person.parent if path.name == nphm_scans.OBSERVATION else person
            people["" if person == pathlib.Path() else person.as_posix()].append(path)
    return dict(people)


def _is_scan(path: pathlib.Path) -> bool:
    return path.name == nphm_scans.OBSERVATION or path.suffix.lower() in meshes.READABLE


def read(path: pathlib.Path) -> meshes.Mesh:
    """Reads a scan; the back view <stem>_back.npy of a single-view observation is added if it exists."""
    if path.suffix != ".npy":
        return meshes.read(path)
    views = [nphm_scans.read_observation(path)]
    back = path.with_stem(f"{path.stem}_back")
    if back.is_file():
        views.append(nphm_scans.read_observation(back))
    return meshes.Mesh(np.concatenate(views), np.zeros((0, 3), np.int32))


def frame(path: pathlib.Path, units: str | None, align: str) -> tuple[str | None, str]:
    """(units, align) of a scan from the flags; by default .npy files are in NPHM's unit and frame."""
    if path.suffix != ".npy":
        return units, align
    units = units or "nphm"
    return units, "none" if align == "auto" and units == "nphm" else align


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
