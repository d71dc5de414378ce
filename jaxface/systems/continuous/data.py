"""Training and evaluation examples from rendered heads. The only file of this system that loads TensorFlow."""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import crops, landmark_metrics
from jaxface.data import augment, datasets
from jaxface.geometry import alignment, crop_jitter
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch
from jaxface.systems.continuous import crop_units

MIRROR_X = np.float32([-1, 1, 1])


def preprocess_train(
    example: dict[str, np.ndarray], seed: int, size: int, num_surface_samples: int
) -> dict[str, np.ndarray]:
    """A training example: a jittered, augmented crop with its 68 landmarks and random surface points as queries.

    Half of the examples are mirrored. Mirroring negates the x of the queries and keeps their order.

    Args:
        example: image (H,W,3) uint8, box (4,), landmarks (68,2) px, dense_queries (N,3) template units
            (100 mm), dense (N,2) px, the image positions of `dense_queries`.
        seed: seed of the augmentation.
        size: side of the crop in pixels.
        num_surface_samples: number K of surface points.

    Returns:
        image (size,size,3) float32 in [0,1]; queries (68+K,3); points (68+K,2) in `crop_units`; valid (68+K,) bool,
        whether the point is in or near the crop.
    """
    rng = np.random.default_rng(seed)
    center, side, angle = crop_jitter.sample(rng, example["box"])
    matrix = alignment.crop_matrix(center, side, size, angle)
    image = crops.cut(example["image"], center, side, angle, size)
    chosen = rng.choice(len(example["dense"]), num_surface_samples, replace=False)
    points_px = np.concatenate([example["landmarks"], example["dense"][chosen]])
    queries = np.concatenate([canonical.queries("68"), example["dense_queries"][chosen]])
    points = crop_units.from_pixels(alignment.apply_affine(matrix, points_px), size).astype(np.float32)
    if rng.random() < 0.5:
        image, queries, points = image[:, ::-1], queries * MIRROR_X, points * np.float32([-1, 1])
    image = augment.color(np.ascontiguousarray(image), rng)
    image = augment.cutout(augment.degrade(image, rng), rng)
    return {
        "image": image.astype(np.float32) / 255,
        "queries": queries,
        "points": points,
        "valid": (np.abs(points) < crop_units.MAX_COORDINATE).all(-1),
    }


def preprocess_eval(example: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """An evaluation example: the crop of the annotated box and the inputs of `metrics.landmark_errors`.

    Args:
        example: as for training, with landmarks_mm (68,3) in camera space, focal_px (), rotation (3,3) of the head
            (`camera.to_camera`), visible (68,) bool.
        size: side of the crop in pixels.

    Returns:
        image (size,size,3) float32 in [0,1], landmarks (68,2) and eye_distance () in `crop_units`, visible (68,) bool,
        yaw_rad ().
    """
    center, side = alignment.square_crop(example["box"])
    matrix = alignment.crop_matrix(center, side, size)
    eyes_px = landmark_metrics.projected_interocular_px(
        example["landmarks_mm"], example["focal_px"], LAYOUT_68.eye_corners
    )
    landmarks_px = alignment.apply_affine(matrix, example["landmarks"])
    rotation = example["rotation"]
    return {
        "image": crops.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255,
        "landmarks": crop_units.from_pixels(landmarks_px, size).astype(np.float32),
        "visible": example["visible"],
        "eye_distance": np.float32(2 * eyes_px / side),
        "yaw_rad": np.float32(np.arctan2(rotation[0, 2], rotation[2, 2])),
    }


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    size = config.model.image_size
    splits = [datasets.open_split(config.data, name, size, "train") for name in config.data.datasets]
    process = functools.partial(preprocess_train, size=size, num_surface_samples=config.data.num_surface_samples)
    return datasets.train_batches(config, splits, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Batches of the data set "NAME[:SPLIT]", by default its test split; the last batch is padded."""
    size = config.model.image_size
    split = datasets.open_split(config.data, name, size, "test")
    return datasets.eval_batches(config, split, functools.partial(preprocess_eval, size=size))
