"""Prepared pictures of faces to batches: alignment, augmentation, sets. The only file here that loads TensorFlow.

Reads data sets of three kinds: `face_folder` (aligned crops), `rendered_heads` (whole pictures with landmarks, and the
coefficients they were made with, for evaluation only), and sets of either, whose pictures stand one below the other.
"""

import functools
from collections.abc import Iterator

import cv2
import ml_collections
import numpy as np

from jaxface import parallel
from jaxface.data import datasets, stream
from jaxface.system import Batch
from jaxface.systems.deep3d.networks import dense_points
from jaxface.systems.deep3d.preprocessing import augment
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, aligned_face

# What a rendered head was made with: of a set once for the person, or once for each picture.
KNOWN = ("identity", "expression", "gaze", "rotation", "translation")
POINTS = ("landmarks", "dense")

Example = dict[str, np.ndarray]


def _faces(example: Example, size: int, with_skin: bool) -> list[Example]:
    """image (size,size,3) uint8, landmarks (68,2) and perhaps skin (size,size) uint8 of every picture of an example."""
    landmarks = example["landmarks"].reshape(-1, 68, 2)
    images = np.split(example["image"], len(landmarks))
    if "skin" not in example:
        faces = [aligned_face(image, points, size, with_skin) for image, points in zip(images, landmarks, strict=True)]
        return [{key: face[key] for key in face if key != "crop"} for face in faces]
    skins = np.split(example["skin"][..., 0], len(landmarks))
    faces = [{"image": image, "landmarks": points} for image, points in zip(images, landmarks, strict=True)]
    if with_skin:
        faces = [{**face, "skin": skin} for face, skin in zip(faces, skins, strict=True)]
    return [
        {key: value if key == "landmarks" else _resized(value, size) for key, value in face.items()} for face in faces
    ]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    if len(image) == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR)


def _augmented(face: Example, rng: np.random.Generator, share: float) -> Example:
    """The face under one random map of its crop; see `augment.random_affine`."""
    affine, mirror = augment.random_affine(rng, REFERENCE_SIZE, share)
    to_reference = np.diag([1, 1, len(face["image"]) / REFERENCE_SIZE])
    own = np.linalg.inv(to_reference) @ affine @ to_reference
    maps = {key: augment.warp_image(face[key], own) for key in ("image", "skin") if key in face}
    moved = {"landmarks": augment.warp_landmarks(face["landmarks"], affine, mirror, REFERENCE_SIZE)}
    if "dense" in face:
        flip = dense_points.mirror(len(face["dense"]))
        moved["dense"] = augment.warp_landmarks(face["dense"], affine, mirror, REFERENCE_SIZE, flip)
    return {**maps, **moved}


def _floats(faces: list[Example], is_set: bool) -> Example:
    """Arrays of the faces, with an axis for them where they are a set."""
    stacked = {key: np.stack([face[key] for face in faces]).astype(np.float32) for key in faces[0]}
    stacked = {key: value if key in POINTS else value / 255 for key, value in stacked.items()}
    return stacked if is_set else {key: value[0] for key, value in stacked.items()}


def preprocess_train(
    example: Example,
    seed: int,
    size: int,
    with_skin: bool = True,
    points: dense_points.DensePoints | None = None,
    share: float = 1.0,
) -> Example:
    """A training example: image (size,size,3) and skin (size,size) in [0,1], landmarks (68,2), all float32, augmented.

    landmarks are in pixels of a 224 px crop with y up from its last row, whatever `size` is, and so is dense (K,2),
    which is there if `points` are asked for. A set of N pictures has (N,size,size,3) and so on, each picture augmented
    by itself, and no dense points. `share`: of the published augmentation. No coefficient is among it. UserError: no
    face.
    """
    rng, is_set = np.random.default_rng(seed), example["landmarks"].ndim == 3
    faces = _faces(example, size, with_skin)
    if points is not None and not is_set:
        faces[0]["dense"] = points.in_crop(example, size)
    return _floats([_augmented(face, rng, share) for face in faces], is_set)


def preprocess_eval(example: Example, size: int) -> Example:
    """An evaluation example: image and landmarks as in `preprocess_train`, not augmented, and what is KNOWN."""
    known = {key: np.asarray(example[key], np.float32) for key in KNOWN if key in example}
    return {**_floats(_faces(example, size, with_skin=False), is_set=example["landmarks"].ndim == 3), **known}


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    size = config.model.image_size
    builders = [datasets.open_set(config.data, name, size) for name in config.data.datasets]
    process = functools.partial(
        preprocess_train,
        size=size,
        with_skin=config.loss.attention != "none",
        points=dense_points.from_config(config),
        share=config.data.augment,
    )
    return datasets.train_batches(builders, config, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The test split of the data set `name`, padded."""
    size = config.model.image_size
    process = functools.partial(preprocess_eval, size=size)
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(datasets.open_set(config.data, name, size), "test", local, process)
