"""REALY (Chai et al., ECCV 2022): errors of nose, mouth, forehead and cheek, each aligned on its own.

Files as in github.com/czh-98/REALY. `--predictions` takes its folder of meshes ID.obj (or ID_VIEW.obj) in the topology
of one of the templates data/NAME.obj, whose 85 keypoints are in data/NAME.txt; a model needs images in images/, named
like the meshes. A head in no template's topology uses its 68 landmarks: the four further keypoints (sides of the nose,
cheeks) are then left out of the rigid alignment on both sides.
"""

import functools
import json
import pathlib

import numpy as np
import trimesh

from jaxface import meshes, photo
from jaxface.errors import UserError
from jaxface.protocols import predicted_heads, region_error
from jaxface.protocols.predicted_heads import Head
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, score_each
from jaxface.protocols.region_error import Region

KEYPOINTS, REGIONS, SCALES = "REALY_HIFI3D_keypoints", "REALY_scan_region", "metrical_scale.txt"
TREE = (
    f"{KEYPOINTS}/ID.obj, {REGIONS}/ID/{{nose,mouth,forehead,cheek}}.obj, data/{SCALES}, data/NAME.obj and "
    "data/NAME.txt of the predictions' topology; for a model images/ID.png or .jpg"
)
COUNT = 85
SEVEN = (36, 39, 42, 45, 33, 48, 54)
_EYES, _BROWS, _MOUTH = range(36, 48), range(17, 27), (*range(48, 61), 64)
# Keypoints of the rigid and the non-rigid alignment of each region.
RIGID = {
    "nose": (*range(27, 36), 70, 71),
    "mouth": _MOUTH,
    "forehead": (*_EYES, *_BROWS),
    "cheek": (*_MOUTH, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9),
}
NON_RIGID = {"nose": tuple(range(27, 36)), "mouth": _MOUTH, "forehead": (*_EYES, *_BROWS), "cheek": ()}
CHEEK_SHARE = 0.25
LIMIT_MM = 4.0


def run(request: Request) -> Outcome:
    """Scores every prediction, or every image with the model."""
    root = request.manual_dir
    sources = _sources(request)
    scales = _scales(root)
    templates = read_templates(root)
    rows: dict[str, dict[str, float]] = {}

    def score(name: str) -> Item:
        subject = name.split("_")[0]
        if not subject.isdigit() or not 0 < int(subject) <= len(scales):
            raise UserError(
                f"{name}: does not start with the number of a subject (1 to {len(scales)}); rename the file"
            )
        head = _head(request, sources[name], templates)
        scale = scales[int(subject) - 1]
        rows[name] = {region: scale * value for region, value in errors(root, subject, head).items()}
        image = sources[name] if request.predictions is None else None
        draw = functools.partial(_pixels, image) if image else None
        return Item(name, float(np.mean(list(rows[name].values()))), (), draw)

    skipped: dict[str, str] = {}
    items = list(score_each(list(sources), score, skipped))
    values = {region: np.array([row[region] for row in rows.values()]) for region in RIGID}
    table = {
        region: {"mean": float(v.mean()), "std": float(v.std(ddof=min(1, len(v) - 1)))} for region, v in values.items()
    }
    table["all"] = {"mean": float(np.mean([row["mean"] for row in table.values()]))}
    curves = {"all": np.array([item.error for item in items]), **values}
    return Outcome(table, items, curves, LIMIT_MM, "error (mm)", skipped)


def errors(root: pathlib.Path, subject: str, head: Head) -> dict[str, float]:
    """The error of a head with 85 or 68 keypoints in each region, in the scan's unit."""
    truth = _keypoints(root / KEYPOINTS / f"{subject}.obj")
    aligned = region_error.global_alignment(head.landmarks[list(SEVEN)], truth[list(SEVEN)])
    vertices, landmarks = aligned(head.vertices), aligned(head.landmarks)
    result = {}
    for name in RIGID:
        rigid = [number for number in RIGID[name] if number < len(landmarks)]
        bending = list(NON_RIGID[name])
        scan = _region(root / REGIONS / subject / f"{name}.obj")
        share = CHEEK_SHARE if name == "cheek" else 1.0
        region = Region(scan.vertices, scan.faces, truth[rigid], truth[bending], share)
        motion = region_error.rigid_alignment(region, vertices, head.triangles, landmarks[rigid])
        result[name] = region_error.error(region, motion(vertices), head.triangles, motion(landmarks[bending]))
    return result


