"""The mesh type, and what the readers of mesh files share: polygons, strips, normals, colours."""

import dataclasses
import re
import warnings
from collections.abc import Sequence

import numpy as np

from jaxface.errors import UserError

DECIMAL_COMMA = re.compile(rb"\d,\d")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh, or a point cloud if it has no triangles.

    Attributes:
        vertices: (V,3) float32, or float64 as read from files.
        triangles: (T,3) int32, T may be 0.
        normals: (V,3) float32 or None.
        colors: (V,3) float32 sRGB in [0,1] or None.
        uv: (V,2) float32 with v upwards, or None; (U,2) with `uv_triangles`.
        texture: (H,W,3) uint8 or None.
        uv_triangles: (T,3) int32, the rows of `uv` at the corners of `triangles` where seams cut the surface; None if
            each vertex has one position in the texture.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    uv_triangles: np.ndarray | None = None


def triangulate(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Triangle fans of polygons, in the order of the file.

    Args:
        groups: (number of each polygon in the file (N,), its vertices (N,C)) of the polygons with C corners.

    Returns:
        (T,3) int64.
    """
    triangles, order = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for numbers, corners in groups:
        for corner in range(1, corners.shape[1] - 1):
            triangles.append(corners[:, [0, corner, corner + 1]])
            order.append(numbers)
    return np.concatenate(triangles)[np.argsort(np.concatenate(order), kind="stable")]


def strip_triangles(indices: np.ndarray) -> np.ndarray:
    """Triangles (T,3) of strips (N,) separated by -1, in alternating order; degenerate ones are left out."""
    if len(indices) < 3:
        return np.zeros((0, 3), np.int64)
    triangles = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    position = np.arange(len(indices))
    start = np.maximum.accumulate(np.where(indices < 0, position + 1, 0))
    odd = (position - start)[:-2] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(triangles >= 0).all(1) & (a != b) & (b != c) & (a != c)]


def unit_normals(normals: np.ndarray) -> np.ndarray | None:
    """Unit normals (V,3) float32; None if most of them are zero or not finite, as exporters write for no normals."""
    length = np.linalg.norm(np.asarray(normals, np.float64), axis=1, keepdims=True)
    valid = np.isfinite(length) & (length > 0)
    if valid.mean() <= 0.5:
        return None
    return np.where(valid, normals / np.where(valid, length, 1), 0).astype(np.float32)


def unit_colors(colors: np.ndarray) -> np.ndarray:
    """Colours (V,3) float32 in [0,1], from numbers of any type: integers by their range, floats by their largest."""
    if np.issubdtype(colors.dtype, np.floating):
        largest = colors.max(initial=0.0)
        scale = 1.0 if not largest > 1 else 255.0 if largest <= 255 else 65535.0
    else:
        info = np.iinfo(colors.dtype)
        scale = float(info.max if info.bits <= 16 else 255)
    return (np.asarray(colors, np.float32) / np.float32(scale)).clip(0, 1)


def text_numbers(text: bytes) -> np.ndarray:
    """The numbers (N,) float64 of a text, separated by white space. Raises ValueError or UserError for other text."""
    if not text.strip():
        return np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # older versions of numpy warn and stop reading
            return np.fromstring(text, np.float64, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        if DECIMAL_COMMA.search(text[:1000]):
            raise UserError("its numbers have decimal commas; export it with decimal points") from error
        raise ValueError("it has something else where numbers are expected") from error
