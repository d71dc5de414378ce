"""Face crops for inference: resampling, network calls in few batch sizes, plausibility of moves, extent of a face."""

import concurrent.futures
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxface import pipeline
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.image_decoding import MAX_UNIT_FLOAT

# Height of the hairline above the brow points, as a fraction of the distance from brows to chin. A face with 63 mm
# between the pupils then measures 181 mm from hairline to chin, the human average.
FOREHEAD = 0.3
# Points whose smaller principal axis is below this fraction of the larger one are nearly on a line.
MIN_AXIS_RATIO = 0.3
# Landmark indices in the layout 68.
BROWS, CHIN = slice(17, 27), slice(7, 10)
# A realigned crop is rejected as an outlier if it shifts by more than this fraction of its side or if its size changes
# by more than this factor.
LARGEST_SHIFT, LARGEST_RESIZE = 0.5, 1.6
# Batch sizes for which networks are compiled, and the largest one by default. On CPUs every image is a batch, and each
# core runs one: that is as fast as larger batches, a photo gives the same bits alone and in a list, and no size is
# compiled while the user waits.
BATCH_SIZES = (1, 8, 32)
MAX_BATCH, MAX_BATCH_CPU = 8, 1
# Landmarks whose median sigma exceeds this fraction of the face's size are not those of a face: for the sigma of the
# shipped detector.
MAX_RELATIVE_SIGMA = 0.1


def cut(image: np.ndarray, center: np.ndarray, side: float, angle_rad: float, size: int) -> np.ndarray:
    """The crop (size,size,3) uint8 of a square region of an image.

    A large region is first reduced by averaging, which avoids aliasing. Outside the image border pixels are replicated.

    Args:
        image: (H,W,3) uint8.
        center: (2,) px, centre of the square.
        side: px, side of the square.
        angle_rad: rotation of the square; see `alignment.crop_matrix`.
        size: px, side of the crop.

    Raises:
        UserError: the square does not touch the image.
    """
    height, width = image.shape[:2]
    low = np.maximum(np.floor(center - 0.75 * side), 0)
    high = np.minimum(np.ceil(center + 0.75 * side) + 1, [width, height])
    if (low >= high).any():
        position = np.round(center).tolist()
        raise UserError(f"crop: no image content at {position} in {width} x {height} pixels; pass another box")
    step = max(1, round(side / size))
    (x, y), (columns, rows) = low.astype(int), np.maximum(1, (high - low) // step).astype(int)
    region = image[y : y + rows * step, x : x + columns * step]
    if step > 1:
        region = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA)
    matrix = alignment.crop_matrix((center - low + 0.5) / step - 0.5, side / step, size, angle_rad)
    return cv2.warpAffine(region, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def run_in_batches(network: Callable[[Any], Any], inputs: Any, max_batch: int | None = None) -> Any:
    """Outputs of a compiled network for any number of images, with few compiled batch sizes.

    Batches have the sizes of `batch_sizes`; outputs of the padding are dropped. On CPUs several run at the same time.

    Args:
        network: pytree of arrays (B,...) -> pytree of arrays (B,...).
        inputs: images (F,...), or a pytree of arrays (F,...), F >= 1.
        max_batch: the largest batch; None means MAX_BATCH, on CPUs MAX_BATCH_CPU.

    Returns:
        The pytree with numpy arrays of leading axis F.
    """
    count = len(jax.tree.leaves(inputs)[0])
    sizes = batch_sizes(count, max_batch)
    starts = np.cumsum([0, *sizes[:-1]])

    def run(batch: tuple[int, int]) -> Any:
        start, size = batch
        kept = min(size, count - start)
        padded = network(jax.tree.map(lambda leaf: pad_rows(leaf[start : start + size], size), inputs))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], padded)

    batches = zip(starts.tolist(), sizes, strict=True)
    outputs = pipeline.in_threads(run, batches) if _is_on_cpu() else [run(batch) for batch in batches]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def batch_sizes(count: int, max_batch: int | None = None) -> list[int]:
    """Sizes, all in BATCH_SIZES, of the batches in which `count` images are processed; the last one may be padded.

    A batch is padded only if processing its images one by one would take longer.
    """
    sizes, max_batch = [], _default_max_batch() if max_batch is None else max_batch
    while count > 0:
        fitting = [size for size in BATCH_SIZES if size <= max_batch and size < 2 * count]
        sizes.append(fitting[-1])
        count -= fitting[-1]
    return sizes


def _default_max_batch() -> int:
    return MAX_BATCH_CPU if _is_on_cpu() else MAX_BATCH


