"""The original's crop of a picture, with the contrast stretch that old SciPy hid in it; and boxes of landmarks."""

import math

import numpy as np
from PIL import Image

from jaxface.systems.jvcr import transforms

# The hairline lies above the brow points by this part of brows to chin.
FOREHEAD = 0.3
BROWS, CHIN = slice(17, 27), slice(7, 10)


def stretched(pixels: np.ndarray) -> np.ndarray:
    """Values of any range as uint8, the least 0 and the greatest 255: SciPy's bytescale; what is uint8 stays."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) * (255.0 / ((high - low) or 1.0)) + 0.5).clip(0, 255).astype(np.uint8)


def reference_crop(
    pixels: np.ndarray, center: np.ndarray, scale: float, size: int, rotation_deg: float = 0.0
) -> np.ndarray:
    """The crop (size,size,3) float32 in [0,1] of `pixels` (H,W,3), the square of 200 * scale px about `center` (2,).

    As crop() of the original's utils/transforms.py: whole pixels are cut out, black beyond the edge; their least value
    becomes 0 and their greatest 1, in 256 steps; the square is turned by `rotation_deg`, then resized by PIL.
    """
    back = np.linalg.inv(
        np.vstack([transforms.reference_matrix(np.asarray(center, np.float64), scale, size), [0, 0, 1]])
    )
    low, high = (np.trunc(back @ [corner, corner, 1])[:2].astype(int) + 1 for corner in (-1, size - 1))
    margin = 0
    if rotation_deg:
        margin = int(np.linalg.norm(high - low) / 2 - (high[1] - low[1]) / 2)
    cut = stretched(_cut(pixels, low - margin, high + margin))
    if rotation_deg:
        turned = np.asarray(Image.fromarray(cut).rotate(rotation_deg, Image.Resampling.BILINEAR))
        cut = turned[margin : turned.shape[0] - margin, margin : turned.shape[1] - margin]
    resized = np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR), np.float32)
    return resized / 255 if resized.max() > 1 else resized


def _cut(pixels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`pixels` from low to high (x, y), zero where there are none; at least one pixel."""
    width, height = (max(1, int(side)) for side in high - low)
    canvas = np.zeros((height, width, pixels.shape[2]), np.float64)
    x0, y0 = (max(0, int(start)) for start in low)
    x1, y1 = (
        min(end, int(start) + side) for end, start, side in zip(pixels.shape[1::-1], low, (width, height), strict=True)
    )
    if x0 < x1 and y0 < y1:
        canvas[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] = pixels[y0:y1, x0:x1]
    return canvas


def landmark_frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (2,) and scale of the original's crop by landmarks (N,2+): 1.25 widths of their box about its centre."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return (low + high) / 2, 1.25 * max(float(high[0] - low[0]), math.ulp(1.0)) / transforms.SCALE_PX


def face_box(points: np.ndarray) -> np.ndarray:
    """The box (4,) from hairline to chin and from side to side of points (68,2+)."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    brows = points[BROWS, 1].mean()
    top = brows - FOREHEAD * (points[CHIN, 1].max() - brows)
    return np.float32([low[0], min(low[1], top), high[0], high[1]])


def landmark_box(box: np.ndarray) -> np.ndarray:
    """The box (4,) around the 68 points of a face whose box from the hairline on is `box`."""
    x0, y0, x1, y1 = box
    return np.array([x0, y0 + (y1 - y0) * FOREHEAD / (1 + FOREHEAD), x1, y1])
