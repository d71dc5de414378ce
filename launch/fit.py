"""Fits a neural head to scans: python -m launch.fit --scan FILE [--scan FILE …] --output OUT [--workdir W]

Scans given together are one person in several expressions; a folder of folders holds a person each. Writes, in every
scan's own frame and unit, OUT/<stem>.ply, and codes.npz, fit.json (errors in mm) and a picture of each scan. Without
--workdir the head that ships is used. --register brings a head template onto each scan instead.

Single-view observations of NPHM's data set are scans as well: obs.npy or full_obs.npy, with the back's view if that
lies beside it, or a folder of SSS/E/obs.npy. An .npy has NPHM's units and pose, as --units nphm --align none would say,
unless these flags say otherwise.
"""

import json
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
from absl import flags
from PIL import Image

from jaxface import checkpoint, meshes
from jaxface.errors import UserError
from jaxface.inference import Predictor

from . import app, scan_files

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
    people = scan_files.find(SCAN.value)
    if REGISTER.value:
        from . import fit_register

        fit_register.run(people, HEAD.value, HEAD_PATH.value, OUTPUT.value)
        return
    predictor = Predictor.pretrained("nphm") if WORKDIR.value is None else _of_workdir(WORKDIR.value)
    from jaxface.systems.nphm import predict
    from jaxface.systems.nphm.fitting import scans

    paths = scan_files.named(people)
    for name in paths:
        _refuse_input(pathlib.Path(OUTPUT.value) / f"{name}.ply", paths.values())
    head = predict.head(predictor.config, predictor.params)
    clouds = {path: scans.points_of(scan_files.read(path), path.name) for paths in people.values() for path in paths}
    frames = {path: scan_files.frame(path, UNITS.value, ALIGN.value) for path in clouds}
    laid = {path: head.lay(cloud, path.name, *frames[path]) for path, cloud in clouds.items()}
    print(f"fitting {len(clouds)} scans of {len(people)} people", file=sys.stderr)
    listed = [[[table[path] for path in paths] for paths in people.values()] for table in (clouds, laid)]
    persons = dict(zip(people, head.fit(*listed), strict=True))
    fits = dict(zip(paths, [one for person in persons.values() for one in person.fits], strict=True))
    write(pathlib.Path(OUTPUT.value), persons, fits, paths, clouds)
    for name, one in fits.items():
        print(f"{name}: {one.errors['mean']:.2f} mm on average, {one.errors['p90']:.2f} mm for 90 %")


def write(folder: pathlib.Path, persons: dict, fits: dict, paths: dict[str, pathlib.Path], clouds: dict) -> None:
    """All that a fit leaves: persons by name, fits and paths by result, points (N,3) by path. UserError: full disk."""
    from jaxface.systems.nphm.surface import visualize

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
            drawn = visualize.beside(clouds[paths[name]], one.mesh, one.similarity)
            Image.fromarray(drawn).save(folder / f"{name}.png")
        np.savez(folder / "codes.npz", **codes)
        (folder / "fit.json").write_text(json.dumps(summary, indent=2) + "\n")


def _refuse_input(target: pathlib.Path, inputs: Iterable[pathlib.Path]) -> None:
    if target.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"{target} is a scan that would be overwritten; choose another --output")


def _of_workdir(workdir: str) -> Predictor:
    checkpoint.check_system(workdir, "nphm")
    return Predictor.from_workdir(workdir)


if __name__ == "__main__":
    app.run(main)
