"""Host-side augmentation of uint8 RGB pictures with OpenCV: each function draws from the generator it is given."""

import cv2
import numpy as np

cv2.setNumThreads(0)

Rng = np.random.Generator


def color(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Random gain and gamma per channel, and grey for one picture in six."""
    gain = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.05, 3))
    gamma = np.exp(rng.normal(0, 0.12))
    ramp = (np.arange(256)[:, None] / 255.0) ** gamma * gain
    image = cv2.LUT(image, np.clip(255 * ramp, 0, 255).astype(np.uint8)[None])
    if rng.random() < 1 / 6:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def degrade(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Blur, coarser resolution, JPEG and noise, each for some pictures."""
    size = image.shape[1::-1]
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.3, 1.5))
    if rng.random() < 0.2:
        small = [max(2, int(n * rng.uniform(0.35, 0.9))) for n in size]
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 10)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def cutout(image: np.ndarray, rng: Rng) -> np.ndarray:
    """For one picture in six, a rectangle of one colour or of noise over up to a sixth of it."""
    if rng.random() >= 1 / 6:
        return image
    height, width = image.shape[:2]
    h, w = (int(n * rng.uniform(0.08, 0.4)) for n in (height, width))
    y, x = rng.integers(0, height - h), rng.integers(0, width - w)
    image = image.copy()
    shape = (h, w, 3) if rng.random() < 0.5 else (1, 1, 3)
    image[y : y + h, x : x + w] = rng.integers(0, 256, shape, np.uint8)
    return image
