"""NPHM's evaluation (Giebenhain et al., CVPR 2023): heads fitted to the scans of the 23 test people.

Each person is fitted once to single-view observations (the published ones, the first expression also from behind) and
once to the whole scans, all expressions with one identity. Scored are Chamfer distances, normal consistency and
F-scores of what is visible from outside, above the throat, for the full head and the face, in true millimetres; see
`visible_surface`. Source: scripts/evaluation/eval.py and src/NPHM/env_paths.py of github.com/SimonGiebenhain/NPHM. The
face is that of the registered mesh under face.npy, where the official script uses FLAME's vertices under
better_face_region.ply. Its averages are over scans, as here.
"""

import functools
import pathlib

import numpy as np

from jaxface import meshes
from jaxface.data import nphm_scans
from jaxface.errors import UserError
from jaxface.heads import flame
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.meshes import Mesh
from jaxface.protocols import visible_surface
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, worst_pictures

OBSERVATION_BACK = "obs_back.npy"
# How far above the throat plane points are counted: the product with the plane's unnormalised normal, NPHM's units.
THROAT_MARGIN = 0.003
SCALE_FILE = "s.npy"
TREE = (
    f"{nphm_scans.TREE}; of the test people, s.npy next to each scan, and "
    f"{nphm_scans.SINGLE_VIEW}/SSS/E/{OBSERVATION_BACK} of each person's first expression"
)
LIMIT_MM = 5.0


def expressions(root: pathlib.Path, subject: int) -> list[int]:
    """The scans of a test person that are evaluated; none if the person is not there."""
    if not (root / f"{subject:03d}").is_dir():
        return []
    left_out = {*nphm_scans.INVALID_TEST_SCANS.get(subject, ()), *nphm_scans.BAD_SCANS.get(subject, ())}
    return [number for number in nphm_scans.expressions(root, subject) if number not in left_out]


def raised(plane: np.ndarray, margin: float) -> np.ndarray:
    """The plane through three points (3,3), moved up by `margin` over the length of its unnormalised normal."""
    normal = np.cross(plane[1] - plane[0], plane[2] - plane[0]).astype(np.float64)
    return plane + margin * normal / (normal @ normal)


def observation(root: pathlib.Path, subject: int, expression: int, with_back: bool) -> np.ndarray | None:
    """The published single-view points (N,3) of a scan above its throat, in NPHM's units; None if there are none."""
    folder = root / nphm_scans.SINGLE_VIEW / f"{subject:03d}" / str(expression)
    if not (folder / nphm_scans.OBSERVATION).is_file():
        return None
    points = nphm_scans.read_observation(folder / nphm_scans.OBSERVATION)
    if with_back and (folder / OBSERVATION_BACK).is_file():
        points = np.concatenate([points, nphm_scans.read_observation(folder / OBSERVATION_BACK)])
    return points[flame.above_throat(points, nphm_scans.throat(nphm_scans.scan_folder(root, subject, expression)))]


def whole_scan(root: pathlib.Path, subject: int, expression: int) -> Mesh:
    """The scan's vertices above its throat, in NPHM's units, as a point cloud."""
    folder = nphm_scans.scan_folder(root, subject, expression)
    points = meshes.read(folder / "scan.ply").vertices
    return Mesh(points[flame.above_throat(points, nphm_scans.throat(folder))], np.zeros((0, 3), np.int32))


def score(
    root: pathlib.Path, subject: int, expression: int, mesh: Mesh, mask: np.ndarray, samples: int, size: tuple[int, int]
) -> dict[str, float]:
    """The errors of a fitted mesh, in NPHM's units, against its scan; see `visible_surface.evaluate`."""
    folder = nphm_scans.scan_folder(root, subject, expression)
    scan, registered = meshes.read(folder / "scan.ply"), meshes.read(folder / "registration.ply")
    if len(registered.vertices) != len(mask):
        raise UserError(
            f"{folder}: registration.ply has {len(registered.vertices)} vertices, face.npy {len(mask)}; copy them again"
        )
    face = visible_surface.face_vertices(MM_PER_UNIT * registered.vertices, registered.triangles, mask)
    throat = MM_PER_UNIT * raised(nphm_scans.throat(folder).astype(np.float64), THROAT_MARGIN)
    scale = _true_mm_per_unit(folder) / MM_PER_UNIT
    in_mm = [Mesh(MM_PER_UNIT * one.vertices, one.triangles) for one in (mesh, scan)]
    return visible_surface.evaluate(*in_mm, face, throat, samples, size, scale)


def _true_mm_per_unit(folder: pathlib.Path) -> float:
    """Millimetres of a unit of this scan: 1 / s of its s.npy. Raises UserError if the file is missing."""
    path = folder / SCALE_FILE
    if not path.is_file():
        raise UserError(f"{path}: missing; errors in mm need the scale of each scan")
    return 1 / float(np.load(path, allow_pickle=False).item())


def run(
    request: Request, samples: int = visible_surface.SAMPLES, size: tuple[int, int] = visible_surface.SIZE
) -> Outcome:
    """Fits and scores the test people that are in the folder.

    Args:
        request: the request.
        samples: points sampled from each surface.
        size: (height, width) of the renderings.
    """
    root, model = request.manual_dir, request.model()
    people = {subject: numbers for subject in nphm_scans.TEST if (numbers := expressions(root, subject))}
    if not people:
        raise UserError(f"{root}: has no scan of a test person; expected {TREE}")
    mask, items, rows = nphm_scans.face_mask(root), [], {}
    for subject, numbers in people.items():
        observed = [observation(root, subject, number, number == numbers[0]) for number in numbers]
        inputs = {"whole_scan": (numbers, [whole_scan(root, subject, number) for number in numbers])}
        seen = [(number, points) for number, points in zip(numbers, observed, strict=True) if points is not None]
        if seen:
            inputs = {"single_view": ([number for number, _ in seen], [points for _, points in seen]), **inputs}
        for kind, (chosen, scans) in inputs.items():
            fits = model.fit(scans, units="nphm", align="none")
            for number, fit in zip(chosen, fits, strict=True):
                errors = score(root, subject, number, fit.mesh, mask, samples, size)
                rows.setdefault(kind, []).append(errors)
                # The picture is drawn now, as the fit holds the whole scan.
                draw = functools.partial(np.copy, fit.draw())
                items.append(Item(f"{subject:03d}/{number:03d}", errors["chamfer_l1"], (kind,), draw))
        items = worst_pictures(items)
    table = {}
    for kind, listed in rows.items():
        means = {name: float(np.mean([errors[name] for errors in listed])) for name in listed[0]}
        for part, prefix in (("face", "face_"), ("head", "")):
            own = {
                name.removeprefix("face_"): value
                for name, value in means.items()
                if name.startswith("face_") == bool(prefix)
            }
            table[f"{kind} {part}"] = {**own, "scans": len(listed)}
    curves = {kind: np.array([item.error for item in items if item.groups == (kind,)]) for kind in rows}
    return Outcome(table, items, curves, LIMIT_MM, "Chamfer-L1 (mm)")


NPHM = Protocol(
    systems=("nphm",),
    tree=TREE,
    published="README of the official code, single view, Chamfer-L1 mm / L2 mm2 / normals / F@1 / F@5: NPHM head "
    "2.052 / 13.714 / .874 / .523 / .902, face 0.531 / 0.761 / .976 / .891 / .997; NPM head 2.657 / 35.896 / .883 / "
    ".478 / .873, face 0.657 / 1.129 / .973 / .840 / .994",
    run=run,
)
