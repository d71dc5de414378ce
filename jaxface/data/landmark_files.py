"""Points of a face that the user has in files beside the picture.

NAME.pts, as iBUG's (68 points, counted from 1, y down); landmarks/NAME.txt and detections/NAME.txt as
Deep3DFaceRecon_pytorch writes them (68 points with y up from the last row; 5 points with y down).
"""

import pathlib

import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68

# The hairline lies above the brows by this part of brows to chin, as far as a face box reaches.
FOREHEAD = 0.3


def read_landmarks(picture: pathlib.Path, height: int, width: int) -> np.ndarray | None:
    """The 68 points (68,2) px, y down, of a picture of height x width; None where no file of its name has them.

    UserError: such a file without 68 points, or with all of them outside the picture.
    """
    ibug = picture.with_suffix(".pts")
    original = picture.parent / "landmarks" / f"{picture.stem}.txt"
    if ibug.is_file():
        path, points = ibug, _numbers(ibug, 68) - 1
    elif original.is_file():
        path, points = original, _numbers(original, 68) * [1, -1] + [0, height - 1]
    else:
        return None
    if not ((points > -0.5) & (points < [width - 0.5, height - 0.5])).all(1).any():
        raise UserError(f"{path.name}: none of its points lies in the picture of {width} x {height} pixels")
    return points


def read_box(picture: pathlib.Path) -> np.ndarray | None:
    """The extent (4,) of the face, hairline to chin, by the five points of a picture; None without such a file."""
    path = picture.parent / "detections" / f"{picture.stem}.txt"
    return face_box(_numbers(path, 5)) if path.is_file() else None


def face_box(five: np.ndarray) -> np.ndarray:
    """Box (4,) px around a face with five points (5,2), y down: where a typical face put onto them would reach."""
    face = canonical.queries("68")[:, :2] * [1, -1]
    scale, rotation, offset = alignment.similarity(LAYOUT_68.five_points(face), five)
    brows, chin = face[17:27], face[7:10].mean(0)
    outline = np.concatenate([face, brows + FOREHEAD * (brows.mean(0) - chin)]) @ rotation.T * scale + offset
    return np.concatenate([outline.min(0), outline.max(0)])


def _numbers(path: pathlib.Path, count: int) -> np.ndarray:
    """Points (count,2) of a text file; lines that are not two numbers (an iBUG header, braces) are passed over."""
    try:
        rows = [line.replace(",", " ").split() for line in path.read_text("utf-8").splitlines()]
        points = np.array([[float(word) for word in row] for row in rows if len(row) == 2 and ":" not in row[0]])
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read as lines of x y ({error})") from error
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise UserError(f"{path.name} holds {len(points)} points; {count} are needed")
    return points
