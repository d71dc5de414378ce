"""Examples to batches: crops, the original's augmentation, labels in crop units. The only file here with TensorFlow.

Annotated photographs (`jaxface.data.faces`) bring the original's crop and its labels. Rendered heads bring a box, which
is cut as the shipped detector's is. Source of the augmentation: lib/data_utils.py.
"""

import functools
from collections.abc import Iterator

import cv2
import ml_collections
import numpy as np

from jaxface import crops, layouts, parallel
from jaxface.data import augment, datasets, stream
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.system import Batch
from jaxface.systems.pipnet import augmentation

Example = dict[str, np.ndarray]

# Rendered heads: how far a crop lies beside the one of the box, as a share of its side.
ROTATE_RAD = np.deg2rad(15.0)
SHIFT = 0.06
SCALE = (0.85, 1.2)


def preprocess_train(example: Example, seed: int, size: int, flip: np.ndarray) -> Example:
    """image (size,size,3) float32 in [0,1] and points (L,2) in crop units of an annotated or rendered face.

    `flip` (L,): point i of a mirrored picture was point flip[i].
    """
    rng = np.random.default_rng(seed)
    if "crop" in example:
        image, points = augmentation.augment(*_stored(example, size), flip, rng)
    else:
        image, points = _jittered(example, size, flip, rng)
    return {"image": image.astype(np.float32) / 255, "points": points.astype(np.float32)}


def preprocess_eval(example: Example, size: int, eye_corners: tuple[int, ...]) -> Example:
    """image, landmarks (L,2) in crop units, crop_px (2,) the crop's size in the photograph, and what errors are over.

    norm_crop, norm_px: the distance of the two `eye_corners` in either space, without any the crop's size. Of rendered
    heads it is the corners' distance in space, seen at the head's depth, so that turning does not inflate errors.
    """
    if "crop" not in example:
        return _rendered(example, size, eye_corners)
    image, points = _stored(example, size)
    width, height = (example["crop"][2:] - example["crop"][:2]).astype(np.float32)
    norm_crop, norm_px = np.float32(1), np.sqrt(width * height)
    if eye_corners:
        between = points[eye_corners[0]] - points[eye_corners[1]]
        norm_crop, norm_px = np.linalg.norm(between), np.linalg.norm(between * [width, height])
    return {
        "image": image.astype(np.float32) / 255,
        "landmarks": points.astype(np.float32),
        "crop_px": np.stack([width, height]),
        "norm_crop": np.float32(norm_crop),
        "norm_px": np.float32(norm_px),
    }


def _stored(example: Example, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The original's crop of an annotated face at `size`, and its labels."""
    return resized(example, size), example["crop_landmarks"]


def resized(example: Example, size: int) -> np.ndarray:
    """The original's crop (size,size,3) uint8 of an annotated face."""
    x0, y0, x1, y1 = example["crop"]
    return cv2.resize(example["image"][y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)


def _jittered(example: Example, size: int, flip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop near that of a rendered head's box, half of them mirrored, in other colours and of worse quality."""
    center, side = alignment.square_crop(example["box"])
    center = center + side * rng.uniform(-SHIFT, SHIFT, 2)
    side, angle = side * np.exp(rng.uniform(*np.log(SCALE))), rng.uniform(-ROTATE_RAD, ROTATE_RAD)
    image = crops.cut(example["image"], center, side, angle, size)
    points = _units(example["landmarks"], center, side, size, angle)
    if rng.random() < 0.5:
        image, points = np.ascontiguousarray(image[:, ::-1]), points[flip] * [-1, 1] + [1, 0]
    return augment.cutout(augment.degrade(augment.color(image, rng), rng), rng), points


def _units(points_px: np.ndarray, center: np.ndarray, side: float, size: int, angle_rad: float = 0.0) -> np.ndarray:
    """Points (L,2) of the picture in units of the crop."""
    matrix = alignment.crop_matrix(center, side, size, angle_rad)
    return (alignment.apply_affine(matrix, points_px) + 0.5) / size


def _rendered(example: Example, size: int, eye_corners: tuple[int, ...]) -> Example:
    center, side = alignment.square_crop(example["box"])
    space = example["landmarks_mm"]
    left, right = (space[index] for index in eye_corners)
    eyes_px = example["focal_px"] * np.linalg.norm(left - right) / space[:, 2].mean()
    return {
        "image": crops.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255,
        "landmarks": _units(example["landmarks"], center, side, size).astype(np.float32),
        "crop_px": np.full(2, side, np.float32),
        "norm_crop": np.float32(eyes_px / side),
        "norm_px": np.float32(eyes_px),
    }


def flip_map(config: ml_collections.ConfigDict) -> np.ndarray:
    """config.data.flip, or that of the layout. UserError where it is none for so many landmarks."""
    flip = np.array(config.data.flip, int)
    if not flip.size and config.model.layout in layouts.LAYOUTS:
        flip = layouts.LAYOUTS[config.model.layout].flip
    count = config.model.landmarks
    if len(flip) != count or not np.array_equal(flip[flip % count], np.arange(count)):
        raise UserError(f"config.data.flip must pair each of the {count} landmarks with its mirror image")
    return flip


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    process = functools.partial(preprocess_train, size=config.model.image_size, flip=flip_map(config))
    builders = [open_labelled(config, name) for name in config.data.datasets]
    return datasets.train_batches(builders, config, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The split of "NAME:SPLIT", or the test split of "NAME", padded."""
    dataset, _, split = name.partition(":")
    corners = tuple(config.data.eye_corners)
    process = functools.partial(preprocess_eval, size=config.model.image_size, eye_corners=corners)
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(open_labelled(config, dataset), split or "test", local, process)


def open_labelled(config: ml_collections.ConfigDict, name: str) -> stream.Builder:
    """The prepared data set. UserError where it has other landmarks than the model."""
    builder = datasets.open_set(config.data, name, config.model.image_size)
    features = builder.info.features
    if "landmarks" not in features:
        raise UserError(f"data set {name} has no landmarks; it can only be one of config.data.unlabelled")
    count = features["landmarks"].shape[0]
    # A folder of the user's own leaves the number open; its mean face has given it to the model.
    if count not in (None, config.model.landmarks):
        raise UserError(f"data set {name} has {count} landmarks, config.model.landmarks is {config.model.landmarks}")
    return builder
