"""The public NPHM data set on disk: its people and scans, and points sampled from a scan. Loads no TensorFlow.

The user's own scans have the same layout after `launch.fit --register --training_set`, with a `Template`.

Layout: DATA/SSS/EEE/ (three digits each) with scan.ply, flame.ply and registration.ply, all in NPHM's units (FLAME's
metres times 4, `jaxface.heads.head_space`), and DATA/neutrals_open.json (subject -> expression of the neutral scan with
lips apart, -1 for none). Single-view depth observations of the test people are in DATA/single_view/SSS/E/obs.npy.
Source: github.com/SimonGiebenhain/NPHM, scripts/data_processing, src/NPHM/data/manager.py and env_paths.py.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import scipy.spatial

from jaxface import array_files, json_files, meshes
from jaxface.errors import UserError
from jaxface.geometry import sampling, views
from jaxface.heads import flame, head_space
from jaxface.meshes import Mesh

NEUTRALS = "neutrals_open.json"
# Of data sets that `launch.fit --training_set` wrote: vertices of anchors and throat, and the people of each split.
TEMPLATE_FILE = "template.json"
FILES = ("scan.ply", "flame.ply", "registration.ply")
FACE_MASK = "face.npy"
TEST = (99, 283, 143, 38, 241, 236, 276, 202, 98, 254, 204, 163, 267, 194, 20, 23, 209, 105, 186, 343, 341, 363, 350)
VALIDATION = (199, 286, 290, 291, 292, 293, 294, 295, 297, 298)
# Expressions by subject that the official code leaves out: bad scans, and scans of test people with another hair style
# or a failed registration. Source: env_paths.py of the official code.
BAD_SCANS = {
    79: (16, 17, 18, 19, 20), 85: (2,), 88: (19,), 100: (0,), 106: (20,), 125: (1, 4, 5), 261: (19,), 292: (9,),
    298: (23, 24, 25, 26), 345: (12,), 360: (6, 14), 362: (20,), 363: (1,),
}  # fmt: skip
INVALID_TEST_SCANS = {
    20: (6, 11, 13, 17), 38: (1, 5, 8, 9, 10, 11, 15, 16, 17, 18, 19), 98: (0,), 105: tuple(range(16)), 143: (0, 1, 5),
    163: (6,), 186: (7, 8, 9, 11, 21), 194: (0, 1, 2, 3, 9, 11, 14, 18, 22), 202: (24,), 204: (16,),
    209: (7, 8, 9, 10, 15, 20), 236: (8,), 254: (1,), 267: (0, 7, 13, 22), 343: (9, 11), 350: (4,),
    363: (1, 11, 12, 14),
}  # fmt: skip
SINGLE_VIEW, OBSERVATION = "single_view", "obs.npy"
TREE = (
    f"NPHM's data set: SSS/EEE/{{{', '.join(FILES)}}}, {NEUTRALS}, and {FACE_MASK} from the assets of the official "
    f"code; optionally {SINGLE_VIEW}/SSS/E/{OBSERVATION}"
)

# Surface points within this distance of a vertex of the registered face belong to the face: 5 cm in NPHM's units.
FACE_RADIUS = 0.2
# Standard deviations of the pairs' offsets along the normal, in NPHM's units.
OFFSETS = (0.01, 0.002)
# The camera of single-view observations: distance from the origin in NPHM's units, focal length, image size (H,W).
CAMERA_DISTANCE, FOCAL_PX, SIZE = 0.65 * 4, 1500.0, (1000, 1000)
# Maximum number of points of an observation.
OBSERVED = 2500
# Camera directions: those of DIRECTIONS on a Fibonacci sphere with MIN_Z < z < MAX_Z and |y| < MAX_Y.
MIN_Z, MAX_Z, MAX_Y = 0.6, 0.9, 0.55
DIRECTIONS = 1000
# Maximum number of rounds of sampling until a scan's face has enough points; it has a few tenths of the scan's area.
MAX_ROUNDS = 50


@dataclasses.dataclass(frozen=True)
class Template:
    """What belongs to a data set as a whole.

    Attributes:
        anchors: vertices (39,) of registration.ply.
        throat: vertices (3,) of flame.ply whose plane cuts the neck.
        split_of: "train", "validation" or "test" by subject; the others are in "train".
        excluded: expressions that are left out, by subject.
    """

    anchors: tuple[int, ...]
    throat: tuple[int, ...]
    split_of: dict[int, str]
    excluded: dict[int, tuple[int, ...]]


def _official() -> Template:
    """NPHM's own: FLAME's topology, and the lists of the official code."""
    excluded = {subject: BAD_SCANS.get(subject, ()) for subject in (*BAD_SCANS, *TEST)}
    excluded |= {subject: (*excluded[subject], *INVALID_TEST_SCANS.get(subject, ())) for subject in TEST}
    split_of = {subject: "test" for subject in TEST} | {subject: "validation" for subject in VALIDATION}
    return Template(flame.ANCHORS, flame.THROAT, split_of, excluded)


def template(folder: pathlib.Path) -> Template:
    """The template of a data set: that of TEMPLATE_FILE, or NPHM's own. Raises UserError if the file is damaged."""
    path = folder / TEMPLATE_FILE
    if not path.is_file():
        return _official()
    content = json_files.read(path, "write the training set again")
    try:
        anchors, corners = (tuple(map(int, content[key])) for key in ("anchors", "throat"))
        split_of = {int(subject): "validation" for subject in content["validation"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a template ({error}); write the training set again") from error
    if len(anchors) != len(flame.ANCHORS) or len(corners) != len(flame.THROAT) or min(*anchors, *corners) < 0:
        raise UserError(f"{path}: has {len(anchors)} anchors and {len(corners)} throat vertices; expected 39 and 3")
    return Template(anchors, corners, split_of, {})


def people(folder: pathlib.Path) -> dict[str, dict[int, int]]:
    """{subject: expression of the neutral scan} of "train", "validation" and "test"; people without one are left out.

    Raises UserError if the folder does not hold the data set.
    """
    neutrals, split_of = _neutrals(folder), template(folder).split_of
    splits: dict[str, dict[int, int]] = {"train": {}, "validation": {}, "test": {}}
    for subject, number in sorted(neutrals.items()):
        if number >= 0 and is_scan(scan_folder(folder, subject, number)):
            splits[split_of.get(subject, "train")][subject] = number
    if not splits["train"]:
        raise UserError(f"{folder}: has no neutral scan of a training person; expected {TREE}")
    return splits


def _neutrals(folder: pathlib.Path) -> dict[int, int]:
    """The expression of each subject's neutral scan, -1 for none. Raises UserError if the file cannot be read."""
    path = folder / NEUTRALS
    if not path.is_file():
        raise UserError(
            f"{folder}: has no {NEUTRALS}; copy it from the folder dataset of the official code; expected {TREE}"
        )
    try:
        return {int(name): int(number) for name, number in json.loads(path.read_text("utf-8-sig")).items()}
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(
            f"{path}: not a JSON object of subject and expression numbers ({error}); "
            "copy it from the folder dataset of the official code"
        ) from error


def scan_folder(folder: pathlib.Path, subject: int, expression: int) -> pathlib.Path:
    """The folder of a scan's files."""
    return folder / f"{subject:03d}" / f"{expression:03d}"


def is_scan(folder: pathlib.Path) -> bool:
    """Whether all files of a scan exist."""
    return all((folder / name).is_file() for name in FILES)


def expressions(folder: pathlib.Path, subject: int) -> list[int]:
    """The numbers of a subject's complete scans, without those that the official code leaves out."""
    excluded = template(folder).excluded.get(subject, ())
    names = [path.name for path in (folder / f"{subject:03d}").iterdir() if re.fullmatch(r"\d{3}", path.name)]
    numbers = sorted(int(name) for name in names)
    return [number for number in numbers if number not in excluded and is_scan(scan_folder(folder, subject, number))]


def face_mask(folder: pathlib.Path) -> np.ndarray:
    """Mask (V,) bool of the registered mesh's face vertices. Raises UserError if the file is missing."""
    path = folder / FACE_MASK
    if not path.is_file():
        raise UserError(f"{folder}: has no {FACE_MASK}; expected {TREE}")
    return array_files.read_npy(path).astype(bool)


def anchors(folder: pathlib.Path) -> np.ndarray:
    """The anchors (39,3) float32 of one scan: vertices of the registered mesh."""
    indices = template(_root(folder)).anchors
    return _template_vertices(folder / "registration.ply", indices).astype(np.float32)


def _root(folder: pathlib.Path) -> pathlib.Path:
    """The data set of the scan in `folder`."""
    return folder.parents[1]


def _template_vertices(path: pathlib.Path, indices: Sequence[int]) -> np.ndarray:
    """Vertices (n,3) of a mesh of the template's topology. Raises UserError if it has too few."""
    vertices = meshes.read(path).vertices
    if len(vertices) <= max(indices):
        raise UserError(f"{path.name}: has {len(vertices)} vertices, which is not the template's; copy it again")
    return vertices[list(indices)]


def surface(folder: pathlib.Path, mask: np.ndarray, face: int, rest: int, seed: tuple) -> dict[str, np.ndarray]:
    """Points on a scan's surface above the throat, with interpolated normals.

    Args:
        folder: the scan.
        mask: (V,) bool, face vertices of the registered mesh.
        face: number of points on the face.
        rest: number of points elsewhere; there are none if all of the surface is face.
        seed: seed of the sampling.

    Returns:
        face_points, face_normals, nonface_points, nonface_normals (n,3).
    """
    rng = np.random.default_rng(seed)
    scan, registered = meshes.read_scan(folder / "scan.ply"), _registered(folder, mask)
    face_tree, plane = scipy.spatial.cKDTree(registered.vertices[mask]), throat(folder)
    normals = scan.normals if scan.normals is not None else sampling.vertex_normals(scan.vertices, scan.triangles)
    samples: dict[str, list] = {"face": [], "nonface": []}
    for _ in range(MAX_ROUNDS):
        sampled = sampling.sample(scan.vertices, scan.triangles, 2 * (face + rest), rng)
        points = sampled.on(scan.vertices, scan.triangles)
        rows = np.stack([points, sampling.unit(sampled.on(normals, scan.triangles))], axis=1)
        above, near = flame.above_throat(points, plane), face_tree.query(points)[0] < FACE_RADIUS
        samples["face"].append(rows[above & near])
        samples["nonface"].append(rows[above & ~near])
        if sum(map(len, samples["face"])) >= face:
            break
    arrays = {}
    for part, count in (("face", face), ("nonface", rest)):
        rows = np.concatenate(samples[part])
        # Too few points are resampled with replacement; an empty part stays empty.
        kept = rows[rng.integers(0, len(rows), count)] if 0 < len(rows) < count else rows[:count]
        arrays |= {f"{part}_points": kept[:, 0], f"{part}_normals": kept[:, 1]}
    return arrays


def _registered(folder: pathlib.Path, mask: np.ndarray) -> Mesh:
    mesh = meshes.read(folder / "registration.ply")
    if len(mesh.vertices) != len(mask):
        raise UserError(
            f"registration.ply: has {len(mesh.vertices)} vertices, but {FACE_MASK} is for {len(mask)}; copy them again"
        )
    return mesh


def throat(folder: pathlib.Path) -> np.ndarray:
    """Three points (3,3) of the plane below which a scan is ignored."""
    return _template_vertices(folder / "flame.ply", template(_root(folder)).throat)


def pairs(
    neutral: pathlib.Path, posed: pathlib.Path, mask: np.ndarray, count: int, seed: tuple
) -> dict[str, np.ndarray]:
    """Corresponding points near the registered faces of two scans of one person, half sampled on each.

    Args:
        neutral: the neutral scan.
        posed: the scan with an expression.
        mask: (V,) bool, face vertices of the registered mesh.
        count: number of pairs.
        seed: seed of the sampling.

    Returns:
        neutral, posed (count,3).
    """
    rng = np.random.default_rng(seed)
    first, second = (_registered(folder, mask) for folder in (neutral, posed))
    triangles = first.triangles[mask[first.triangles].all(1)]
    return sampling.pairs(first.vertices, second.vertices, [(triangles, count)], OFFSETS, rng)._asdict()


def read_observation(path: pathlib.Path) -> np.ndarray:
    """The finite points (N,3) float32 of an observation's file; depth maps have NaN where there is no surface.

    Raises UserError if it is not an .npy of points (…,3), or none of them is finite.
    """
    points = array_files.read_npy(path)
    if points.dtype.kind != "f" or points.ndim < 2 or points.shape[-1] != 3:
        raise UserError(f"{path}: {points.dtype} array of shape {points.shape}; expected real numbers (…,3)")
    points = points.reshape(-1, 3).astype(np.float32)
    finite = np.isfinite(points).all(1)
    if not finite.any():
        raise UserError(f"{path}: none of its {len(points)} points is finite; copy it again")
    return points[finite]


def observation(root: pathlib.Path, subject: int, expression: int, seed: tuple) -> np.ndarray:
    """Single-view depth observation of a scan from the front: points (n,3) float32.

    The published observation, uncut, if the data set has it; else one rendered from a random direction as in the
    official code, cut at the throat, of at most OBSERVED points.

    Args:
        root: the data set.
        subject: number of the person.
        expression: number of the scan.
        seed: seed of the camera's direction and of the subset of points.
    """
    published = root / SINGLE_VIEW / f"{subject:03d}" / str(expression) / OBSERVATION
    if published.is_file():
        return read_observation(published)
    folder, rng = scan_folder(root, subject, expression), np.random.default_rng(seed)
    directions = views.fibonacci_sphere(DIRECTIONS)
    y, z = directions[:, 1], directions[:, 2]
    allowed = directions[(z > MIN_Z) & (z < MAX_Z) & (np.abs(y) < MAX_Y)]
    eye = CAMERA_DISTANCE * allowed[rng.integers(len(allowed))]
    points = _visible_points(meshes.read_scan(folder / "scan.ply"), eye)
    points = points[flame.above_throat(points, throat(folder))]
    return points[rng.permutation(len(points))[:OBSERVED]].astype(np.float32)


def _visible_points(scan: Mesh, eye: np.ndarray) -> np.ndarray:
    """Points (N,3) that a camera at `eye` (3,) sees, looking at the origin, in NPHM's units; rendered in mm."""
    scale = head_space.MM_PER_UNIT
    rotation = views.look_at(eye, np.zeros(3))
    view = views.render(scale * scan.vertices, scan.triangles, scale * eye, rotation, FOCAL_PX, SIZE)
    return view.points[view.hit] / scale
