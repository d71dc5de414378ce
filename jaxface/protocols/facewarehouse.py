"""FaceWarehouse (Cao et al., TVCG 2014): distances of reconstructed heads to the fitted meshes of its photos.

Tester_N/TrainingPose/ has twenty poses, each a photo pose_K.png and the mesh pose_K.obj that was fitted to its depth
scan. All meshes have one topology, whose vertices at the inner eye corners, the base of the nose and the lips start the
alignment. Like the scan-to-mesh errors of MICC, the error is the point-to-plane RMSE after similarity ICP within 95 mm
of the nose tip without the forehead, here of each posed head. The paper averages over nine people and their 20
expressions; its list and its face region are not published, so that its 1.81 mm is an orientation only. `testers.txt`
in the folder chooses people (names of folders, one a line).
"""

import functools
import pathlib
import re

import numpy as np

from jaxface import meshes, photo
from jaxface.errors import UserError
from jaxface.protocols import micc, predicted_heads
from jaxface.protocols.predicted_heads import Head
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, read_lines, score_each

VERTICES = 11510
# Source: github.com/eduardramon/hyperparams-free-3D-losses, data/facewarehouse/vertex_identifiers.txt.
START_VERTICES = {"right_eye_lacrimal": 10821, "left_eye_lacrimal": 9376, "nose_base": 8935, "lips_central": 6168}
CHOSEN = "testers.txt"
TREE = f"Tester_N/TrainingPose/pose_K.png (or .jpg) and pose_K.obj; optionally {CHOSEN}"
IMAGE_ENDINGS = (".png", ".jpg", ".bmp")
# Extents of a head (longest side, mm) that decide the unit of the meshes, which no document states.
HEAD_MM = (100.0, 600.0)


def run(request: Request) -> Outcome:
    """Scores every pose of the chosen people."""
    root = request.manual_dir
    paths = _poses(root)

    def score(name: str) -> Item:
        mesh_path, image = paths[name]
        vertices = read_mesh(mesh_path)
        head = predicted_heads.posed_of(request.model(), image)
        return Item(name, error_mm(vertices, head), (name.split("/")[0],), functools.partial(_pixels, image))

    skipped: dict[str, str] = {}
    items = list(score_each(list(paths), score, skipped))
    errors = np.array([item.error for item in items])
    neutral = np.array([item.error for item in items if item.name.endswith("/pose_0")])
    table = {"all": {"rmse": float(errors.mean()), "std": float(errors.std()), "meshes": len(items)}}
    if len(neutral):
        table["neutral"] = {"rmse": float(neutral.mean()), "std": float(neutral.std()), "meshes": len(neutral)}
    return Outcome(table, items, {"all": errors}, micc.LIMIT_MM, "point-to-plane RMSE (mm)", skipped)


def error_mm(vertices: np.ndarray, head: Head) -> float:
    """The RMSE of a posed head against the vertices (11510,3) mm of a mesh of FaceWarehouse; see `micc.error_mm`."""
    return micc.error_mm(vertices, {name: vertices[number] for name, number in START_VERTICES.items()}, head)


def _poses(root: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """{Tester_N/pose_K: (mesh, image)}, in the order of their numbers. Raises UserError if there are none."""
    chosen = read_lines(root / CHOSEN, TREE) if (root / CHOSEN).is_file() else None
    found = {}
    for path in sorted(root.glob("Tester_*/TrainingPose/pose_*.obj"), key=_numbers):
        tester = path.parts[-3]
        image = next((path.with_suffix(e) for e in IMAGE_ENDINGS if path.with_suffix(e).is_file()), None)
        if image is not None and (chosen is None or tester in chosen):
            found[f"{tester}/{path.stem}"] = (path, image)
    if not found:
        raise UserError(f"{root}: has no mesh with a photo; expected {TREE}")
    return found


def _numbers(path: pathlib.Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", "/".join(path.parts[-3:]))]


def read_mesh(path: pathlib.Path) -> np.ndarray:
    """The vertices (11510,3) of a mesh in mm; its unit is that in which it is as large as a head.

    Raises UserError if the mesh has another number of vertices or no unit fits.
    """
    vertices = meshes.read(path).vertices.astype(np.float64)
    if len(vertices) != VERTICES:
        raise UserError(f"{path}: {len(vertices)} vertices; FaceWarehouse's meshes have {VERTICES}")
    extent = np.ptp(vertices, axis=0).max()
    for unit_mm in (1.0, 10.0, 100.0, 1000.0):
        if HEAD_MM[0] <= unit_mm * extent < HEAD_MM[1]:
            return unit_mm * vertices
    raise UserError(f"{path}: its extent {extent:.3g} is that of a head in no unit (mm, cm, dm, m); copy it again")


def _pixels(path: pathlib.Path) -> np.ndarray:
    return photo.load(path).pixels


FACEWAREHOUSE = Protocol(
    systems=("deep3d",),
    tree=TREE,
    published="mean error in mm over 9 people x 20 expressions, in a face region that is not published: "
    "the paper's model (TensorFlow) 1.81 (std 0.50), Deep3DFaceRecon_pytorch 1.64 (std 0.50)",
    run=run,
)
