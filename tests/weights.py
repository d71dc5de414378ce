"""Deterministic checkpoints and images, generated from names; the golden numbers were computed with them."""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"


def generator(key: str) -> np.random.Generator:
    """Random numbers that depend on the key only."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode())))


def fill(name: str, shape, gain: float = 1.4) -> np.ndarray:
    """One entry of a state dict: weights of variance gain²/fan-in, scales near 1, small biases."""
    shape = tuple(shape)
    draw = generator(name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return (0.5 + draw.random(shape)).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * draw.standard_normal(shape)).astype(np.float32)
    if name.endswith("bias"):
        return (0.05 * draw.standard_normal(shape)).astype(np.float32)
    if len(shape) >= 2:
        return (draw.standard_normal(shape) * (gain / np.sqrt(max(1, np.prod(shape[1:]))))).astype(np.float32)
    return (1.0 + 0.1 * draw.standard_normal(shape)).astype(np.float32)


def state_dict(manifest: str) -> dict[str, np.ndarray]:
    """The checkpoint of a manifest in tests/golden: {name: shape}."""
    return {name: fill(name, shape) for name, shape in json.loads((GOLDEN / manifest).read_text()).items()}


def image(key: str, shape) -> np.ndarray:
    """Smooth images (N,H,W,3), float32 in [0,1]."""
    draw, (count, height, width, channels) = generator(key), shape
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    out = np.zeros(shape)
    for index in np.ndindex(count, channels):
        for _ in range(6):
            fx, fy, phase = draw.uniform(0.5, 9), draw.uniform(0.5, 9), draw.uniform(0, 6.28)
            out[index[0], :, :, index[1]] += draw.uniform(0.2, 1) * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
    out -= out.min()
    return (out / out.max()).astype(np.float32)


def array(key: str, shape, scale: float = 1.0) -> np.ndarray:
    """Normal numbers, float32."""
    return (scale * generator(key).standard_normal(shape)).astype(np.float32)
