"""The scans that `launch.fit` was given: which files are whose, how each is read and which frame it is in."""

import collections
import pathlib

import numpy as np

from jaxface import meshes
from jaxface.data import nphm_scans
from jaxface.errors import UserError


def find(given: list[str]) -> dict[str, list[pathlib.Path]]:
    """Scans by person: {"": files} of files and a flat folder, {name: files} of a folder of folders.

    Observations of NPHM's layout lie one folder deeper, that of their expression. UserError where there is no scan.
    """
    people: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for source in map(pathlib.Path, given):
        if not source.is_dir():
            people[""].append(source)
            continue
        for path in sorted(source.rglob("*")):
            observed = path.name == nphm_scans.OBSERVATION
            if (observed or path.suffix.lower() in meshes.READABLE) and path.is_file():
                parent = path.parent.relative_to(source)
                parent = parent.parent if observed else parent
                people["" if parent == pathlib.Path() else parent.as_posix()].append(path)
        if not people:
            raise UserError(f"{source}: there is no scan in it ({', '.join(meshes.READABLE)})")
    return dict(people)


def read(path: pathlib.Path) -> meshes.Mesh:
    """A scan from its file; one of a single view is joined by the view of its back where that lies beside it."""
    if path.suffix != ".npy":
        return meshes.read(path)
    views = [nphm_scans.read_observation(path)]
    back = path.with_stem(f"{path.stem}_back")
    if back.is_file():
        views.append(nphm_scans.read_observation(back))
    return meshes.Mesh(np.concatenate(views), np.zeros((0, 3), np.int32))


def frame(path: pathlib.Path, units: str | None, align: str) -> tuple[str | None, str]:
    """The flags --units and --align for a scan: what they leave open is known of an .npy, which is in NPHM's frame."""
    if path.suffix != ".npy":
        return units, align
    units = units or "nphm"
    return units, "none" if align == "auto" and units == "nphm" else align


def named(people: dict[str, list[pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Scans by the name of their results, "stem" or "person/stem", in the order of the people."""
    return {
        str(pathlib.Path(name) / stem): path
        for name, paths in people.items()
        for stem, path in zip(stems(paths), paths, strict=True)
    }


def stems(paths: list[pathlib.Path]) -> list[str]:
    """Names of the results: the stems, but where two files share one whole file names, or folder and file name."""
    names = [path.stem for path in paths]
    numbered = [f"{number}_{path.name}" for number, path in enumerate(paths)]
    for longer in ([path.name for path in paths], [f"{path.parent.name}_{path.name}" for path in paths], numbered):
        counts = collections.Counter(names)
        names = [name if counts[name] == 1 else other for name, other in zip(names, longer, strict=True)]
    return names
