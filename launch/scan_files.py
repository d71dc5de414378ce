"""Scan files of `launch.fit`: which person each belongs to, how it is read, its default frame, names of the results."""

import collections
import pathlib

import numpy as np

from jaxface import meshes
from jaxface.data import nphm_scans
from jaxface.errors import UserError


def find(sources: list[str]) -> dict[str, list[pathlib.Path]]:
    """Scan files by person: "" for files and a flat folder, else the name of their folder.

    In NPHM's layout, observations lie one folder deeper, in that of their expression. UserError if a folder holds no
    scan.
    """
    people: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for source in map(pathlib.Path, sources):
        if not source.is_dir():
            people[""].append(source)
            continue
        for path in sorted(source.rglob("*")):
            observation = path.name == nphm_scans.OBSERVATION
            if (observation or path.suffix.lower() in meshes.READABLE) and path.is_file():
                parent = path.parent.relative_to(source)
                parent = parent.parent if observation else parent
                people["" if parent == pathlib.Path() else parent.as_posix()].append(path)
        if not people:
            raise UserError(f"{source}: the folder holds no scan ({', '.join(meshes.READABLE)})")
    return dict(people)


def read(path: pathlib.Path) -> meshes.Mesh:
    """Reads a scan; a single-view observation is joined with the back view next to it, if there is one."""
    if path.suffix != ".npy":
        return meshes.read(path)
    views = [nphm_scans.read_observation(path)]
    back = path.with_stem(f"{path.stem}_back")
    if back.is_file():
        views.append(nphm_scans.read_observation(back))
    return meshes.Mesh(np.concatenate(views), np.zeros((0, 3), np.int32))


def frame(path: pathlib.Path, units: str | None, align: str) -> tuple[str | None, str]:
    """The flags --units and --align of a scan, with the defaults of .npy files, which are in NPHM's frame."""
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
    """A unique name for each file: the shortest of stem, file name, folder and file name, and number and file name."""
    names = [path.stem for path in paths]
    file_names = [path.name for path in paths]
    with_folder = [f"{path.parent.name}_{path.name}" for path in paths]
    numbered = [f"{number}_{path.name}" for number, path in enumerate(paths)]
    for longer in (file_names, with_folder, numbered):
        counts = collections.Counter(names)
        names = [name if counts[name] == 1 else other for name, other in zip(names, longer, strict=True)]
    return names
