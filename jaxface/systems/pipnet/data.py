"""Training and evaluation examples of PIPNet. Only this file and `self_training_data` load TensorFlow.

Annotated photos (`jaxface.data.faces`) are cropped and augmented as in the original (lib/data_utils.py). Rendered heads
are cropped to the square around their box, as in the system "continuous".
"""

import functools
from collections.abc import Iterator

import cv2
import ml_collections
import numpy as np

from jaxface import crops, landmark_metrics, layouts
from jaxface.data import augment, datasets
from jaxface.errors import UserError
from jaxface.geometry import alignment, crop_jitter
from jaxface.system import Batch
from jaxface.systems.pipnet import augmentation

Example = dict[str, np.ndarray]


def preprocess_train(example: Example, seed: int, size: int, flip: np.ndarray) -> Example:
    """A training example of an annotated or rendered face.

    Args:
        example: a record of an annotated or rendered data set.
        seed: seed of the augmentation.
        size: side of the crop in pixels.
        flip: (L,) flip map.

    Returns:
        image (size,size,3) uint8 and points (L,2) in crop units, NaN for missing points.
    """
    rng = np.random.default_rng(seed)
    if "crop" in example:
        crop = annotated_crop(example, size)
        image, points = augmentation.augment(crop, example["crop_landmarks"], flip, rng)
    else:
        image, points = _augment_rendered(example, size, flip, rng)
    return {"image": image, "points": points.astype(np.float32)}


def preprocess_eval(example: Example, size: int, eye_corners: tuple[int, ...]) -> Example:
    """An evaluation example with the distances by which its errors are normalised.

    Annotated photos: the inter-ocular distance, or the crop's size if there are no eye corners. Rendered heads: the
    projected 3D inter-ocular distance, which does not shrink when the head turns.

    Args:
        example: a record of an annotated or rendered data set.
        size: side of the crop in pixels.
        eye_corners: indices of the outer eye corners; () for none.

    Returns:
        image (size,size,3) float32 in [0,1]; landmarks (L,2) in crop units, NaN for missing ones; crop_px (2,)
        width and height of the crop in the photo; norm_crop and norm_px (), the normalising distance in crop units and
        in pixels of the photo, NaN if an eye corner is missing.
    """
    evaluate = _eval_annotated if "crop" in example else _eval_rendered
    return evaluate(example, size, eye_corners)


def _eval_annotated(example: Example, size: int, eye_corners: tuple[int, ...]) -> Example:
    points = example["crop_landmarks"]
    width, height = (example["crop"][2:] - example["crop"][:2]).astype(np.float32)
    norm_crop, norm_px = np.float32(1), np.sqrt(width * height)
    if eye_corners:
        between_eyes = points[eye_corners[0]] - points[eye_corners[1]]
        norm_crop, norm_px = np.linalg.norm(between_eyes), np.linalg.norm(between_eyes * [width, height])
    return {
        "image": annotated_crop(example, size).astype(np.float32) / 255,
        "landmarks": points.astype(np.float32),
        "crop_px": np.stack([width, height]),
        "norm_crop": np.float32(norm_crop),
        "norm_px": np.float32(norm_px),
    }


def annotated_crop(example: Example, size: int) -> np.ndarray:
    """The original's crop (size,size,3) uint8 of an annotated face."""
    x0, y0, x1, y1 = example["crop"]
    return cv2.resize(example["image"][y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)


def _augment_rendered(
    example: Example, size: int, flip: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A jittered crop of a rendered head with photometric augmentation, mirrored with probability 0.5."""
    center, side, angle = crop_jitter.sample(rng, example["box"])
    image = crops.cut(example["image"], center, side, angle, size)
    points = _crop_units(example["landmarks"], center, side, size, angle)
    if rng.random() < 0.5:
        image, points = np.ascontiguousarray(image[:, ::-1]), points[flip] * [-1, 1] + [1, 0]
    return augment.cutout(augment.degrade(augment.color(image, rng), rng), rng), points


def _crop_units(
    points_px: np.ndarray, center: np.ndarray, side: float, size: int, angle_rad: float = 0.0
) -> np.ndarray:
    """Points (L,2) px of the image in crop units, 0 and 1 at the pixel edges of the crop."""
    matrix = alignment.crop_matrix(center, side, size, angle_rad)
    return (alignment.apply_affine(matrix, points_px) + 0.5) / size


def _eval_rendered(example: Example, size: int, eye_corners: tuple[int, ...]) -> Example:
    center, side = alignment.square_crop(example["box"])
    eyes_px = landmark_metrics.projected_interocular_px(example["landmarks_mm"], example["focal_px"], eye_corners)
    return {
        "image": crops.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255,
        "landmarks": _crop_units(example["landmarks"], center, side, size).astype(np.float32),
        "crop_px": np.full(2, side, np.float32),
        "norm_crop": np.float32(eyes_px / side),
        "norm_px": np.float32(eyes_px),
    }


def flip_map(config: ml_collections.ConfigDict) -> np.ndarray:
    """The flip map (L,) of config.data.flip or of the layout. Raises UserError if it does not pair the L landmarks."""
    flip = np.array(config.data.flip, int)
    if not flip.size and config.model.layout in layouts.LAYOUTS:
        flip = layouts.LAYOUTS[config.model.layout].flip
    count = config.model.landmarks
    if len(flip) != count or not np.array_equal(flip[flip % count], np.arange(count)):
        raise UserError(
            f"config.data.flip: must pair each of the {count} landmarks with its mirror image; list {count} indices"
        )
    return flip


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    process = functools.partial(preprocess_train, size=config.model.image_size, flip=flip_map(config))
    splits = [open_labelled(config, name, "train") for name in config.data.datasets]
    return datasets.train_batches(config, splits, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Batches of the data set "NAME[:SPLIT]", by default its test split, padded."""
    corners = tuple(config.data.eye_corners)
    process = functools.partial(preprocess_eval, size=config.model.image_size, eye_corners=corners)
    return datasets.eval_batches(config, open_labelled(config, name, "test"), process)


def open_labelled(config: ml_collections.ConfigDict, name: str, default: str) -> datasets.Split:
    """The split of "NAME[:SPLIT]". Raises UserError if the data set's landmarks are not those of the model."""
    split = datasets.open_split(config.data, name, config.model.image_size, default)
    features = split.builder.info.features
    if "landmarks" not in features:
        raise UserError(f"data set {name} has no landmarks; list it in config.data.unlabelled only")
    count = features["landmarks"].shape[0]
    # The user's own folder has a variable number; the model takes its number from the mean face.
    if count not in (None, config.model.landmarks):
        raise UserError(
            f"data set {name} has {count} landmarks, config.model.landmarks is {config.model.landmarks}; change one"
        )
    return split
