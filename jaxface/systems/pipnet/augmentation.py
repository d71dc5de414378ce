"""The original's augmentation of crops and labels, in its order: lib/data_utils.py. Its crops have 256 pixels.

Each step draws from the generator that it is given; lengths in pixels are of a crop of 256.
"""

import cv2
import numpy as np

Rng = np.random.Generator

ORIGINAL_SIZE = 256
SHIFT_PX = 60
OCCLUSION, OCCLUSION_MARGIN_PX = 0.4, 10
ROTATE_DEG = 30.0
BLUR_PX = 5.0


def augment(image: np.ndarray, points: np.ndarray, flip: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A crop (S,S,3) uint8 RGB and its points (L,2) in crop units, shifted, covered, mirrored, turned, blurred, greyed.

    Probabilities 0.5, 0.5, 0.5, 0.5, 0.3, 0.2. Only shifting holds points inside the crop.
    """
    if rng.random() < 0.5:
        image, points = shifted(image, points, rng)
    if rng.random() < 0.5:
        image = occluded(image, rng)
    if rng.random() < 0.5:
        image, points = image[:, ::-1], points[flip] * [-1, 1] + [1, 0]
    if rng.random() < 0.5:
        image, points = rotated(np.ascontiguousarray(image), points, rng.uniform(-ROTATE_DEG, ROTATE_DEG))
    if rng.random() < 0.3:
        radius = rng.uniform(0, BLUR_PX) * len(image) / ORIGINAL_SIZE
        image = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), max(radius, 0.1))
    if rng.random() < 0.2:
        gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(image), points


def shifted(image: np.ndarray, points: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """By up to 30 px in x and y, black where there is nothing; points are held in [0,1]."""
    size = len(image)
    by = ((rng.random(2) - 0.5) * SHIFT_PX * size / ORIGINAL_SIZE).astype(int)
    move = np.float32([[1, 0, -by[0]], [0, 1, -by[1]]])
    return cv2.warpAffine(image, move, (size, size), flags=cv2.INTER_NEAREST), np.clip(points - by / size, 0, 1)


def occluded(image: np.ndarray, rng: Rng) -> np.ndarray:
    """A rectangle of one random colour, up to 0.4 of the crop high and wide."""
    size = len(image)
    height, width = (size * OCCLUSION * rng.random(2)).astype(int)
    margin = OCCLUSION_MARGIN_PX * size // ORIGINAL_SIZE
    y, x = int((size - height - margin) * rng.random()), int((size - width - margin) * rng.random())
    image = image.copy()
    image[y : y + height, x : x + width] = (255 * rng.random(3)).astype(np.uint8)
    return image


def rotated(image: np.ndarray, points: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned counter-clockwise about the middle, black outside; points may leave the crop."""
    size = len(image)
    turn = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), degrees, 1)
    image = cv2.warpAffine(image, turn, (size, size), flags=cv2.INTER_NEAREST)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return image, (points - 0.5) @ np.array([[cos, -sin], [sin, cos]]) + 0.5
