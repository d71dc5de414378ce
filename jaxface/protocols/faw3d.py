"""GTE and CVGTCE, the errors of the 3DFAW challenge (Jeni et al., ECCV 2016 workshops), of 3D landmarks.

GTE, ground truth error: mean 3D distance over the outer eye corners' 3D distance, mean depths aligned. CVGTCE,
cross-view ground truth consistency error: the prediction of one view against the truth of another view of the same face
under the best similarity, over the same distance. The views of one face are the lines of views.txt (names of images
without ending), or otherwise found by their truths, which differ by a similarity only. GTE also reads AFLW2000-3D, on
which the paper of JVCR reports it, and reports the 2D NME over the root of the box's area.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from jaxface.data import faw3d_files
from jaxface.errors import UserError
from jaxface.protocols import aflw2000
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, read_lines, score_each
from jaxface.systems.jvcr import metrics

TREE = f"3DFAW: {faw3d_files.TREE}; or {aflw2000.TREE}"
VIEWS = "views.txt"
TREE_VIEWS = f"3DFAW: {faw3d_files.TREE}; optionally {VIEWS}, the names of the images of one face in each line"
LIMIT_PERCENT = 15.0
# Truths are views of one face if their normalised point distances differ by less than this (vectors of norm 1).
SAME_FACE = 2e-3


@dataclasses.dataclass(frozen=True)
class View:
    """An annotated image: its file, landmarks (68,3) with z towards the viewer, and which of them are annotated."""

    path: pathlib.Path
    truth: np.ndarray
    valid: np.ndarray


def read_views(root: pathlib.Path) -> dict[str, View]:
    """The test images of 3DFAW by name. Raises UserError if there are none or a file is malformed."""
    pairs, problems = faw3d_files.labelled_images(root, faw3d_files.FOLDERS["test"])
    for name, reason in problems.items():
        raise UserError(f"{name}: {reason}")
    if not pairs:
        raise UserError(f"{root}: has no labelled test image; expected {TREE}")
    valid = np.ones(68, bool)
    valid[list(faw3d_files.ABSENT)] = False
    views = {}
    for path, label in pairs:
        truth = np.zeros((68, 3))
        truth[valid] = faw3d_files.read_points(label)
        # The absent points do not count; they lie where the outer mouth corners are, inside the face's box.
        truth[~valid] = truth[[48, 54]]
        views[path.stem] = View(path, truth, valid)
    return views


def _aflw2000_views(root: pathlib.Path) -> dict[str, View]:
    everything = np.ones(68, bool)
    return {
        name: View(path, aflw2000.read_truth(path)[0], everything) for name, path in aflw2000.find_images(root).items()
    }


def _is_aflw2000(root: pathlib.Path) -> bool:
    return any(root.glob("**/image*.mat"))


def _predict(request: Request, view: View) -> tuple[np.ndarray, aflw2000.FaceLandmarks]:
    """Points (68,3) of the face in a view, z towards the viewer; UserError if the system has no depth."""
    face = aflw2000.predict(request, view.path, view.truth)
    if face.points_3d is None:
        raise UserError(f"{request.model().config.system}: finds no depth; this protocol needs 3D landmarks (jvcr)")
    return np.asarray(face.points_3d, np.float64), face


def run_gte(request: Request) -> Outcome:
    """GTE of every test image; on AFLW2000-3D also by yaw."""
    by_yaw = _is_aflw2000(request.manual_dir)
    views = (_aflw2000_views if by_yaw else read_views)(request.manual_dir)
    flat: dict[str, float] = {}

    def score(name: str) -> Item:
        view = views[name]
        points, face = _predict(request, view)
        error = 100 * metrics.ground_truth_error(points, view.truth, view.valid)
        flat[name] = aflw2000.nme_percent(points[view.valid, :2], view.truth[view.valid, :2])
        bins = (aflw2000.yaw_bin(aflw2000.read_truth(view.path)[1]),) if by_yaw else ()
        return Item(name, float(error), bins, functools.partial(aflw2000.draw, view.path, face))

    skipped: dict[str, str] = {}
    items = list(score_each(list(views), score, skipped))
    groups = {"all": [item for item in items]}
    for name in aflw2000.BINS:
        if members := [item for item in items if name in item.groups]:
            groups[name] = members
    table = {
        group: {
            "gte": float(np.mean([item.error for item in members])),
            "nme_2d": float(np.mean([flat[item.name] for item in members])),
            "images": len(members),
        }
        for group, members in groups.items()
    }
    curves = {group: np.array([item.error for item in members]) for group, members in groups.items()}
    return Outcome(table, items, curves, LIMIT_PERCENT, "GTE (% of the outer eye distance)", skipped)


def faces_of(root: pathlib.Path, views: dict[str, View]) -> list[list[str]]:
    """The names of the views of each face that has two or more, from views.txt or from the truths.

    Raises UserError if views.txt names an image that is absent, or no face has two views.
    """
    if (root / VIEWS).is_file():
        groups = [line.replace(",", " ").split() for line in read_lines(root / VIEWS, TREE_VIEWS)]
        absent = [name for group in groups for name in group if name not in views]
        if absent:
            raise UserError(f"{root / VIEWS}: {absent[0]} is not a labelled test image; use names without ending")
    else:
        groups = _same_shapes(views)
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UserError(f"{root}: no face has two views; list the images of each face in a line of {VIEWS}")
    return groups


def _same_shapes(views: dict[str, View]) -> list[list[str]]:
    """Groups of names whose truths are equal up to a similarity: equal distances between all points but for scale."""
    names, signatures = list(views), []
    for view in views.values():
        points = view.truth[view.valid]
        first, second = np.triu_indices(len(points), 1)
        distances = np.linalg.norm(points[first] - points[second], axis=1)
        signatures.append(distances / np.linalg.norm(distances))
    stacked = np.stack(signatures)
    groups, free = [], np.ones(len(names), bool)
    for row in range(len(names)):
        if free[row]:
            same = free & (np.linalg.norm(stacked - stacked[row], axis=1) < SAME_FACE)
            free &= ~same
            groups.append([names[index] for index in np.flatnonzero(same)])
    return groups


def run_cvgtce(request: Request) -> Outcome:
    """CVGTCE of every test image whose face has another view, averaged over these."""
    views = read_views(request.manual_dir)
    others = {
        name: [other for other in group if other != name]
        for group in faces_of(request.manual_dir, views)
        for name in group
    }
    pairs = 0

    def score(name: str) -> Item:
        nonlocal pairs
        points, face = _predict(request, views[name])
        truths = np.stack([views[other].truth for other in others[name]])
        valid = np.stack([views[other].valid for other in others[name]])
        errors = metrics.cross_view_error(np.broadcast_to(points, truths.shape), truths, valid)
        pairs += len(errors)
        draw = functools.partial(aflw2000.draw, views[name].path, face)
        return Item(name, float(100 * errors.mean()), (), draw)

    skipped: dict[str, str] = {}
    items = list(score_each(list(others), score, skipped))
    errors = np.array([item.error for item in items])
    table = {"all": {"cvgtce": float(errors.mean()), "images": len(items), "pairs": pairs}}
    return Outcome(table, items, {"all": errors}, LIMIT_PERCENT, "CVGTCE (% of the outer eye distance)", skipped)


GTE = Protocol(
    systems=("jvcr",),
    tree=TREE,
    published="JVCR (ICPR 2018), GTE in %: 3DFAW 4.35, AFLW2000-3D 7.28",
    run=run_gte,
)
CVGTCE = Protocol(
    systems=("jvcr",),
    tree=TREE_VIEWS,
    published="JVCR (ICPR 2018), CVGTCE in %: 3DFAW 3.46",
    run=run_cvgtce,
)