def _is_on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Precompiled:
    """A function of batches whose first call compiles it for all batch sizes at once, in parallel.

    Without it, the first image with more faces than any before would have to wait for the compiler.

    Args:
        function: `(variables, *arrays) -> outputs`, pure; the arrays have the batch as leading axis.
        max_batch: the largest batch; see `run_in_batches`.
    """

    def __init__(self, function: Callable[..., Any], max_batch: int | None = None):
        self._jitted = jax.jit(function)
        largest = _default_max_batch() if max_batch is None else max_batch
        self._sizes = [size for size in BATCH_SIZES if size <= largest]
        self._compiled: set[tuple] = set()
        self._lock = threading.Lock()

    def __call__(self, variables: Any, *arrays: Any) -> Any:
        """The outputs for arrays whose batch is one of BATCH_SIZES."""
        key = tuple((array.shape[1:], array.dtype) for array in arrays)
        with self._lock:
            if key not in self._compiled:
                batches = [[np.zeros((size, *a.shape[1:]), a.dtype) for a in arrays] for size in self._sizes]
                with concurrent.futures.ThreadPoolExecutor(len(batches)) as pool:
                    jax.block_until_ready(list(pool.map(lambda batch: self._jitted(variables, *batch), batches)))
                self._compiled.add(key)
        return self._jitted(variables, *arrays)


def is_face(sigma: np.ndarray, extents: np.ndarray, max_sigma: float = MAX_RELATIVE_SIGMA) -> np.ndarray:
    """Whether landmarks are certain enough to be those of a face, (F,) bool; sigma (F,N) px, extents (F,4) px."""
    return np.median(sigma, axis=1) < max_sigma * (extents[:, 2:] - extents[:, :2]).mean(axis=1)


def pad_rows(values: np.ndarray, count: int) -> np.ndarray:
    """`values` (N,...) with the last row repeated up to `count` rows."""
    return np.concatenate([values, np.repeat(values[-1:], count - len(values), axis=0)])


def check_finite(*outputs: np.ndarray) -> None:
    """Raises UserError if a network output is NaN or infinite."""
    if not all(np.isfinite(output).all() for output in outputs):
        raise UserError("network: the output is not finite, its parameters are damaged; use another checkpoint")


def image_input(arrays: Mapping[str, Any], size: int | None = None) -> jax.Array:
    """The entry `image` (B,H,W,3) float32 of the input of `System.raw`.

    `size`: the height and width that the network requires; None accepts any. Raises UserError if `image` is missing,
    its shape does not fit, or its values are those of 8 bits.
    """
    if "image" not in arrays:
        raise UserError(f"arrays: there is no 'image', only {sorted(arrays)}; add it, (B,H,W,3) in [0,1]")
    image = jnp.asarray(arrays["image"], jnp.float32)
    required = ("H", "W", 3) if size is None else (size, size, 3)
    fits = image.ndim == 4 and image.shape[3] == 3 and size in (None, image.shape[1]) and size in (None, image.shape[2])
    if not fits or image.size == 0:
        raise UserError(f"image: the shape is {image.shape}; it must be (B,{','.join(map(str, required))})")
    given = arrays["image"]
    if isinstance(given, np.ndarray) and np.nan_to_num(given).max() > MAX_UNIT_FLOAT:
        raise UserError(f"image: values up to {np.nan_to_num(given).max():g}; divide by 255, they must be in [0,1]")
    return image


def is_plausible_move(
    center: np.ndarray, side: np.ndarray, previous_center: np.ndarray, previous_side: np.ndarray
) -> np.ndarray:
    """Whether realigned crops are close enough to the previous ones, (F,) bool; centers (F,2) and sides (F,) px."""
    shift = np.linalg.norm(center - previous_center, axis=1) / previous_side
    resize = np.abs(np.log(np.maximum(side, 1e-6) / previous_side))
    return (shift < LARGEST_SHIFT) & (resize < math.log(LARGEST_RESIZE))


def hairline(landmarks: np.ndarray) -> np.ndarray:
    """Points (...,10,2) of the hairline from landmarks (...,68,2): brow points moved away from the chin."""
    brows, chin = landmarks[..., BROWS, :], landmarks[..., CHIN, :].mean(axis=-2, keepdims=True)
    return brows + FOREHEAD * (brows.mean(axis=-2, keepdims=True) - chin)


def extent_boxes(landmarks: np.ndarray) -> np.ndarray:
    """Boxes (F,4) from hairline to chin and from side to side of landmarks (F,68,2)."""
    outline = np.concatenate([landmarks, hairline(landmarks)], axis=1)
    return np.concatenate([outline.min(axis=1), outline.max(axis=1)], axis=1)


def is_elongated(points: np.ndarray) -> bool:
    """Whether points (L,2) are nearly on a line, as a pair of eyes: their bounding box is no useful crop."""
    axes = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return len(axes) < 2 or bool(axes[1] < MIN_AXIS_RATIO * axes[0])


def diameter(points: np.ndarray) -> np.ndarray:
    """Largest distance (…) between two of the points (…,L,2)."""
    return np.linalg.norm(points[..., :, None, :] - points[..., None, :, :], axis=-1).max((-2, -1))
