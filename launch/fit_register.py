"""`launch.fit --register`: registers a head template to scans, initialised by the pretrained landmark detector."""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from jaxface import inference, meshes
from jaxface.errors import UserError, disk_errors
from jaxface.heads import sources
from jaxface.heads.closed import ClosedHead, close
from jaxface.systems.nphm.fitting import register, scan_landmarks

from . import scan_files

# The detector's confidence is exp(-DECAY * mean sigma / face width).
DECAY = 10


def detector() -> scan_landmarks.Detector:
    """The pretrained landmark model on the largest face of an image.

    Its confidence decreases with the mean sigma of the landmarks relative to the face's width.
    """
    predictor = inference.detector()

    def detect(image: np.ndarray) -> tuple[np.ndarray, float] | None:
        faces = predictor(image, layout="68")
        if not faces:
            return None
        face = max(faces, key=_width)
        confidence = float(np.exp(-DECAY * np.mean(face.sigma) / _width(face)))
        return np.asarray(face.points, float), confidence

    return detect


def _width(face) -> float:
    return face.box[2] - face.box[0]


def run(
    people: Mapping[str, Sequence[pathlib.Path]],
    head: str,
    head_path: str,
    output: str,
    landmarks_path: str | None = None,
    failed: dict[pathlib.Path, str] | None = None,
) -> int:
    """Registers every scan and writes OUT/[person/]<stem>_registered.ply, _registered.npz and registered.json.

    Args:
        people: scan files by person.
        head: name of the template (`heads.sources.load_head`).
        head_path: its file, if it is not embedded.
        output: folder of the results. Meshes are in the frame and unit of the scan; the .npz holds coefficients,
            landmarks and the similarity from head mm to the scan.
        landmarks_path: file of landmarks (`scan_files.read_landmarks`); without it they are detected.
        failed: reasons by file, to which scans that cannot be registered are added; they are also printed. None raises
            the error of the first one.

    Returns:
        The number of registered scans.
    """
    paths, folder, summary = scan_files.result_names(dict(people)), pathlib.Path(output), {}
    landmarks = {} if landmarks_path is None else scan_files.read_landmarks(landmarks_path, list(paths.values()))
    closed = close(sources.load_head(head, head_path))
    detect = detector() if landmarks_path is None else None
    with disk_errors(folder):
        for name, path in paths.items():
            print(f"registering {path}", file=sys.stderr)
            target = folder / f"{name}_registered"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                summary[str(path)] = _register_file(path, closed, detect, landmarks.get(path), str(target))
            except UserError as error:
                if failed is None:
                    raise
                failed[path] = scan_files.reason(path, error)
                print(failed[path], file=sys.stderr)
            # After every scan, so that an interrupted run leaves the report of those that are done.
            (folder / scan_files.REGISTERED_SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return len(summary)


def _register_file(
    path: pathlib.Path,
    closed: ClosedHead,
    detect: scan_landmarks.Detector | None,
    landmarks: np.ndarray | None,
    target: str,
) -> dict:
    """Registers one scan, writes `target`.ply and .npz, and returns its entry of registered.json.

    Either `detect` or the `landmarks` (68,3) are given.
    """
    _, result, landmarks = register_file(path, closed, detect, landmarks)
    pathlib.Path(target + ".ply").write_bytes(meshes.encode(result.mesh, ".ply"))
    np.savez(
        target + ".npz",
        identity=result.identity,
        expression=result.expression,
        landmarks=landmarks,
        scale=result.similarity.scale,
        rotation=result.similarity.rotation,
        translation=result.similarity.translation,
    )
    return {**errors(path, result), "mesh": target + ".ply"}


def register_file(
    path: pathlib.Path, closed: ClosedHead, detect: scan_landmarks.Detector | None, landmarks: np.ndarray | None
) -> tuple[meshes.Mesh, register.Registration, np.ndarray]:
    """The scan in a file, its registration and its landmarks (68,3).

    Either `detect` or the `landmarks` are given. Raises UserError, starting with the path.
    """
    scan = scan_files.read(path)
    try:
        if landmarks is None:
            landmarks = scan_landmarks.detect_landmarks(scan, detect)
        return scan, register.register(scan, closed, landmarks), landmarks
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def errors(path: pathlib.Path, result: register.Registration) -> dict[str, float]:
    """The errors of a registration in registered.json, which are also printed."""
    fitted_mm, refined_mm = result.error_mm
    print(f"{path.name}: median error of the face {fitted_mm:.2f} mm, {refined_mm:.2f} mm after ARAP refinement")
    return {"coefficients_mm": fitted_mm, "refined_mm": refined_mm}
