"""Resized and rotated copies of an image in which faces are searched."""

from collections.abc import Sequence

import cv2
import numpy as np

from jaxface.geometry import alignment

# An image whose long side is this many times that of a copy is halved first, repeatedly: that is much faster than a
# reduction by another ratio.
MIN_HALVED = 3
# Copies of smaller images are enlarged by at most this factor: YuNet does not find faces that fill its input. Copies
# with a longer side than ENLARGED_SIDE are enlarged by less than 2.
MAX_ENLARGEMENT, ENLARGED_SIDE = 4, 320


def fitting_sides(sides: Sequence[int], image: np.ndarray) -> list[int]:
    """The long sides of copies, of `sides`, in which an image is searched."""
    long_side = max(image.shape[:2])
    fitting = [side for side in sides if side <= ENLARGED_SIDE or side < 2 * long_side]
    return list(dict.fromkeys(min(side, MAX_ENLARGEMENT * long_side) for side in fitting))


def halved(levels: list[np.ndarray], side: int) -> tuple[np.ndarray, float]:
    """The image, halved for a copy with a long side, and its scale.

    Args:
        levels: the image and what is known of its halves, quarters and so on; missing ones are added.
        side: px.
    """
    number = 0
    while max(levels[number].shape[:2]) >= MIN_HALVED * side and min(levels[number].shape[:2]) > 1:
        height, width = (length // 2 for length in levels[number].shape[:2])
        if number + 1 == len(levels):
            even = levels[number][: 2 * height, : 2 * width]
            levels.append(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))
        number += 1
    return levels[number], 0.5**number


def resized(levels: list[np.ndarray], side: int, angle_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole image resized to a long side and rotated, and the affine map (2,3) from the copy to the image.

    `levels`: see `halved`.
    """
    source, scale = halved(levels, side)
    remaining = side / max(source.shape[:2])
    scale *= remaining
    size = [max(1, round(length * remaining)) for length in source.shape[1::-1]]
    copy = cv2.resize(source, size, interpolation=cv2.INTER_AREA if remaining < 1 else cv2.INTER_LINEAR)
    to_copy = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    if angle_rad:
        rotation = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), float(np.rad2deg(angle_rad)), 1)
        bounds = np.ceil(np.abs(rotation[:, :2]) @ size - 1e-6).astype(int)
        rotation[:, 2] += (bounds - size) / 2
        copy = cv2.warpAffine(copy, rotation, bounds.tolist(), borderMode=cv2.BORDER_REPLICATE)
        to_copy = rotation @ np.vstack([to_copy, [0, 0, 1]])
    return copy, alignment.invert_affine(to_copy)
