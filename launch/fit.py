"""Fits a neural head model to scans: python -m launch.fit --scan FILE [--scan FILE …] --output OUT [--workdir W]

Scans given together are one person in several expressions; in a folder of folders each subfolder is a person. Writes
OUT/<stem>.ply in the frame and unit of each scan, a comparison image OUT/<stem>.png, codes.npz, and fit.json (units
taken, errors in mm). A scan that cannot be read or fitted is named and left out; the exit status is then 1. Without
--workdir the pretrained model is used. With --sequence the scans of a person are frames in time, in the order of the
numbers in their names, and each is fitted from the frame before. With --register, a head template is registered to each
scan instead, starting from 68 landmarks that are detected, or read from --landmarks; with --training_set the results
are a data set for training: scans in, neural head model out (docs/systems/nphm.md).

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
from jaxface.errors import UserError, disk_errors
from jaxface.inference import Predictor
from jaxface.results import HeadFit

from . import app, scan_files

SCAN = flags.DEFINE_multi_string("scan", None, "mesh or point cloud, or a folder of these or of folders of people")
WORKDIR = flags.DEFINE_string("workdir", None, "workdir of an nphm training run or converted checkpoint")
UNITS = flags.DEFINE_enum("units", None, list(meshes.MM_PER), "unit of the scans (default: inferred from size)")
ALIGN = flags.DEFINE_string(
    "align", "auto", "auto (ICP), none (scans are in FLAME's frame), or a file with a 4x4 matrix or anchor positions"
)
SEQUENCE = flags.DEFINE_boolean(
    "sequence", False, "the scans of a person are frames in time, each fitted from the frame before"
)
OUTPUT = flags.DEFINE_string("output", None, "folder of the results")
REGISTER = flags.DEFINE_boolean("register", False, "register a head template to each scan instead")
HEAD = flags.DEFINE_string("head", "makehuman", "with --register: the template, makehuman, ict or flame")
HEAD_PATH = flags.DEFINE_string("head_path", "", "with --register: the file of a template that is not embedded")
TRAINING_SET = flags.DEFINE_boolean(
    "training_set", False, "with --register: write OUT as a data set of people for launch.prepare --dataset nphm"
)
LANDMARKS = flags.DEFINE_string(
    "landmarks", None, "with --register: 68 points of a scan (.npy, .npz, text), or .json {file name: points}"
)
# Flags of one of the two jobs only.
FIT_FLAGS, REGISTER_FLAGS = (WORKDIR, UNITS, ALIGN, SEQUENCE), (HEAD, HEAD_PATH, LANDMARKS, TRAINING_SET)

Paths = Mapping[str, pathlib.Path]


def main(argv: list[str]) -> int:
    """Reads the scans, fits every person and writes the results; returns 1 if a scan failed."""
    del argv
    _check_flags()
    people, output = scan_files.find(app.required(SCAN)), pathlib.Path(app.required(OUTPUT))
    if SEQUENCE.value:
        people = {person: scan_files.in_time(files, SCAN.value) for person, files in people.items()}
    paths = scan_files.result_names(people)
    failed: dict[pathlib.Path, str] = {}
    if TRAINING_SET.value:
        from . import fit_dataset

        _prepare_folder(output, paths, fit_dataset.targets(people, output))
        done = fit_dataset.run(people, HEAD.value, HEAD_PATH.value, output, LANDMARKS.value, UNITS.value, failed)
        print(scan_files.outcome(done, "registered", failed))
        return 1 if failed else 0
    _prepare_folder(output, paths, _targets(output, paths))
    if REGISTER.value:
        from . import fit_register

        done = fit_register.run(people, HEAD.value, HEAD_PATH.value, str(output), LANDMARKS.value, failed)
        print(scan_files.outcome(done, "registered", failed))
        return 1 if failed else 0
    fits = fit(_predictor(), people, failed)
    if fits:
        write(output, people, fits, paths)
    for name, path in paths.items():
        if path in fits:
            errors_mm, unit = fits[path].errors_mm, fits[path].unit or "of --align"
            print(f"{name}: unit {unit}, mean error {errors_mm['mean']:.2f} mm, p90 {errors_mm['p90']:.2f} mm")
    print(scan_files.outcome(len(fits), "fitted", failed))
    return 1 if failed else 0


def _prepare_folder(output: pathlib.Path, paths: Paths, targets: Iterable[pathlib.Path]) -> None:
    """Creates the folder before the work. Raises UserError if it or one of the files `targets` cannot be written."""
    writer = outputs.Writer(output, paths.values())
    writer.check(targets)
    writer.make_folder()


def _check_flags() -> None:
    """Raises UserError for a flag that the job would ignore."""
    unused, job = (FIT_FLAGS, "with") if REGISTER.value else (REGISTER_FLAGS, "without")
    for flag in unused:
        if flag.present and not (flag is UNITS and TRAINING_SET.value):
            raise UserError(f"--{flag.name}: not used {job} --register; leave it out")


def _predictor() -> Predictor:
    if WORKDIR.value is None:
        return Predictor.pretrained("nphm")
    config_file.check_system(WORKDIR.value, "nphm")
    return Predictor.from_workdir(WORKDIR.value)


def fit(
    predictor: Predictor, people: Mapping[str, list[pathlib.Path]], failed: dict[pathlib.Path, str]
) -> dict[pathlib.Path, HeadFit]:
    """Fits the scans of each person, with --sequence as frames in time.

    Args:
        predictor: the model.
        people: as from `scan_files.find`.
        failed: reasons by file, to which scans that cannot be read or fitted are added; they are also printed.

    Returns:
        The fits by file.
    """
    from jaxface.systems.nphm import scan_fit, sequence
    from jaxface.systems.nphm.fitting import scans
    from jaxface.systems.nphm.surface import head_model

    def fail(name: str, error: UserError) -> None:
        failed[pathlib.Path(name)] = scan_files.reason(name, error)
        print(failed[pathlib.Path(name)], file=sys.stderr)

    head = head_model.load(predictor.config, predictor.params)
    settings = predictor.config.fit
    scans_of: list[list] = []
    for paths in people.values():
        person = []
        for path in paths:
            try:
                points = scans.scan_points(scan_files.read(path), str(path))
                name, (units, align) = str(path), scan_files.frame(path, UNITS.value, ALIGN.value)
                if SEQUENCE.value:
                    person.append(sequence.Frame(name, points, units, align))
                else:
                    person.append(scan_fit.align(head, points, name, units, align))
            except UserError as error:
                if str(error).startswith("--"):  # a flag is wrong, for every scan
                    raise
                fail(str(path), error)
        if person:
            scans_of.append(person)
    total = scan_files.count(sum(map(len, scans_of)), "scan")
    print(f"fitting {total} of {scan_files.count(len(scans_of), 'person', 'people')}", file=sys.stderr)
    if SEQUENCE.value:
        fits = [sequence.fit_sequence(head, settings, frames, fail) for frames in scans_of]
    else:
        fits = scan_fit.fit_people(head, settings, scans_of, fail)
    return {
        pathlib.Path(scan.name): result
        for person, results in zip(scans_of, fits, strict=True)
        for scan, result in zip(person, results, strict=True)
        if result is not None
    }


def write(
    folder: pathlib.Path,
    people: Mapping[str, list[pathlib.Path]],
    fits: Mapping[pathlib.Path, HeadFit],
    paths: Paths,
) -> None:
    """Writes meshes, comparison images, codes.npz and fit.json.

    Args:
        folder: the output folder.
        people: scan files by person.
        fits: fits by scan file; scans that failed have none.
        paths: scan files by result name, see `scan_files.result_names`.

    Raises:
        UserError: the disk is full or not writable.
    """
    codes = {}
    for person, files in people.items():
        fitted = [fits[path] for path in files if path in fits]
        if fitted:
            prefix = f"{person}/" if person else ""
            codes[f"{prefix}identity"] = fitted[0].identity
            codes[f"{prefix}expressions"] = np.stack([fit.expression for fit in fitted])
    by_name = {name: fits[path] for name, path in paths.items() if path in fits}
    summary = {name: {"scan": str(paths[name]), **fit.to_json()} for name, fit in by_name.items()}
    with disk_errors(folder):
        for name, fit in by_name.items():
            target = folder / f"{name}.ply"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(meshes.encode(fit.mesh, ".ply", fit.unit))
            Image.fromarray(fit.draw()).save(folder / f"{name}.png")
        np.savez(folder / "codes.npz", **codes)
        (folder / scan_files.FIT_SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def _targets(folder: pathlib.Path, names: Iterable[str]) -> list[pathlib.Path]:
    """The files that a run writes for results of these names."""
    endings = ("_registered.ply", "_registered.npz") if REGISTER.value else (".ply", ".png")
    summaries = ("registered.json",) if REGISTER.value else ("fit.json", "codes.npz")
    results = [f"{name}{ending}" for name in names for ending in endings]
    return [folder / name for name in (*results, *summaries)]


if __name__ == "__main__":
    app.run(main)
