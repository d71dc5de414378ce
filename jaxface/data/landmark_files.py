"""Landmarks of a face in the user's files next to the image.

NAME.pts in iBUG's format (68 points, 1-based, y down); landmarks/NAME.txt and detections/NAME.txt in the formats of
Deep3DFaceRecon_pytorch (68 points with y up from the last row; 5 points with y down).
"""

import pathlib

import numpy as np

from jaxface import crops
from jaxface.data import annotations
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
    ibug = _beside(image, image.parent, ".pts")
    deep3d = _beside(image, image.parent / "landmarks", ".txt")
    if ibug is not None:
        path, points = ibug, _read_ibug(ibug)
    elif deep3d is not None:
        path, points = deep3d, _read_points(deep3d, 68) * [1, -1] + [0, height - 1]
    else:
        return None
    if not ((points > -0.5) & (points < [width - 0.5, height - 0.5])).all(1).any():
        raise UserError(f"{path.name}: all points are outside the image of {width} x {height} px; correct them")
    return points


def read_five(image: pathlib.Path) -> np.ndarray | None:
    """The five points (5,2) px, y down, of an image file: eyes, nose tip, mouth corners; None without file."""
    path = _beside(image, image.parent / "detections", ".txt")
    if path is None:
        return None
    points = _read_points(path, 5)
    if np.ptp(points, axis=0).max() < 1:
        raise UserError(f"{path.name}: its points coincide; give five different points")
    return points


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


def _beside(image: pathlib.Path, folder: pathlib.Path, ending: str) -> pathlib.Path | None:
    """The file of `folder` with the name of an image and an ending in lower or upper case; None if there is none."""
    paths = [folder / (image.stem + ending), folder / (image.stem + ending.upper())]
    return next((path for path in paths if path.is_file()), None)


def _read_ibug(path: pathlib.Path) -> np.ndarray:
    """Points (68,2) px of an iBUG file with or without braces, 0-based. Raises UserError if a point is missing."""
    try:
        has_braces = "{" in annotations.read_text(path)
        points = annotations.read_pts(path, 68) if has_braces else _read_points(path, 68)
    except UserError as error:
        raise UserError(str(error).removeprefix(f"{path.parent}/")) from error
    if annotations.missing(points).any():
        raise UserError(f"{path.name}: a point is missing; complete it, or remove the file to have the face detected")
    return points - 1


def _read_points(path: pathlib.Path, count: int) -> np.ndarray:
    """Points (count,2) of a text file; lines that are not two numbers (an iBUG header, braces) are skipped."""
    try:
        rows = [line.replace(",", " ").split() for line in annotations.read_text(path).splitlines()]
        pairs = [row for row in rows if len(row) == 2 and ":" not in row[0]]
        points = np.array([[float(word) for word in row] for row in pairs])
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path.name}: not a text file with a line x y per point ({error}); write it again") from error
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise UserError(f"{path.name}: {len(points)} points; expected {count}")
    return points
