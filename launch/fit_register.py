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


def run(people: Mapping[str, Sequence[pathlib.Path]], head: str, head_path: str, output: str) -> None:
    """Registers every scan and writes OUT/[person/]<stem>_registered.ply, _registered.npz and registered.json.

    Args:
        people: scan files by person.
        head: name of the template (`heads.sources.load_head`).
        head_path: its file, if it is not embedded.
        output: folder of the results. Meshes are in the frame and unit of the scan; the .npz holds coefficients,
            landmarks and the similarity from head mm to the scan.
    """
    closed, detect, summary = close(sources.load_head(head, head_path)), detector(), {}
    folder = pathlib.Path(output)
    with disk_errors(folder):
        for name, path in scan_files.result_names(people).items():
            print(f"registering {path}", file=sys.stderr)
            target = folder / f"{name}_registered"
            target.parent.mkdir(parents=True, exist_ok=True)
            summary[str(path)] = _register_file(path, closed, detect, str(target))
            # After every scan: the meshes of an interrupted run are known as results.
            (folder / "registered.json").write_text(json.dumps(summary, indent=2) + "\n")


def _register_file(path: pathlib.Path, closed: ClosedHead, detect: scan_landmarks.Detector, target: str) -> dict:
    """Registers one scan, writes `target`.ply and .npz, and returns its entry of registered.json."""
    scan = meshes.read(path)
    try:
        landmarks = scan_landmarks.detect_landmarks(scan, detect)
        result = register.register(scan, closed, landmarks)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
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
    fitted_mm, refined_mm = result.error_mm
    print(f"{path.name}: median error of the face {fitted_mm:.2f} mm, {refined_mm:.2f} mm after ARAP refinement")
    return {"coefficients_mm": fitted_mm, "refined_mm": refined_mm, "mesh": target + ".ply"}
