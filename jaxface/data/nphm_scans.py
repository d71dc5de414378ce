"""The public data set of NPHM on disk: who is in it, and points drawn from a scan. No TensorFlow, for many processes.

Layout: DATA/SSS/EEE/ (three digits each) with scan.ply, flame.ply and registration.ply, all in NPHM's units (FLAME's
metres times 4, `jaxface.heads.head_space`), and DATA/neutrals_open.json (subject -> expression of the neutral scan with
lips apart, -1 for none). What one depth camera sees of the people to test on is in SINGLE_VIEW/SSS/E/obs.npy.
Source: github.com/SimonGiebenhain/NPHM, scripts/data_processing, src/NPHM/data/manager.py and env_paths.py.
"""

import json
import pathlib

import numpy as np
import scipy.spatial

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.geometry import sampling, views
from jaxface.heads import flame, head_space
from jaxface.meshes import Mesh

NEUTRALS = "neutrals_open.json"
FILES = ("scan.ply", "flame.ply", "registration.ply")
FACE_MASK = "face.npy"
TEST = (99, 283, 143, 38, 241, 236, 276, 202, 98, 254, 204, 163, 267, 194, 20, 23, 209, 105, 186, 343, 341, 363, 350)
VALIDATION = (199, 286, 290, 291, 292, 293, 294, 295, 297, 298)
SINGLE_VIEW, OBSERVATION = "single_view", "obs.npy"
TREE = (
    f"NPHM's data set: SSS/EEE/{{{', '.join(FILES)}}}, {NEUTRALS}, and {FACE_MASK} from the assets of the official "
    f"code; if there, {SINGLE_VIEW}/SSS/E/{OBSERVATION} as well"
)

# Surface points belong to the face within this of a vertex of the registered face; 5 cm.
FACE_WITHIN = 0.2
OFFSETS = (0.01, 0.002)
# The camera of single-view observations: distance, focal length, picture, points.
EYE, FOCAL_PX, SIZE = 0.65 * 4, 1500.0, (1000, 1000)
OBSERVED = 2500
# Where it may stand, as parts of a direction: z from and to, |y| below.
LOWEST_Z, HIGHEST_Z, WIDEST_Y = 0.6, 0.9, 0.55
DIRECTIONS = 1000


def people(folder: pathlib.Path) -> dict[str, dict[int, int]]:
    """Subject -> expression of its neutral scan, for "train", "validation" and "test"; those without are left out.

    UserError where the folder is not the data set's.
    """
    listed = folder / NEUTRALS
    if not listed.is_file():
        raise UserError(f"{folder} has no {NEUTRALS}; expected is {TREE}")
    neutrals = {int(name): int(number) for name, number in json.loads(listed.read_text()).items() if int(number) >= 0}
    split = {subject: "test" for subject in TEST} | {subject: "validation" for subject in VALIDATION}
    made: dict[str, dict[int, int]] = {"train": {}, "validation": {}, "test": {}}
    for subject, number in sorted(neutrals.items()):
        if is_scan(scan_folder(folder, subject, number)):
            made[split.get(subject, "train")][subject] = number
    if not made["train"]:
        raise UserError(f"{folder} holds no neutral scan of a person to train on; expected is {TREE}")
    return made


def scan_folder(folder: pathlib.Path, subject: int, expression: int) -> pathlib.Path:
    """Where a scan's files lie."""
    return folder / f"{subject:03d}" / f"{expression:03d}"


def is_scan(folder: pathlib.Path) -> bool:
    """Whether all files of a scan are there."""
    return all((folder / name).is_file() for name in FILES)


def expressions(folder: pathlib.Path, subject: int) -> list[int]:
    """The numbers of a subject's complete scans."""
    names = [path.name for path in (folder / f"{subject:03d}").iterdir() if path.name.isdigit()]
    return sorted(int(name) for name in names if is_scan(scan_folder(folder, subject, int(name))))


def face_mask(folder: pathlib.Path) -> np.ndarray:
    """The registered mesh's vertices (V,) bool that are the face. UserError where there is no such file."""
    path = folder / FACE_MASK
    if not path.is_file():
        raise UserError(f"{folder} has no {FACE_MASK}; expected is {TREE}")
    return np.load(path, allow_pickle=False).astype(bool)


def anchors(folder: pathlib.Path) -> np.ndarray:
    """The anchors (39,3) float32 of one scan: FLAME's numbers hold on the registered mesh."""
    return meshes.read(folder / "registration.ply").vertices[list(flame.ANCHORS)]


