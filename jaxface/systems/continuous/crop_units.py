"""Crop units, in which the network predicts points: x right, y down, -1 and 1 at the edges of the square crop.

The edges lie half a pixel outside the centres of the outer pixels.
"""

from jaxface.geometry.alignment import Array

# Training points count in the loss up to this coordinate, a quarter of the crop's side beyond its border.
MAX_COORDINATE = 1.5


def from_pixels(points_px: Array, size: int) -> Array:
    """Crop units of points (any shape) in pixels of a crop of `size` pixels."""
    return (2 * points_px + 1) / size - 1


def to_pixels(points: Array, size: int) -> Array:
    """Inverse of `from_pixels`."""
    return (points + 1) * size / 2 - 0.5
