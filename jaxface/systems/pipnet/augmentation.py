"""PIPNet's augmentation of crops and landmarks, in its order: lib/data_utils.py. Its crops have 256 pixels.

All randomness comes from `rng`. Lengths in pixels refer to a crop of 256 pixels and scale with the crop.
"""

import cv2
import numpy as np

Rng = np.random.Generator

ORIGINAL_SIZE = 256
# Range of translations, from -30 to 30 px.
TRANSLATION_RANGE_PX = 60
MAX_OCCLUSION, OCCLUSION_MARGIN_PX = 0.4, 10
MAX_ROTATION_DEG = 30.0
MAX_BLUR_PX = 5.0
# OpenCV does not accept a standard deviation of 0.
MIN_BLUR_PX = 0.1


def augment(image: np.ndarray, points: np.ndarray, flip: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Translates, occludes, mirrors, rotates, blurs and greys with probabilities 0.5, 0.5, 0.5, 0.5, 0.3 and 0.2.

    Args:
        image: (S,S,3) uint8 RGB crop.
        points: (L,2) landmarks in crop units.
        flip: (L,) flip map.
        rng: random generator.

    Returns:
        image and points; only the translation clips points to the crop.
    """
    if rng.random() < 0.5:
        image, points = translate(image, points, rng)
    if rng.random() < 0.5:
        image = occlude(image, rng)
    if rng.random() < 0.5:
        image, points = image[:, ::-1], points[flip] * [-1, 1] + [1, 0]
    if rng.random() < 0.5:
        angle = rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG)
        image, points = rotate(np.ascontiguousarray(image), points, angle)
    if rng.random() < 0.3:
        radius = rng.uniform(0, MAX_BLUR_PX) * len(image) / ORIGINAL_SIZE
        image = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), max(radius, MIN_BLUR_PX))
    if rng.random() < 0.2:
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(image), points


def translate(image: np.ndarray, points: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Translates by up to 30 px in x and y with black beyond the border; points are clipped to [0,1]."""
    size = len(image)
    offset = ((rng.random(2) - 0.5) * TRANSLATION_RANGE_PX * size / ORIGINAL_SIZE).astype(int)
    matrix = np.float32([[1, 0, -offset[0]], [0, 1, -offset[1]]])
    translated = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return translated, np.clip(points - offset / size, 0, 1)


def occlude(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Covers a rectangle with one random colour, up to 0.4 of the crop high and wide."""
    size = len(image)
    height, width = (size * MAX_OCCLUSION * rng.random(2)).astype(int)
    margin = OCCLUSION_MARGIN_PX * size // ORIGINAL_SIZE
    y, x = int((size - height - margin) * rng.random()), int((size - width - margin) * rng.random())
    image = image.copy()
    image[y : y + height, x : x + width] = (255 * rng.random(3)).astype(np.uint8)
    return image


def rotate(image: np.ndarray, points: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotates counter-clockwise about the centre with black beyond the border; points may leave the crop."""
    size = len(image)
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), degrees, 1)
    image = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_NEAREST)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return image, (points - 0.5) @ np.array([[cos, -sin], [sin, cos]]) + 0.5