def surface(folder: pathlib.Path, mask: np.ndarray, face: int, rest: int, seed: tuple) -> dict[str, np.ndarray]:
    """`face` points of a scan's face and `rest` others above the throat, with interpolated normals."""
    rng = np.random.default_rng(seed)
    scan, registered = meshes.read(folder / "scan.ply"), _registered(folder, mask)
    tree, plane = scipy.spatial.cKDTree(registered.vertices[mask]), throat(folder)
    normals = scan.normals if scan.normals is not None else sampling.vertex_normals(scan.vertices, scan.triangles)
    kept: dict[str, list] = {"face": [], "nonface": []}
    # The face is a few tenths of a scan's area: drawn until there are enough.
    for _ in range(50):
        drawn = sampling.sample(scan.vertices, scan.triangles, 2 * (face + rest), rng)
        points = drawn.on(scan.vertices, scan.triangles)
        rows = sampling.unit(drawn.on(normals, scan.triangles))
        above = (points - plane[0]) @ np.cross(plane[1] - plane[0], plane[2] - plane[0]) > 0
        near = tree.query(points)[0] < FACE_WITHIN
        for part, own in (("face", above & near), ("nonface", above & ~near)):
            kept[part].append(np.stack([points[own], rows[own]], axis=1))
        if sum(map(len, kept["face"])) >= face:
            break
    made = {}
    for part, count in (("face", face), ("nonface", rest)):
        whole = np.concatenate(kept[part])
        # A scan with a beardless, hairless fit may have next to nothing off the face.
        chosen = whole[rng.integers(0, len(whole), count)] if 0 < len(whole) < count else whole[:count]
        made |= {f"{part}_points": chosen[:, 0], f"{part}_normals": chosen[:, 1]}
    return made


def _registered(folder: pathlib.Path, mask: np.ndarray) -> Mesh:
    mesh = meshes.read(folder / "registration.ply")
    if len(mesh.vertices) != len(mask):
        raise UserError(f"registration.ply has {len(mesh.vertices)} vertices, {FACE_MASK} is for {len(mask)}")
    return mesh


def throat(folder: pathlib.Path) -> np.ndarray:
    """Three points (3,3) of the plane below which a scan does not count."""
    return meshes.read(folder / "flame.ply").vertices[list(flame.THROAT)]


def pairs(
    neutral: pathlib.Path, posed: pathlib.Path, mask: np.ndarray, count: int, seed: tuple
) -> dict[str, np.ndarray]:
    """`count` corresponding points near the registered faces of two scans of a person, half drawn on either."""
    rng = np.random.default_rng(seed)
    first, second = (_registered(folder, mask) for folder in (neutral, posed))
    triangles = first.triangles[mask[first.triangles].all(1)]
    return sampling.pairs(first.vertices, second.vertices, [(triangles, count)], OFFSETS, rng)._asdict()


def read_observation(path: pathlib.Path) -> np.ndarray:
    """The points (N,3) float32 of an observation's file, without the rows of NaN where a full map has no hit.

    UserError where it is no .npy of points (…,3) or all of them are NaN.
    """
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path.name}: cannot be read as an .npy of points ({error})") from error
    if points.dtype.kind != "f" or points.ndim < 2 or points.shape[-1] != 3:
        raise UserError(f"{path.name}: holds {points.dtype} {points.shape}; points are real numbers (…,3)")
    points = points.reshape(-1, 3).astype(np.float32)
    hit = np.isfinite(points).all(1)
    if not hit.any():
        raise UserError(f"{path.name}: none of its {len(points)} points is known")
    return points[hit]


def observation(root: pathlib.Path, subject: int, expression: int, seed: tuple) -> np.ndarray:
    """What one depth camera before the face sees of a scan: points (<= 2500,3) float32 above the throat.

    The published ones where they lie in the data set's folder, else others drawn as they were.
    """
    published = root / SINGLE_VIEW / f"{subject:03d}" / str(expression) / OBSERVATION
    if published.is_file():
        return read_observation(published)
    folder, rng = scan_folder(root, subject, expression), np.random.default_rng(seed)
    directions = views.fibonacci(DIRECTIONS)
    y, z = directions[:, 1], directions[:, 2]
    allowed = directions[(z > LOWEST_Z) & (z < HIGHEST_Z) & (np.abs(y) < WIDEST_Y)]
    eye = EYE * allowed[rng.integers(len(allowed))]
    scan = meshes.read(folder / "scan.ply")
    points = _seen(scan, eye)
    plane = throat(folder)
    points = points[(points - plane[0]) @ np.cross(plane[1] - plane[0], plane[2] - plane[0]) > 0]
    return points[rng.permutation(len(points))[:OBSERVED]].astype(np.float32)


def _seen(scan: Mesh, eye: np.ndarray) -> np.ndarray:
    """Points (N,3) in units; the renderer works in millimetres."""
    scale = head_space.MM_PER_UNIT
    rotation = views.looking(eye, np.zeros(3))
    view = views.see(scale * scan.vertices, scan.triangles, scale * eye, rotation, FOCAL_PX, SIZE)
    return view.points[view.hit] / scale
