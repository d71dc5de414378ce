"""Fits a neural head to scans: python -m launch.fit --scan FILE [--scan FILE …] --output OUT [--workdir W]

Scans given together are one person in several expressions; a folder of folders holds a person each. Writes, in every
scan's own frame and unit, OUT/<stem>.ply, and codes.npz, fit.json (errors in mm) and a picture of each scan. Without
--workdir the head that ships is used. --register brings a head template onto each scan instead.

Single-view observations of NPHM's data set are scans as well: obs.npy or full_obs.npy, with the back's view if that
lies beside it, or a folder of SSS/E/obs.npy. An .npy has NPHM's units and pose, as --units nphm --align none would say,
unless these flags say otherwise.
"""

import collections
import json
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
from absl import flags
from PIL import Image

from jaxface import checkpoint, meshes
from jaxface.data import nphm_scans
from jaxface.errors import UserError
from jaxface.inference import Predictor
from launch import app

SCAN = flags.DEFINE_multi_string("scan", None, "mesh or cloud of points, or a folder of these or of people's folders")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint of nphm")
UNITS = flags.DEFINE_enum("units", None, ["mm", "cm", "m", "nphm"], "unit of the scans (default: from their size)")
ALIGN = flags.DEFINE_string(
    "align", "auto", "auto, none (the scan lies in FLAME's frame), or a file: a matrix, anchors"
)
OUTPUT = flags.DEFINE_string("output", None, "folder of the results")
REGISTER = flags.DEFINE_boolean("register", False, "instead bring a head template onto each scan")
HEAD = flags.DEFINE_string("head", "procedural", "register: the template, procedural, ict or flame")
HEAD_PATH = flags.DEFINE_string("head_path", "", "register: the file of a template that is not embedded")


def main(argv: list[str]) -> None:
    """Reads the scans, fits every person and writes the results."""
    del argv
    if not SCAN.value or not OUTPUT.value:
        raise UserError("needs --scan FILE or FOLDER, and --output OUT")
    people = find(SCAN.value)
    if REGISTER.value:
        from launch import fit_register

        fit_register.run(people, HEAD.value, HEAD_PATH.value, OUTPUT.value)
        return
    predictor = Predictor.pretrained("nphm") if WORKDIR.value is None else _of_workdir(WORKDIR.value)
    from jaxface.systems.nphm import fit, scans

    for name in named(people):
        _refuse_input(pathlib.Path(OUTPUT.value) / f"{name}.ply", named(people).values())
    head = fit.head(predictor.config, predictor.params)
    clouds = {path: scans.points_of(read(path), path.name) for paths in people.values() for path in paths}
    laid = {path: head.lay(cloud, path.name, *frame(path, UNITS.value, ALIGN.value)) for path, cloud in clouds.items()}
    print(f"fitting {len(clouds)} scans of {len(people)} people", file=sys.stderr)
    listed = [[[table[path] for path in paths] for paths in people.values()] for table in (clouds, laid)]
    persons = dict(zip(people, head.fit(*listed), strict=True))
    fits = dict(zip(named(people), [one for person in persons.values() for one in person.fits], strict=True))
    write(pathlib.Path(OUTPUT.value), persons, fits, named(people), clouds)
    for name, one in fits.items():
        print(f"{name}: {one.errors['mean']:.2f} mm on average, {one.errors['p90']:.2f} mm for 90 %")


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


def write(folder: pathlib.Path, persons: dict, fits: dict, paths: dict[str, pathlib.Path], clouds: dict) -> None:
    """All that a fit leaves: persons by name, fits and paths by result, points (N,3) by path. UserError: full disk."""
    from jaxface.systems.nphm import picture

    codes = {}
    for name, person in persons.items():
        prefix = f"{name}/" if name else ""
        codes |= {f"{prefix}identity": person.identity, f"{prefix}expressions": person.expressions}
    summary = {
        name: {
            "scan": str(paths[name]),
            "points": len(clouds[paths[name]]),
            "matrix": one.similarity.matrix().tolist(),
            "errors_mm": one.errors,
        }
        for name, one in fits.items()
    }
    with checkpoint.disk_errors(folder):
        for name, one in fits.items():
            target = folder / f"{name}.ply"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(meshes.encode(one.mesh, ".ply"))
            drawn = picture.beside(clouds[paths[name]], one.mesh, one.similarity)
            Image.fromarray(drawn).save(folder / f"{name}.png")
        np.savez(folder / "codes.npz", **codes)
        (folder / "fit.json").write_text(json.dumps(summary, indent=2) + "\n")


def named(people: dict[str, list[pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Scans by the name of their results, "stem" or "person/stem", in the order of the people."""
    return {
        str(pathlib.Path(name) / stem): path
        for name, paths in people.items()
        for stem, path in zip(stems(paths), paths, strict=True)
    }


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


def stems(paths: list[pathlib.Path]) -> list[str]:
    """Names of the results: the stems, but where two files share one whole file names, or folder and file name."""
    names = [path.stem for path in paths]
    numbered = [f"{number}_{path.name}" for number, path in enumerate(paths)]
    for longer in ([path.name for path in paths], [f"{path.parent.name}_{path.name}" for path in paths], numbered):
        counts = collections.Counter(names)
        names = [name if counts[name] == 1 else other for name, other in zip(names, longer, strict=True)]
    return names


def _refuse_input(target: pathlib.Path, inputs: Iterable[pathlib.Path]) -> None:
    if target.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"{target} is a scan that would be overwritten; choose another --output")


def _of_workdir(workdir: str) -> Predictor:
    checkpoint.check_system(workdir, "nphm")
    return Predictor.from_workdir(workdir)


if __name__ == "__main__":
    app.run(main)
