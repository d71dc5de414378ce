"""`launch.fit --register --training_set`: registered scans as a data set that `launch.prepare --dataset nphm` reads.

The folder has NPHM's layout (`jaxface.data.nphm_scans`), with the scans in true size in its frame and unit, and a
template file, which says where the anchors are and who is for training.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.spatial

from jaxface import meshes, outputs
from jaxface.data import nphm_scans
from jaxface.errors import UserError, disk_errors
from jaxface.geometry import sampling
from jaxface.heads import flame, head_space, sources
from jaxface.heads.closed import ClosedHead, close
from jaxface.meshes import Mesh
from jaxface.systems.nphm.fitting import register, scans

from . import fit_register, scan_files

# Every VALIDATION_EVERY-th person, and the last one, is for validation.
VALIDATION_EVERY = 20
MAX_PEOPLE = MAX_EXPRESSIONS = 999
# The scan with this word in its name is the neutral one of its person.
NEUTRAL = "neutral"
# Expression that neutral scans may have as well, to open the lips.
JAW = "jawOpen"

People = Mapping[str, Sequence[pathlib.Path]]


def targets(people: People, folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that a run writes into `folder`. Raises UserError for too few or too many people or expressions."""
    if not 2 <= len(people) <= MAX_PEOPLE or max(map(len, people.values())) > MAX_EXPRESSIONS:
        raise UserError(
            f"--training_set: {len(people)} people; give a folder with a subfolder of scans for each of 2 to "
            f"{MAX_PEOPLE} people, with at most {MAX_EXPRESSIONS} scans each"
        )
    found = [folder / name for name in (nphm_scans.NEUTRALS, nphm_scans.FACE_MASK, nphm_scans.TEMPLATE_FILE)]
    for subject, paths in enumerate(people.values(), start=1):
        for number in range(1, len(paths) + 1):
            found += [nphm_scans.scan_folder(folder, subject, number) / name for name in nphm_scans.FILES]
    return [*found, folder / scan_files.REGISTERED_SUMMARY]


