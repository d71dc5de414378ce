"""Fits a neural head model to scans: python -m launch.fit --scan FILE [--scan FILE …] --output OUT [--workdir W]

Scans given together are one person in several expressions; in a folder of folders each subfolder is a person. Writes
OUT/<stem>.ply in the frame and unit of each scan, a comparison image OUT/<stem>.png, codes.npz, and fit.json (errors in
mm). Without --workdir the pretrained model is used. With --register, a head template is registered to each scan
instead; --workdir, --units and --align are then unused.

Single-view observations of the NPHM data set can be given as obs.npy or full_obs.npy, or as a folder of SSS/E/obs.npy
(S subject, E expression). A back view in the same folder (obs_back.npy) is added. For .npy files the defaults are
--units nphm and --align none.
"""

import json
import pathlib
import sys
from collections.abc import Iterable, Mapping

import numpy as np
from absl import flags
from PIL import Image

from jaxface import config_file, meshes, outputs
from jaxface.errors import disk_errors
from jaxface.inference import Predictor
from jaxface.results import HeadFit

from . import app, scan_files

SCAN = flags.DEFINE_multi_string("scan", None, "mesh or point cloud, or a folder of these or of folders of people")
WORKDIR = flags.DEFINE_string("workdir", None, "workdir of an nphm training run or converted checkpoint")
UNITS = flags.DEFINE_enum("units", None, ["mm", "cm", "m", "nphm"], "unit of the scans (default: inferred from size)")
ALIGN = flags.DEFINE_string(
    "align", "auto", "auto (ICP), none (scans are in FLAME's frame), or a file with a 4x4 matrix or anchor positions"
)
OUTPUT = flags.DEFINE_string("output", None, "folder of the results")
REGISTER = flags.DEFINE_boolean("register", False, "register a head template to each scan instead")
HEAD = flags.DEFINE_string("head", "makehuman", "with --register: the template, makehuman, ict or flame")
HEAD_PATH = flags.DEFINE_string("head_path", "", "with --register: the file of a template that is not embedded")


def main(argv: list[str]) -> None:
    """Reads the scans, fits every person and writes the results."""
    del argv
    people, output = scan_files.find(app.required(SCAN)), pathlib.Path(app.required(OUTPUT))
    paths = scan_files.result_names(people)
    outputs.Writer(output, paths.values()).check(_targets(output, paths))
    if REGISTER.value:
        from . import fit_register

        fit_register.run(people, HEAD.value, HEAD_PATH.value, output)
        return
    people_fits = fit(_predictor(), people)
    fits = dict(zip(paths, [fit for person in people_fits.values() for fit in person], strict=True))
    write(output, people_fits, fits, paths)
    for name, result in fits.items():
        print(f"{name}: mean error {result.errors_mm['mean']:.2f} mm, 90th percentile {result.errors_mm['p90']:.2f} mm")


def _predictor() -> Predictor:
    if WORKDIR.value is None:
        return Predictor.pretrained("nphm")
    config_file.check_system(WORKDIR.value, "nphm")
    return Predictor.from_workdir(WORKDIR.value)


def fit(predictor: Predictor, people: Mapping[str, list[pathlib.Path]]) -> dict[str, list[HeadFit]]:
    """Aligns and fits the scans of each person; `people` is as from `scan_files.find`."""
    from jaxface.systems.nphm import predict
    from jaxface.systems.nphm.fitting import scans
    from jaxface.systems.nphm.surface import head_model

    head = head_model.load(predictor.config, predictor.params)
    aligned = {}
    for person, paths in people.items():
        aligned[person] = []
        for path in paths:
            points = scans.scan_points(scan_files.read(path), path.name)
            units, align = scan_files.frame(path, UNITS.value, ALIGN.value)
            aligned[person].append(predict.align(head, points, path.name, units, align))
    count = sum(len(person) for person in aligned.values())
    print(f"fitting {count} scans of {len(aligned)} people", file=sys.stderr)
    return dict(zip(aligned, predict.fit_people(head, predictor.config.fit, list(aligned.values())), strict=True))


def write(
    folder: pathlib.Path,
    people: Mapping[str, list[HeadFit]],
    fits: Mapping[str, HeadFit],
    paths: Mapping[str, pathlib.Path],
) -> None:
    """Writes meshes, comparison images, codes.npz and fit.json.

    Args:
        folder: the output folder.
        people: fits by person.
        fits: the same fits by result name, see `scan_files.result_names`.
        paths: scan files by result name.

    Raises:
        UserError: the disk is full or not writable.
    """
    codes = {}
    for name, person in people.items():
        prefix = f"{name}/" if name else ""
        codes[f"{prefix}identity"] = person[0].identity
        codes[f"{prefix}expressions"] = np.stack([fit.expression for fit in person])
    summary = {name: {"scan": str(paths[name]), **fit.to_json()} for name, fit in fits.items()}
    with disk_errors(folder):
        for name, fit in fits.items():
            target = folder / f"{name}.ply"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(meshes.encode(fit.mesh, ".ply"))
            Image.fromarray(fit.draw()).save(folder / f"{name}.png")
        np.savez(folder / "codes.npz", **codes)
        (folder / "fit.json").write_text(json.dumps(summary, indent=2) + "\n")


def _targets(folder: pathlib.Path, names: Iterable[str]) -> list[pathlib.Path]:
    """The files that a run writes for results of these names."""
    endings = ("_registered.ply", "_registered.npz") if REGISTER.value else (".ply", ".png")
    summaries = ("registered.json",) if REGISTER.value else ("fit.json", "codes.npz")
    return [folder / f"{name}{ending}" for name in names for ending in endings] + [folder / name for name in summaries]


if __name__ == "__main__":
    app.run(main)
