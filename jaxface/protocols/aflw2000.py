"""AFLW2000-3D (Zhu et al., CVPR 2016): 2D NME of the 68 landmarks by yaw, as 3DDFA's benchmark computes it.

The distance of each landmark in the image, divided by the square root of the area of the landmarks' true bounding box.
The published total is the mean of the three yaw bins, |yaw| <= 30, 30 to 60 and above, so that the 1,306 easy images of
2,000 do not dominate it. The face box is the extent of the true landmarks. Any system with 68 landmarks can be scored.
"""

import functools
import pathlib

import numpy as np

from jaxface import crops, landmark_metrics, overlay, photo
from jaxface.data import annotations
from jaxface.errors import UserError
from jaxface.protocols.protocol import Item, Outcome, Protocol, Request, errors_by_group, score_each
from jaxface.results import FaceLandmarks

TREE = "the contents of AFLW2000-3D.zip: image0NNNN.jpg with a .mat file each (pt3d_68, Pose_Para)"
# Upper bounds of |yaw| in degrees, inclusive.
BINS = {"yaw_0_30": 30.0, "yaw_30_60": 60.0, "yaw_60_90": np.inf}
LIMIT_PERCENT = 10.0


def read_truth(path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Landmarks (68,3) px, y down, and the yaw in degrees from the .mat file of an image.

    Raises UserError if the file is missing or lacks them.
    """
    arrays = annotations.read_mat(path.with_suffix(".mat"), "pt3d_68", "Pose_Para")
    points, pose = arrays["pt3d_68"], arrays["Pose_Para"].ravel()
    if points.shape != (3, 68) or pose.size != 7:
        raise UserError(f"{path.with_suffix('.mat')}: pt3d_68 is {points.shape}, not (3, 68); download the file again")
    return points.T.astype(np.float64), float(np.rad2deg(pose[1]))


def find_images(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """The images of the set by name, in the folder or in its AFLW2000. Raises UserError if there are none."""
    for folder in (root, root / "AFLW2000", root / "AFLW2000-3D"):
        if paths := sorted(folder.glob("image*.jpg")):
            return {path.stem: path for path in paths}
    raise UserError(f"{root}: has no image*.jpg; expected {TREE}")


def predict(request: Request, path: pathlib.Path, truth: np.ndarray) -> FaceLandmarks:
    """The face of an image in the box of its true landmarks (68,2+). UserError if the system has no 68 points."""
    box = crops.extent_boxes(truth[None, :, :2])[0]
    face = request.model()(photo.load(path), box, layout="68")[0]
    # Only the landmarks are kept: a reconstruction of each of 2,000 images would not fit into memory.
    names = ("box", "extent", "layout", "points", "sigma", "points_3d")
    return FaceLandmarks(**{name: getattr(face, name) for name in names})


def draw(path: pathlib.Path, face: FaceLandmarks) -> np.ndarray:
    """The face in its image, cut to its surroundings."""
    loaded = photo.load(path)
    image = overlay.draw_overlay(loaded.pixels, [face], loaded.step)
    x0, y0, x1, y1 = (loaded.to_pixels(np.asarray(face.box).reshape(2, 2))).ravel().astype(int)
    margin = (x1 - x0) // 4
    return image[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]


def yaw_bin(yaw_deg: float) -> str:
    """The name of the bin of a yaw in degrees."""
    return next(name for name, bound in BINS.items() if abs(yaw_deg) <= bound)


def nme_percent(points: np.ndarray, truth: np.ndarray) -> float:
    """NME in percent of points (68,2) against landmarks (68,2) over the root of their box's area."""
    norm = landmark_metrics.box_size(landmark_metrics.landmark_extent(truth, np.ones(len(truth), bool)))
    return float(100 * landmark_metrics.nme(points, truth, norm))


def balanced(groups: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Rows of the table: mean, failure rate and count of each group, and the mean of the bins' means."""
    rows = {
        name: {
            "nme": float(errors.mean()),
            "failure_rate": 100 * float((errors > LIMIT_PERCENT).mean()),
            "images": len(errors),
        }
        for name, errors in groups.items()
    }
    present = [rows[name]["nme"] for name in BINS if name in rows]
    return {"mean_of_bins": {"nme": float(np.mean(present))}, **rows}


def run(request: Request) -> Outcome:
    """Scores every image of the set."""
    paths, skipped = find_images(request.manual_dir), {}

    def score(name: str) -> Item:
        truth, yaw = read_truth(paths[name])
        face = predict(request, paths[name], truth)
        error = nme_percent(np.asarray(face.points, np.float64), truth[:, :2])
        return Item(name, error, (yaw_bin(yaw),), functools.partial(draw, paths[name], face))

    items = list(score_each(list(paths), score, skipped))
    groups = errors_by_group(items)
    groups = {"all": groups["all"], **{name: groups[name] for name in BINS if name in groups}}
    return Outcome(balanced(groups), items, groups, LIMIT_PERCENT, "NME (% of the box)", skipped)


AFLW2000 = Protocol(
    systems=("deep3d", "continuous", "jvcr", "pipnet"),
    tree=TREE,
    published="NME in %, yaw 0-30 / 30-60 / 60-90 / mean of bins: the paper's Deep3D model (TensorFlow) "
    "2.56 / 3.11 / 4.45 / 3.37",
    run=run,
)