def _sources(request: Request) -> dict[str, pathlib.Path]:
    """Predicted meshes or images by name. Raises UserError if there are none."""
    folder = request.predictions or request.manual_dir / "images"
    endings = {".obj"} if request.predictions else photo.IMAGE_SUFFIXES
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in endings)
    if not paths:
        raise UserError(f"{folder}: has no {'ID.obj' if request.predictions else 'image'}; expected {TREE}")
    return {path.stem: path for path in paths}


def _head(request: Request, source: pathlib.Path, templates: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Head:
    if request.predictions is None:
        head = predicted_heads.identity_of(request.model(), [source])
        keypoints = _template_keypoints(head.vertices, templates)
        return head if keypoints is None else Head(head.vertices, head.triangles, keypoints)
    mesh = meshes.read(source)
    vertices = mesh.vertices.astype(np.float64)
    keypoints = _template_keypoints(vertices, templates)
    if keypoints is None:
        raise UserError(f"{source}: {len(vertices)} vertices are those of no template in data/; expected {TREE}")
    return Head(vertices, mesh.triangles, keypoints)


def read_templates(root: pathlib.Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(vertices (V,3), corners (85,3), barycentric weights (85,3)) of each data/NAME.obj with a NAME.txt.

    A text file is a JSON list of 85 [triangle, weight, weight]. Raises UserError if one is malformed.
    """
    templates = []
    for path in sorted((root / "data").glob("*.obj")):
        keypoints = path.with_suffix(".txt")
        if not keypoints.is_file():
            continue
        mesh = meshes.read(path)
        try:
            rows = np.array(json.loads(keypoints.read_text()), np.float64)
            corners = mesh.triangles[rows[:, 0].astype(int)]
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{keypoints}: not {COUNT} rows of triangle and weights ({error}); download it again"
            ) from error
        if rows.shape != (COUNT, 3):
            raise UserError(
                f"{keypoints}: array of shape {rows.shape}; expected {COUNT} rows of triangle and 2 weights"
            )
        weights = np.concatenate([rows[:, 1:], 1 - rows[:, 1:].sum(1, keepdims=True)], 1)
        templates.append((mesh.vertices, corners, weights))
    return templates


def _template_keypoints(vertices: np.ndarray, templates: list) -> np.ndarray | None:
    """The keypoints (85,3) of a mesh in the topology of a template, which has as many vertices; None without one."""
    for template, corners, weights in templates:
        if len(template) == len(vertices):
            return (vertices[corners] * weights[..., None]).sum(1)
    return None


def _scales(root: pathlib.Path) -> np.ndarray:
    path = next((p for p in (root / "data" / SCALES, root / SCALES) if p.is_file()), None)
    if path is None:
        raise UserError(f"{root}: has no data/{SCALES}; expected {TREE}")
    return np.loadtxt(path, ndmin=1)


def _keypoints(path: pathlib.Path) -> np.ndarray:
    """The vertices (85,3) of a keypoint file. Raises UserError if it is missing or has another number."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        points = np.array([line[1:4] for line in lines if line[:1] == ["v"]], np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected {TREE}") from error
    if points.shape != (COUNT, 3):
        raise UserError(f"{path}: {len(points)} keypoints; expected {COUNT}")
    return points


def _region(path: pathlib.Path) -> trimesh.Trimesh:
    """A region of a scan with equal vertices merged, as the benchmark reads it."""
    mesh = meshes.read(path)
    return trimesh.Trimesh(mesh.vertices.astype(np.float64), mesh.triangles, process=True)


def _pixels(path: pathlib.Path) -> np.ndarray:
    return photo.load(path).pixels


REALY = Protocol(
    systems=("deep3d",),
    tree=TREE,
    published="Deep3D on the benchmark's page (github.com/czh-98/REALY_homepage), mean in mm of nose / mouth / "
    "forehead / cheek / all: frontal views 1.719 / 1.368 / 2.015 / 1.528 / 1.657, side views 1.749 / 1.411 / 2.074 / "
    "1.528 / 1.691",
    run=run,
    takes_predictions=True,
)
