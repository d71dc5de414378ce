"""Examples of rendered heads to batches: jitter, augmentation, queries. The only file here that loads TensorFlow."""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import parallel, photo
from jaxface.data import augment, datasets, stream
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch

ROTATE_RAD = np.deg2rad(15.0)
SHIFT = 0.06
SCALE = (0.85, 1.2)
MIRROR_X = np.float32([-1, 1, 1])


def _unit(points_px: np.ndarray, size: int) -> np.ndarray:
    """Crop pixels to [-1,1] of the crop."""
    return ((2 * points_px + 1) / size - 1).astype(np.float32)


def _jittered(box: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """Centre, side and angle of a crop near the one of `box`."""
    center, side = alignment.square_crop(box)
    center = center + side * rng.uniform(-SHIFT, SHIFT, 2)
    return center, side * np.exp(rng.uniform(*np.log(SCALE))), rng.uniform(-ROTATE_RAD, ROTATE_RAD)


def preprocess_train(example: dict[str, np.ndarray], seed: int, size: int, dense: int) -> dict[str, np.ndarray]:
    """A training example: a jittered, augmented crop with its 68 points and `dense` random surface points as queries.

    Reads image (H,W,3) uint8, box (4,), landmarks (68,2) px, dense_queries (N,3) template units, dense (N,2) px.
    Gives image (size,size,3) float32 in [0,1], queries (68+dense,3), points (68+dense,2) in [-1,1] of the crop, and
    valid (68+dense,) bool: whether the point is in or near the crop. Mirrored pictures mirror the queries, not their
    order.
    """
    rng = np.random.default_rng(seed)
    center, side, angle = _jittered(example["box"], rng)
    matrix = alignment.crop_matrix(center, side, size, angle)
    image = photo.cut(example["image"], center, side, angle, size)
    chosen = rng.choice(len(example["dense"]), dense, replace=False)
    points_px = np.concatenate([example["landmarks"], example["dense"][chosen]])
    queries = np.concatenate([canonical.queries("68"), example["dense_queries"][chosen]])
    points = _unit(alignment.apply_affine(matrix, points_px), size)
    if rng.random() < 0.5:
        image, queries, points = image[:, ::-1], queries * MIRROR_X, points * np.float32([-1, 1])
    image = augment.cutout(augment.degrade(augment.color(np.ascontiguousarray(image), rng), rng), rng)
    return {
        "image": image.astype(np.float32) / 255,
        "queries": queries,
        "points": points,
        "valid": (np.abs(points) < 1.5).all(-1),
    }


def eye_distance_px(landmarks_mm: np.ndarray, focal_px: float) -> np.ndarray:
    """The outer eye corners' distance in space, in pixels at the mean depth of landmarks (68,3) in camera space."""
    left, right = (landmarks_mm[index] for index in LAYOUT_68.eye_corners)
    return focal_px * np.linalg.norm(left - right) / landmarks_mm[:, 2].mean()


def preprocess_eval(example: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """An evaluation example: the crop of the given box, its landmarks and what `metrics` needs."""
    center, side = alignment.square_crop(example["box"])
    matrix = alignment.crop_matrix(center, side, size)
    eyes = eye_distance_px(example["landmarks_mm"], example["focal_px"])
    rotation = example["rotation"]
    return {
        "image": photo.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255,
        "landmarks": _unit(alignment.apply_affine(matrix, example["landmarks"]), size),
        "visible": example["visible"],
        "eye_distance": np.float32(2 * eyes / side),
        "yaw_rad": np.float32(np.arctan2(rotation[0, 2], rotation[2, 2])),
    }


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    size = config.model.image_size
    process = functools.partial(preprocess_train, size=size, dense=config.data.num_surface_samples)
    return datasets.train_batches(
        [datasets.open_set(config.data, name, size) for name in config.data.datasets], config, step, process
    )


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The test split of the data set `name`, padded."""
    size = config.model.image_size
    process = functools.partial(preprocess_eval, size=size)
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(datasets.open_set(config.data, name, size), "test", local, process)
