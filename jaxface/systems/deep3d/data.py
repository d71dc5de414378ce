"""Training and evaluation examples of Deep3D: alignment, augmentation, sets. The only file that loads TensorFlow.

Data sets of three kinds can be used: `face_folder` (aligned crops); `rendered_heads` (whole images with landmarks, and
their coefficients for evaluation only); and sets of either, whose images are stacked vertically.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import cv2
import ml_collections
import numpy as np

from jaxface.data import datasets
from jaxface.errors import UserError
from jaxface.system import Batch, unit_images
from jaxface.systems.deep3d.networks import dense_points, size_net
from jaxface.systems.deep3d.preprocessing import augment
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, aligned_face

# Ground truth of rendered heads that `metrics` reads; in a set, identity is stored once and the rest for each image.
GROUND_TRUTH = ("identity", "expression", "rotation")
# Arrays in pixels; the other arrays are uint8 images.
POINTS = ("landmarks", "dense")

Example = dict[str, np.ndarray]


def _aligned_faces(example: Example, size: int, with_skin: bool) -> list[Example]:
    """Image (size,size,3) uint8, landmarks (68,2) and, with `with_skin`, skin (size,size) uint8 of every image."""
    landmarks = example["landmarks"].reshape(-1, 68, 2)
    images = np.split(example["image"], len(landmarks))
    if "skin" not in example:
        pairs = zip(images, landmarks, strict=True)
        faces = [aligned_face(image, points, size, with_skin) for image, points in pairs]
        return [{key: value for key, value in face.items() if key != "crop"} for face in faces]
    skins = np.split(example["skin"][..., 0], len(landmarks))
    faces = []
    for image, points, skin in zip(images, landmarks, skins, strict=True):
        face = {"image": _resize(image, size), "landmarks": points}
        faces.append({**face, "skin": _resize(skin, size)} if with_skin else face)
    return faces


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    if len(image) == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR)


def _augment(face: Example, rng: np.random.Generator, strength: float) -> Example:
    """The face under one random affine map of its crop; see `augment.random_affine`."""
    affine, mirror = augment.random_affine(rng, REFERENCE_SIZE, strength)
    to_reference = np.diag([1, 1, len(face["image"]) / REFERENCE_SIZE])
    image_affine = np.linalg.inv(to_reference) @ affine @ to_reference
    warped = {key: augment.warp_image(face[key], image_affine) for key in ("image", "skin") if key in face}
    warped["landmarks"] = augment.warp_landmarks(face["landmarks"], affine, mirror, REFERENCE_SIZE)
    if "dense" in face:
        flip = dense_points.mirror(len(face["dense"]))
        warped["dense"] = augment.warp_landmarks(face["dense"], affine, mirror, REFERENCE_SIZE, flip)
    return warped


def _to_arrays(faces: list[Example], is_set: bool) -> Example:
    """The arrays of the faces, points as float32; with a leading axis of images if `is_set`."""
    stacked = {key: np.stack([face[key] for face in faces]) for key in faces[0]}
    stacked = {key: value.astype(np.float32) if key in POINTS else value for key, value in stacked.items()}
    return stacked if is_set else {key: value[0] for key, value in stacked.items()}


def preprocess_train(
    example: Example,
    seed: int,
    size: int,
    with_skin: bool = True,
    points: dense_points.DensePoints | None = None,
    strength: float = 1.0,
    with_size: bool = False,
) -> Example:
    """An augmented training example without any ground-truth coefficient.

    Args:
        example: a record of one of the data sets; each image of a set is augmented independently.
        seed: seed of the augmentation.
        size: side of the crop in pixels.
        with_skin: whether to compute the skin mask.
        points: dense points that are projected into rendered images; not used for sets.
        strength: strength of the augmentation relative to the published one.
        with_size: whether to add `size_mm`; not for sets.

    Returns:
        arrays, for a set of N images with a leading axis N: image (size,size,3) and skin (size,size) uint8; landmarks
        (68,2) and dense (K,2) float32 in pixels of a 224 px crop, y up from its last row, whatever `size` is; with
        `with_size` size_mm (), see `size_mm`.

    Raises:
        UserError: the face cannot be aligned; see `alignment.align`.
    """
    rng, is_set = np.random.default_rng(seed), example["landmarks"].ndim == 3
    faces = _aligned_faces(example, size, with_skin)
    if points is not None and not is_set:
        faces[0]["dense"] = points.in_crop(example, size)
    arrays = _to_arrays([_augment(face, rng, strength) for face in faces], is_set)
    return {**arrays, "size_mm": size_mm(example)} if with_size and not is_set else arrays


def size_mm(example: Example) -> np.ndarray:
    """The true centroid size () of a face in mm, NaN if the data set does not know it (`landmarks_mm`)."""
    if "landmarks_mm" not in example:
        return np.float32(np.nan)
    return np.float32(size_net.centroid_size(np.asarray(example["landmarks_mm"])))


def preprocess_eval(example: Example, size: int, with_size: bool = False) -> Example:
    """An evaluation example: as in `preprocess_train` without augmentation and skin, the image as float32 in [0,1].

    With GROUND_TRUTH.
    """
    faces = _aligned_faces(example, size, with_skin=False)
    ground_truth = {key: np.asarray(example[key], np.float32) for key in GROUND_TRUTH if key in example}
    is_set = example["landmarks"].ndim == 3
    sizes = {"size_mm": size_mm(example)} if with_size and not is_set else {}
    return {**unit_images(_to_arrays(faces, is_set)), **ground_truth, **sizes}


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`.

    Raises UserError if the model has a SizeNet and no data set has heads of known size.
    """
    size = config.model.image_size
    splits = [_open_split(config, name, "train") for name in config.data.datasets]
    if config.model.metric_size and not config.model.confidence:
        require_known_sizes([split.builder.info.features for split in splits])
    process = functools.partial(
        preprocess_train,
        size=size,
        with_skin=config.loss.attention != "none",
        points=dense_points.from_config(config),
        strength=config.data.augment,
        with_size=config.model.metric_size,
    )
    return datasets.train_batches(config, splits, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Batches of the data set "NAME[:SPLIT]", by default its test split, padded."""
    size = config.model.image_size
    split = _open_split(config, name, "test")
    process = functools.partial(preprocess_eval, size=size, with_size=config.model.metric_size)
    return datasets.eval_batches(config, split, process)


def require_known_sizes(features: Sequence[Mapping[str, object]]) -> None:
    """Raises UserError if none of the data sets, given by their features, knows `landmarks_mm`."""
    if not any("landmarks_mm" in names for names in features):
        raise UserError(
            "config.data.datasets: no data set has heads known in millimetres, from which config.model.metric_size "
            "could learn; add rendered_heads/makehuman_portraits"
        )


def _open_split(config: ml_collections.ConfigDict, name: str, default: str) -> datasets.Split:
    """The split of "NAME[:SPLIT]". Raises UserError if the data set does not have 68 landmarks of each face."""
    split = datasets.open_split(config.data, name, config.model.image_size, default)
    features = split.builder.info.features
    shape = features["landmarks"].shape if "landmarks" in features else ()
    if shape[-2:] != (68, 2):
        found = f"landmarks of shape {shape}" if shape else "no landmarks"
        raise UserError(f"data set {name} has {found}; deep3d needs 68 points of each face, prepare another data set")
    return split
