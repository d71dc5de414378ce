"""MICC Florence (Bagdanov et al., 2011): point-to-plane RMSE of neutral heads against the frontal scans.

As the author of Deep3D describes it (Deep3DFaceReconstruction, issue 23): similarity ICP of each mesh, RMSE within 95
mm of the nose tip without the forehead, averaged over people. The benchmark has scans and videos. A person's head is
reconstructed from the images that lie in SUBJECT/images (the frames that you chose from the videos), with one identity
for all. ICP starts from four points of the scan, given as numbers of its vertices in SUBJECT/correspondences.txt or
cases/subject_N/correspondences.txt, as in github.com/eduardramon/hyperparams-free-3D-losses (data/micc). The up
direction is that of the aligned head.
"""

import functools
import pathlib
import re

import numpy as np

from jaxface import meshes, photo
from jaxface.errors import UserError
from jaxface.geometry.alignment import Similarity
from jaxface.protocols import predicted_heads, scan_to_mesh
from jaxface.protocols.predicted_heads import Head
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, read_lines, score_each

# The points of correspondences.txt in iBUG's numbers: inner eye corners, base of the nose, between the lips.
POINTS = {"right_eye_lacrimal": (39,), "left_eye_lacrimal": (42,), "nose_base": (33,), "lips_central": (62, 66)}
NOSE_TIP = 30
IMAGES, CORRESPONDENCES = "images", "correspondences.txt"
TREE = (
    f"subject_NN/Model/frontal1/obj/*.obj (or frontal2), subject_NN/{IMAGES}/*.jpg (frames of the videos) and "
    f"subject_NN/{CORRESPONDENCES} or cases/subject_N/{CORRESPONDENCES} ({', '.join(POINTS)}: vertex numbers from 0)"
)
LIMIT_MM = 4.0
UP = np.array([0.0, 1.0, 0.0])


def run(request: Request) -> Outcome:
    """Scores every subject that has a scan, images and correspondences."""
    root = request.manual_dir
    subjects = sorted(path.name for path in root.glob("subject_*") if path.is_dir())
    if not subjects:
        raise UserError(f"{root}: has no folder subject_*; expected {TREE}")

    def score(name: str) -> Item:
        scan, start_points = read_subject(root, name)
        images = find_images(root / name / IMAGES)
        head = predicted_heads.identity_of(request.model(), images)
        error = error_mm(scan, start_points, head)
        return Item(name, error, (), functools.partial(_pixels, images[0]))

    skipped: dict[str, str] = {}
    items = list(score_each(subjects, score, skipped))
    errors = np.array([item.error for item in items])
    row = {"rmse": float(errors.mean()), "std": float(errors.std()), "subjects": len(items)}
    return Outcome({"all": row}, items, {"all": errors}, LIMIT_MM, "point-to-plane RMSE (mm)", skipped)


def start_alignment(head: Head, points: dict[str, np.ndarray]) -> Similarity:
    """The similarity of a head with 68 landmarks to named points (3,) of a scan, keys of POINTS."""
    source = np.stack([head.landmarks[list(POINTS[name])].mean(0) for name in points])
    return scan_to_mesh.align_landmarks(source, np.stack(list(points.values())))


def error_mm(scan: np.ndarray, points: dict[str, np.ndarray], head: Head) -> float:
    """The RMSE of a head against scan points (N,3) mm with the named points of `start_alignment`."""
    start = start_alignment(head, points)
    nose_tip = start(head.landmarks[NOSE_TIP][None])[0]
    # The scan's own nose tip: its closest point to the aligned head's.
    nose_tip = scan[np.linalg.norm(scan - nose_tip, axis=1).argmin()]
    return scan_to_mesh.micc_error(scan, nose_tip, start.rotation @ UP, head.vertices, head.triangles, start)


def read_subject(root: pathlib.Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A subject's scan points (N,3) mm, and its named start points. Raises UserError if a file is missing."""
    models = [
        path
        for view in ("frontal1", "frontal2")
        for path in sorted((root / name / "Model" / view / "obj").glob("*.obj"))
    ]
    if not models:
        raise UserError(f"{root / name}: has no Model/frontal1/obj/*.obj; expected {TREE}")
    scan = meshes.read(models[0]).vertices.astype(np.float64)
    number = int(re.sub(r"\D", "", name) or 0)
    candidates = [root / name / CORRESPONDENCES, root / "cases" / f"subject_{number}" / CORRESPONDENCES]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(f"{candidates[0]}: missing; expected {TREE}")
    return scan, read_correspondences(path, scan)


def read_correspondences(path: pathlib.Path, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """The points of a file of lines "NAME vertex". UserError if a line is malformed or fewer than 3 are known."""
    points = {}
    for line in read_lines(path, "lines NAME vertex"):
        name, _, number = line.partition(" ")
        if name not in POINTS:
            continue
        if not number.strip().isdigit() or int(number) >= len(vertices):
            raise UserError(
                f"{path}: {line!r} is not a name and one of the scan's {len(vertices)} vertices; correct it"
            )
        points[name] = vertices[int(number)]
    if len(points) < 3:
        raise UserError(f"{path}: {len(points)} known points; give at least 3 of {', '.join(POINTS)}")
    return points


def find_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The photos of a folder. Raises UserError if there are none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in photo.IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"{folder}: has no image; put frames of the person's videos there")
    return paths


def _pixels(path: pathlib.Path) -> np.ndarray:
    return photo.load(path).pixels


MICC = Protocol(
    systems=("deep3d",),
    tree=TREE,
    published="mean RMSE in mm: the paper's model (TensorFlow) 1.67 (std 0.50), "
    "Deep3DFaceRecon_pytorch 1.53 (std 0.45)",
    run=run,
)
