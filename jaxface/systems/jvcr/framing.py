"""How a face is framed: the original's crop with the contrast stretch of old SciPy versions, and boxes of landmarks."""

import math

import numpy as np
from PIL import Image

from jaxface.crops import BROWS, CHIN, FOREHEAD
from jaxface.systems.jvcr import transforms


def stretch_contrast(image: np.ndarray) -> np.ndarray:
    """Values of any range as uint8, the minimum at 0 and the maximum at 255 (SciPy's bytescale)."""
    low, high = image.min(), image.max()
    return ((image - low) * (255.0 / ((high - low) or 1.0)) + 0.5).clip(0, 255).astype(np.uint8)


def reference_crop(
    image: np.ndarray, center: np.ndarray, scale: float, size: int, rotation_deg: float = 0.0
) -> np.ndarray:
    """The original's crop (size,size,3) float32 in [0,1] of an image (H,W,3): crop() of its utils/transforms.py.

    A region of whole pixels is cut out, black beyond the border. Its contrast is stretched: the minimum becomes 0 and
    the maximum 1, in 256 steps. PIL rotates and then resizes it.

    Args:
        image: (H,W,3) of any dtype and range of values.
        center: (2,) px, centre of the square.
        scale: side of the square in units of 200 px.
        size: px, side of the crop.
        rotation_deg: counter-clockwise rotation of the square.
    """
    matrix = transforms.reference_matrix(np.asarray(center, np.float64), scale, size)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    low, high = (np.trunc(inverse @ [corner, corner, 1])[:2].astype(int) + 1 for corner in (-1, size - 1))
    margin = 0
    if rotation_deg:
        margin = int(np.linalg.norm(high - low) / 2 - (high[1] - low[1]) / 2)
    region = stretch_contrast(_cut_padded(image, low - margin, high + margin))
    if rotation_deg:
        rotated = np.asarray(Image.fromarray(region).rotate(rotation_deg, Image.Resampling.BILINEAR))
        region = rotated[margin : rotated.shape[0] - margin, margin : rotated.shape[1] - margin]
    resized = np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.BILINEAR), np.float32)
    return resized / 255 if resized.max() > 1 else resized


def _cut_padded(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The image from low to high (x, y), zero beyond the border; at least one pixel."""
    width, height = (max(1, int(side)) for side in high - low)
    canvas = np.zeros((height, width, image.shape[2]), np.float64)
    x0, y0 = (max(0, int(start)) for start in low)
    x1 = min(image.shape[1], int(low[0]) + width)
    y1 = min(image.shape[0], int(low[1]) + height)
    if x0 < x1 and y0 < y1:
        canvas[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] = image[y0:y1, x0:x1]
    return canvas


def landmark_frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (2,) px and scale of the original's crop of landmarks (N,2+): 1.25 widths of their bounding box."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return (low + high) / 2, 1.25 * max(float(high[0] - low[0]), math.ulp(1.0)) / transforms.SCALE_PX


def face_box(points: np.ndarray) -> np.ndarray:
    """The box (4,) float32 from hairline to chin and from side to side of points (68,2+).

    Differs from `jaxface.crops.extent_boxes` in that it assumes an upright face; the models were trained with it.
    """
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    brows = points[BROWS, 1].mean()
    top = brows - FOREHEAD * (points[CHIN, 1].max() - brows)
    return np.float32([low[0], min(low[1], top), high[0], high[1]])


def landmark_box(box: np.ndarray) -> np.ndarray:
    """Bounding box (4,) of the 68 points of a face with a box (4,) from hairline to chin: the inverse of `face_box`."""
    x0, y0, x1, y1 = box
    return np.array([x0, y0 + (y1 - y0) * FOREHEAD / (1 + FOREHEAD), x1, y1])
