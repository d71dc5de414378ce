"""What `launch.fit --register` does: a head template onto each scan, by landmarks that the shipped detector finds."""

import json
import pathlib

import numpy as np

from jaxface import checkpoint, meshes
from jaxface.heads import sources
from jaxface.heads.closed import close
from jaxface.inference import Predictor
from jaxface.systems.nphm import register, scan_landmarks


def run(named: dict[str, pathlib.Path], head: str, head_path: str, output: str) -> dict[str, dict]:
    """Registers `head` to scans by name and writes `<name>.ply`, in the scan's frame, and registration.json.

    Returns what the JSON holds: coefficients, the similarity, and the median error in mm before and after refinement.
    UserError where a scan shows no face, or the head ends nowhere near it.
    """
    closed, detect = close(sources.load_head(head, head_path)), _detector()
    folder, summary = pathlib.Path(output), {}
    with checkpoint.disk_errors(folder):
        for name, path in named.items():
            scan = meshes.read(path)
            found = register.register(scan, closed, scan_landmarks.find(scan, detect))
            target = folder / f"{name}.ply"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(meshes.encode(found.mesh, ".ply"))
            summary[name] = {
                "scan": str(path),
                "head": head,
                "error_mm": list(found.error_mm),
                "scale": found.similarity.scale,
                "rotation": found.similarity.rotation.tolist(),
                "translation": found.similarity.translation.tolist(),
                "identity": found.identity.tolist(),
                "expression": found.expression.tolist(),
            }
        (folder / "registration.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _detector() -> scan_landmarks.Detector:
    predictor = Predictor.pretrained("continuous")

    def detect(picture: np.ndarray) -> tuple[np.ndarray, float] | None:
        faces = predictor(picture)
        if not faces:
            return None
        sharpest = min(faces, key=lambda face: np.mean(face["sigma"]))
        return np.asarray(sharpest["points"], np.float64), -float(np.mean(sharpest["sigma"]))

    return detect
