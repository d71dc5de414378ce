"""NoW (Sanyal et al., CVPR 2019): scan-to-mesh distances of neutral heads reconstructed from single photos.

The validation set of the benchmark, whose scans are public: imagepathsvalidation.txt names the images; scans and their
seven landmarks are those of its evaluation code (github.com/soubhiksanyal/now_evaluation). Scores are pooled over the
points of all scans. `--predictions` takes the folder that the benchmark asks for: SUBJECT/CHALLENGE/IMAGE.obj (or .ply)
with the seven landmarks in IMAGE.npy or IMAGE.txt, so that other methods can be scored.
"""

import functools
import os
import pathlib
import re

import numpy as np

from jaxface import meshes, photo
from jaxface.errors import UserError
from jaxface.protocols import predicted_heads, scan_to_mesh
from jaxface.protocols.predicted_heads import Head
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, read_lines, score_each

LIST = "imagepathsvalidation.txt"
SCANS, LANDMARKS = "scans", "scans_lmks_onlypp"
# The folders of the images in the archives as they unpack.
IMAGES = (
    "final_release_version/iphone_pictures",
    "NoW_Dataset/final_release_version/iphone_pictures",
    "iphone_pictures",
    ".",
)
CHALLENGES = ("multiview_neutral", "multiview_expressions", "multiview_occlusions", "selfie")
TREE = (
    f"{LIST}, {SCANS}/SUBJECT/*.obj, {LANDMARKS}/SUBJECT/*.pp (scans and landmarks of the validation set) and, for a "
    f"model, {IMAGES[0]}/SUBJECT/CHALLENGE/IMAGE.jpg"
)
# The largest distance of the benchmark's plots.
LIMIT_MM = 7.0


def run(request: Request) -> Outcome:
    """Scores the images of the validation list, and each challenge alone."""
    names = ["/".join(pathlib.PurePosixPath(line).parts[-3:]) for line in read_lines(request.manual_dir / LIST, TREE)]
    distances: dict[str, np.ndarray] = {}

    def score(name: str) -> Item:
        subject, challenge, _ = _parts(name)
        points, landmarks = read_scan(request.manual_dir, subject)
        head = _head(request, name)
        seven = head.landmarks if len(head.landmarks) == 7 else head.landmarks[list(scan_to_mesh.SEVEN)]
        mask = scan_to_mesh.now_region(points, landmarks)
        unit = request.unit_mm if request.predictions else 1.0
        distances[name] = scan_to_mesh.now_distances(
            points, mask, landmarks, unit * head.vertices, head.triangles, unit * seven, request.metrical
        )
        image = _image(request.manual_dir, name)
        draw = functools.partial(_pixels, image) if image else None
        return Item(name, float(distances[name].mean()), (challenge,), draw)

    skipped: dict[str, str] = {}
    items = list(score_each(names, score, skipped))
    groups = {"all": [item.name for item in items]}
    for item in items:
        groups.setdefault(item.groups[0], []).append(item.name)
    pooled = {group: np.concatenate([distances[name] for name in members]) for group, members in groups.items()}
    table = {
        group: {**scan_to_mesh.now_summary([values]), "images": len(groups[group])} for group, values in pooled.items()
    }
    return Outcome(table, items, pooled, LIMIT_MM, "distance (mm)", skipped)


def _parts(name: str) -> tuple[str, str, str]:
    """Subject, challenge and image of a line of the list."""
    parts = name.split("/")
    if len(parts) != 3:
        raise UserError(f"{LIST}: {name!r} is not SUBJECT/CHALLENGE/IMAGE.jpg; download the list again")
    return parts[0], parts[1], parts[2]


def _head(request: Request, name: str) -> Head:
    if request.predictions:
        return predicted_heads.from_folder(request.predictions / name.rpartition(".")[0])
    image = _image(request.manual_dir, name)
    if image is None:
        raise UserError(f"{name}: no such image below {request.manual_dir}; expected {TREE}")
    return predicted_heads.identity_of(request.model(), [image])


def _image(root: pathlib.Path, name: str) -> pathlib.Path | None:
    return next((path for folder in IMAGES if os.path.isfile(path := root / folder / name)), None)


def _pixels(path: pathlib.Path) -> np.ndarray:
    return photo.load(path).pixels


def read_scan(root: pathlib.Path, subject: str) -> tuple[np.ndarray, np.ndarray]:
    """The vertices (N,3) mm of a subject's scan and its seven landmarks (7,3).

    Raises UserError if a file is missing or malformed.
    """
    scans, picked = sorted((root / SCANS / subject).glob("*.obj")), sorted((root / LANDMARKS / subject).glob("*.pp"))
    if not scans or not picked:
        raise UserError(f"{root}: has no scan or no landmarks of {subject}; expected {TREE}")
    return _vertices(scans[0]).astype(np.float64), read_picked_points(picked[0])


@functools.lru_cache(maxsize=4)
def _vertices(path: pathlib.Path) -> np.ndarray:
    """The vertices of a scan; the images of one subject follow each other."""
    return meshes.read(path).vertices


def read_picked_points(path: pathlib.Path, count: int = 7) -> np.ndarray:
    """The points (count,3) of MeshLab's .pp file, in its order. Raises UserError if there are not `count`."""
    text = "\n".join(read_lines(path, "MeshLab's picked points"))
    points = []
    for element in re.findall(r"<point\b[^>]*>", text):
        values = {axis: re.search(rf'\b{axis}="([^"]+)"', element) for axis in "xyz"}
        try:
            points.append([float(values[axis][1]) for axis in "xyz"])
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: {element} has no numbers x, y, z; pick the points again") from error
    if len(points) != count:
        raise UserError(f"{path}: {len(points)} points; expected {count}")
    return np.array(points, np.float64)


NOW = Protocol(
    systems=("deep3d",),
    tree=TREE,
    published="NoW challenge, median / mean / std in mm: Deep3DFaceRecon_pytorch 1.11 / 1.41 / 1.21, the paper's model "
    "(TensorFlow) 1.23 / 1.54 / 1.29, DECA 1.09 / 1.38 / 1.18",
    run=run,
    takes_predictions=True,
)
