"""Photometric augmentation of uint8 RGB crops (H,W,3) on the host with OpenCV; all randomness comes from `rng`."""

import cv2
import numpy as np

Rng = np.random.Generator

GREY_PROBABILITY = CUTOUT_PROBABILITY = 1 / 6
DEGRADE_PROBABILITY = 0.2


def color(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Random gain per channel and common gamma; one image in six becomes grey."""
    gain = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.05, 3))
    gamma = np.exp(rng.normal(0, 0.12))
    ramp = (np.arange(256)[:, None] / 255.0) ** gamma * gain
    image = cv2.LUT(image, np.clip(255 * ramp, 0, 255).astype(np.uint8)[None])
    if rng.random() < GREY_PROBABILITY:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def degrade(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Gaussian blur, lower resolution, JPEG compression and Gaussian noise, each with probability 0.2."""
    size = image.shape[1::-1]
    if rng.random() < DEGRADE_PROBABILITY:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.3, 1.5))
    if rng.random() < DEGRADE_PROBABILITY:
        small = [max(2, int(n * rng.uniform(0.35, 0.9))) for n in size]
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size)
    if rng.random() < DEGRADE_PROBABILITY:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    if rng.random() < DEGRADE_PROBABILITY:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 10)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def cutout(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Cutout (DeVries and Taylor, 2017): a rectangle of one colour or of noise, in one image in six.

    Its sides are 8 to 40 % of the image's.
    """
    if rng.random() >= CUTOUT_PROBABILITY:
        return image
    height, width = image.shape[:2]
    h, w = (int(n * rng.uniform(0.08, 0.4)) for n in (height, width))
    y, x = rng.integers(0, height - h), rng.integers(0, width - w)
    image = image.copy()
    shape = (h, w, 3) if rng.random() < 0.5 else (1, 1, 3)
    image[y : y + h, x : x + w] = rng.integers(0, 256, shape, np.uint8)
    return image