def run(
    people: People,
    head: str,
    head_path: str,
    folder: pathlib.Path,
    landmarks_path: str | None,
    units: str | None,
    failed: dict[pathlib.Path, str],
) -> int:
    """Registers the scans of all people and writes the data set; returns the number of registered scans.

    Subject S and expression E, both numbered from 1 in the order of `people`, are written to `folder`/SSS/EEE.

    Args:
        people: scan files by person.
        head: name of the template (`heads.sources.load_head`).
        head_path: its file, if it is not embedded.
        folder: folder of the data set.
        landmarks_path: file of landmarks (`scan_files.read_landmarks`); without it they are detected.
        units: the unit of the scans; None infers it.
        failed: reasons by file, to which scans that cannot be registered are added; they are also printed.

    Raises:
        UserError: fewer than two people have a registered scan, or the folder cannot be written.
    """
    every = [path for paths in people.values() for path in paths]
    landmarks = {} if landmarks_path is None else scan_files.read_landmarks(landmarks_path, every)
    closed = close(sources.load_head(head, head_path))
    detect = fit_register.detector() if landmarks_path is None else None
    summary: dict[str, dict] = {}
    neutrals: dict[int, int] = {}
    with disk_errors(folder):
        for subject, paths in enumerate(people.values(), start=1):
            activities = {}
            for number, path in enumerate(paths, start=1):
                print(f"registering {path}", file=sys.stderr)
                target = nphm_scans.scan_folder(folder, subject, number)
                try:
                    scan, result, _ = fit_register.register_file(path, closed, detect, landmarks.get(path))
                    unit = _write_scan(target, path, scan, result, closed, units)
                except UserError as error:
                    failed[path] = scan_files.reason(path, error)
                    print(failed[path], file=sys.stderr)
                    continue
                activities[number] = _activity(path, result, closed)
                summary[str(path)] = {
                    "mesh": str(target / nphm_scans.FILES[2]),
                    "files": [str(target / name) for name in nphm_scans.FILES],
                    "unit": unit,
                    **fit_register.errors(path, result),
                }
            if activities:
                neutrals[subject] = min(activities, key=lambda number: activities[number])
                print(f"neutral scan of person {subject:03d}: {paths[neutrals[subject] - 1]}")
            # After every person, so that an interrupted run leaves the report of those that are done.
            folder.mkdir(parents=True, exist_ok=True)
            (folder / scan_files.REGISTERED_SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        if len(neutrals) < 2:
            raise UserError(f"--training_set: {len(neutrals)} people could be registered; at least 2 are needed")
        write_description(folder, closed, neutrals)
    print(f"python -m launch.prepare --dataset nphm --manual_dir {folder} makes the data set for training")
    return len(summary)


def write_description(folder: pathlib.Path, closed: ClosedHead, neutrals: Mapping[int, int]) -> None:
    """Writes the files that describe the data set as a whole.

    Args:
        folder: folder of the data set.
        closed: the template.
        neutrals: the number of the neutral scan by subject.
    """
    subjects = sorted(neutrals)
    validation = sorted({*subjects[VALIDATION_EVERY - 1 :: VALIDATION_EVERY], subjects[-1]})
    np.save(folder / nphm_scans.FACE_MASK, register.face_vertices(closed))
    names = {f"{subject:03d}": number for subject, number in neutrals.items()}
    (folder / nphm_scans.NEUTRALS).write_text(json.dumps(names, indent=2) + "\n")
    description = {
        **outputs.listing([nphm_scans.FACE_MASK, nphm_scans.NEUTRALS]),
        "head": closed.head.name,
        "anchors": anchor_vertices(closed).tolist(),
        "throat": throat_vertices(closed).tolist(),
        "train": [subject for subject in subjects if subject not in validation],
        "validation": validation,
    }
    (folder / nphm_scans.TEMPLATE_FILE).write_text(json.dumps(description) + "\n")


def anchor_vertices(closed: ClosedHead) -> np.ndarray:
    """The 39 anchors as vertices of the closed head: NPHM's on FLAME, otherwise those of `head_space`."""
    on_head = np.array(flame.ANCHORS) if closed.head.name == "flame" else head_space.anchor_vertices(closed.head)
    return _on_skin(closed, on_head)


def throat_vertices(closed: ClosedHead) -> np.ndarray:
    """Three vertices (3,) of the closed head's lower boundary, whose plane, with its normal upwards, cuts the neck."""
    template = np.asarray(closed.head.template)
    loops = [filling.loop for filling in closed.fillings if not filling.kind]
    loop = min(loops, key=lambda vertices: template[vertices, 1].mean())
    first = int(template[loop, 2].argmax())
    corners = np.roll(loop, -first)[[0, len(loop) // 3, 2 * len(loop) // 3]]
    if not flame.above_throat(template[[template[:, 1].argmax()]], template[corners])[0]:
        corners = corners[::-1]
    return _on_skin(closed, corners)


def _on_skin(closed: ClosedHead, vertices: np.ndarray) -> np.ndarray:
    """Head vertices as vertices of the closed head, whose skin comes first."""
    found = np.searchsorted(closed.skin, vertices)
    if not np.array_equal(closed.skin[np.minimum(found, len(closed.skin) - 1)], vertices):
        raise UserError(f"--head {closed.head.name}: its anchors do not lie on its skin; use another template")
    return found


def _activity(path: pathlib.Path, result: register.Registration, closed: ClosedHead) -> float:
    """How far a scan is from neutral: -1 if its name says that it is, else the norm of its weights without the jaw."""
    if NEUTRAL in path.stem.lower():
        return -1.0
    names = closed.head.expression_names
    return float(np.linalg.norm([weight for name, weight in zip(names, result.expression, strict=True) if name != JAW]))


def _write_scan(
    target: pathlib.Path,
    path: pathlib.Path,
    scan: Mesh,
    result: register.Registration,
    closed: ClosedHead,
    units: str | None,
) -> str:
    """Writes the three meshes of a scan in NPHM's frame and unit, in true size; returns the scan's unit.

    Raises UserError if the scan has no faces, or no unit makes it as large as a head.
    """
    if not len(scan.triangles):
        raise UserError(f"{path}: a point cloud has no surface to train on; give a mesh")
    unit = scans.infer_unit(scan.vertices, str(path), units)
    # The size of a head is shared by the similarity's scale and the coefficients; the unit tells the true one.
    size = result.similarity.scale * meshes.MM_PER[unit]

    def place(points_mm: np.ndarray) -> np.ndarray:
        return head_space.to_units(size * points_mm)

    registered = Mesh(place(result.similarity.inverse(result.mesh.vertices)), result.mesh.triangles)
    vertices = place(result.similarity.inverse(scan.vertices.astype(np.float64)))
    normals = None if scan.normals is None else (scan.normals @ result.similarity.rotation).astype(np.float32)
    written = oriented(Mesh(vertices, scan.triangles, normals), registered)
    fitted = Mesh(place(result.fitted), closed.triangles)
    target.mkdir(parents=True, exist_ok=True)
    for name, mesh in zip(nphm_scans.FILES, (written, fitted, registered), strict=True):
        (target / name).write_bytes(meshes.encode(mesh, ".ply", "nphm"))
    return unit


def oriented(scan: Mesh, registered: Mesh) -> Mesh:
    """The scan with faces and normals outwards, as those of the registered mesh are."""

    def outward(normals: np.ndarray) -> bool:
        return np.median((normals[nearest] * expected).sum(1)) > 0

    expected = sampling.vertex_normals(registered.vertices, registered.triangles)
    nearest = scipy.spatial.cKDTree(scan.vertices).query(registered.vertices, workers=-1)[1]
    triangles, normals = scan.triangles, scan.normals
    if not outward(sampling.vertex_normals(scan.vertices, triangles)):
        triangles = triangles[:, ::-1]
    if normals is not None and not outward(normals):
        normals = -normals
    return Mesh(scan.vertices, triangles, normals)
