"""Fits a neural head to scans: python -m launch.fit --scan FILE [--scan FILE …] --output OUT [--workdir W]

Scans given together are one person in several expressions; a folder of folders holds a person each. --register brings a
head template onto each scan instead. Writes, in every
scan's own frame and unit, OUT/<stem>.ply, and codes.npz, fit.json (errors in mm) and a picture of each scan. Without
--workdir the head that ships is used.
"""

import collections
import json
import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image

from jaxface import checkpoint, meshes
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
HEAD = flags.DEFINE_string("head", "procedural", "register: the template, procedural or ict")
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
    from jaxface.systems.nphm import fit, picture, scans

    head = fit.head(predictor.config, predictor.params)
    clouds = {path: scans.points_of(meshes.read(path), path.name) for paths in people.values() for path in paths}
    laid = {path: head.lay(cloud, path.name, UNITS.value, ALIGN.value) for path, cloud in clouds.items()}
    print(f"fitting {len(clouds)} scans of {len(people)} people", file=sys.stderr)
    grouped = [[table[path] for path in paths] for table in (clouds, laid) for paths in people.values()]
    persons = head.fit(grouped[: len(people)], grouped[len(people) :])
    folder, summary, codes = pathlib.Path(OUTPUT.value), {}, {}
    with checkpoint.disk_errors(folder):
        for (name, paths), person in zip(people.items(), persons, strict=True):
            own = folder / name
            own.mkdir(parents=True, exist_ok=True)
            codes[f"{name}/identity" if name else "identity"] = person.identity
            codes[f"{name}/expressions" if name else "expressions"] = person.expressions
            for path, stem, one in zip(paths, stems(paths), person.fits, strict=True):
                _refuse_input(own / f"{stem}.ply", clouds)
                (own / f"{stem}.ply").write_bytes(meshes.encode(one.mesh, ".ply"))
                Image.fromarray(picture.beside(clouds[path], one.mesh, one.similarity)).save(own / f"{stem}.png")
                summary[str(pathlib.Path(name) / stem)] = {
                    "scan": str(path),
                    "points": len(clouds[path]),
                    "matrix": one.similarity.matrix().tolist(),
                    "errors_mm": one.errors,
                }
        np.savez(folder / "codes.npz", **codes)
        (folder / "fit.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name, one in summary.items():
        print(f"{name}: {one['errors_mm']['mean']:.2f} mm on average, {one['errors_mm']['p90']:.2f} mm for 90 %")


def find(sources: list[str]) -> dict[str, list[pathlib.Path]]:
    """Scans by person: {"": files} of files and a flat folder, {name: files} of a folder of folders.

    UserError where a source is missing or holds no scan.
    """
    people: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for source in map(pathlib.Path, sources):
        if not source.is_dir():
            people[""].append(source)
            continue
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in meshes.READABLE and path.is_file():
                parent = path.parent.relative_to(source)
                people["" if parent == pathlib.Path() else parent.as_posix()].append(path)
        if not people:
            raise UserError(f"{source}: there is no scan in it ({', '.join(meshes.READABLE)})")
    return dict(people)


def stems(paths: list[pathlib.Path]) -> list[str]:
    """Names of the results: the stems, but whole file names where two files share a stem."""
    counts = collections.Counter(path.stem for path in paths)
    names = [path.stem if counts[path.stem] == 1 else path.name for path in paths]
    again = collections.Counter(names)
    return [name if again[name] == 1 else f"{number}_{name}" for number, name in enumerate(names)]


def _refuse_input(target: pathlib.Path, inputs: dict) -> None:
    if target.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"{target} is a scan that would be overwritten; choose another --output")


def _of_workdir(workdir: str) -> Predictor:
    checkpoint.check_system(workdir, "nphm")
    return Predictor.from_workdir(workdir)


if __name__ == "__main__":
    app.run(main)
