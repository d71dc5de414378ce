"""Landmarks of a face in the user's files next to the image.

NAME.pts in iBUG's format (68 points, 1-based, y down); landmarks/NAME.txt and detections/NAME.txt in the formats of
Deep3DFaceRecon_pytorch (68 points with y up from the last row; 5 points with y down).
"""

import pathlib

import numpy as np

from jaxface import crops
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68


def read_landmarks(image: pathlib.Path, height: int, width: int) -> np.ndarray | None:
    """The 68 landmarks (68,2) px, y down, of an image file.

    Args:
        image: path of the image.
        height: its rows.
        width: its columns.

    Returns:
        the landmarks, or None if the image has no such file.

    Raises:
        UserError: a file does not hold 68 points, or all of them are outside the image.
    """
    ibug = image.with_suffix(".pts")
    deep3d = image.parent / "landmarks" / f"{image.stem}.txt"
    if ibug.is_file():
        path, points = ibug, _read_points(ibug, 68) - 1
    elif deep3d.is_file():
        path, points = deep3d, _read_points(deep3d, 68) * [1, -1] + [0, height - 1]
    else:
        return None
    if not ((points > -0.5) & (points < [width - 0.5, height - 0.5])).all(1).any():
        raise UserError(f"{path.name}: all points are outside the image of {width} x {height} px; correct them")
    return points


def read_five(image: pathlib.Path) -> np.ndarray | None:
    """The five points (5,2) px, y down, of an image file: eyes, nose tip, mouth corners; None without file."""
    path = image.parent / "detections" / f"{image.stem}.txt"
    return _read_points(path, 5) if path.is_file() else None


def read_box(image: pathlib.Path) -> np.ndarray | None:
    """The face box (4,), hairline to chin, from the five points of an image; None if it has no such file."""
    five = read_five(image)
    return None if five is None else face_box(five)


def face_box(five: np.ndarray) -> np.ndarray:
    """Box (4,) px of a face with five points (5,2), y down: the extent of the template face aligned to them."""
    template = canonical.queries("68")[:, :2] * [1, -1]
    scale, rotation, offset = alignment.similarity(LAYOUT_68.five_points(template), five)
    outline = np.concatenate([template, crops.hairline(template)]) @ rotation.T * scale + offset
    return np.concatenate([outline.min(0), outline.max(0)])


def _read_points(path: pathlib.Path, count: int) -> np.ndarray:
    """Points (count,2) of a text file; lines that are not two numbers (an iBUG header, braces) are skipped."""
    try:
        rows = [line.replace(",", " ").split() for line in path.read_text("utf-8").splitlines()]
        pairs = [row for row in rows if len(row) == 2 and ":" not in row[0]]
        points = np.array([[float(word) for word in row] for row in pairs])
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name}: not a text file with a line x y per point ({error})") from error
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise UserError(f"{path.name}: {len(points)} points; expected {count}")
    return points
