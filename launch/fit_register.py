"""`launch.fit --register`: scans to a head template, with the shipped detector's landmarks."""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from jaxface import checkpoint, inference, meshes
from jaxface.errors import UserError
from jaxface.heads import sources
from jaxface.heads.closed import close
from jaxface.systems.nphm.fitting import register, scan_landmarks


def detector() -> scan_landmarks.Detector:
    """The shipped landmark model: the largest face of a picture, the surer the smaller its sigmas are for its size."""
    predictor = inference.detector()

    def detect(picture: np.ndarray) -> tuple[np.ndarray, float] | None:
        faces = predictor(picture, layout="68")
        if not faces:
            return None
        face = max(faces, key=lambda one: one.box[2] - one.box[0])
        size = face.box[2] - face.box[0]
        return np.asarray(face.points, float), float(np.exp(-10 * np.mean(face.sigma) / size))

    return detect


def run(people: Mapping[str, Sequence[pathlib.Path]], head: str, head_path: str, output: str) -> None:
    """Registers every scan and writes OUT/[person/]<file name>_registered.ply, _registered.npz and registered.json.

    The .npz holds what `register.Registration` does; the mesh is in the scan's own frame and unit.
    """
    closed, detect, summary = close(sources.load_head(head, head_path)), detector(), {}
    folder = pathlib.Path(output)
    with checkpoint.disk_errors(folder):
        for name, paths in people.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for path in paths:
                print(f"registering {path}", file=sys.stderr)
                summary[str(path)] = _one(path, closed, detect, str(folder / name / f"{path.stem}_registered"))
        (folder / "registered.json").write_text(json.dumps(summary, indent=2) + "\n")


def _one(path: pathlib.Path, closed, detect: scan_landmarks.Detector, target: str) -> dict:
    scan = meshes.read(path)
    try:
        landmarks = scan_landmarks.find(scan, detect)
        result = register.register(scan, closed, landmarks)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
    pathlib.Path(target + ".ply").write_bytes(meshes.encode(result.mesh, ".ply"))
    pose = result.similarity
    np.savez(
        target + ".npz",
        identity=result.identity,
        expression=result.expression,
        landmarks=landmarks,
        scale=pose.scale,
        rotation=pose.rotation,
        translation=pose.translation,
    )
    fitted, refined = result.error_mm
    print(f"{path.name}: {fitted:.2f} mm by coefficients, {refined:.2f} mm refined (median, face)")
    return {"coefficients_mm": fitted, "refined_mm": refined, "mesh": target + ".ply"}
