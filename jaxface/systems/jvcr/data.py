"""Training and evaluation examples of JVCR in mode "reference" or "clean". Only this file loads TensorFlow.

Any prepared data set of images with 3D landmarks can be used: rendered heads, or records with `points_3d`.
"""

import dataclasses
import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import crops
from jaxface.data import augment, datasets
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch
from jaxface.systems.jvcr import framing, transforms

# The original enlarges the annotated square by this factor.
SQUARE_MARGIN = 1.25
# The two points of iBUG's 68 that 3DFAW lacks (inner mouth corners), and the neighbours that replace them.
ABSENT_OF_66 = {60: 48, 64: 54}


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """An image with 3D landmarks.

    Attributes:
        image: (H,W,3) uint8 RGB.
        points: (68,3) landmarks in the frame of the volume, see `transforms`.
        valid: (68,) bool, landmarks that are annotated.
        center: (2,) px, centre of the original's square.
        scale: size of the original's square in units of 200 px.
        box: (4,) px, the face box, hairline to chin and side to side; mode "clean" crops the square around it.
    """

    image: np.ndarray
    points: np.ndarray
    valid: np.ndarray
    center: np.ndarray
    scale: float
    box: np.ndarray


def annotated_image(example: dict[str, np.ndarray]) -> AnnotatedImage:
    """The annotation in a record of any of the data sets.

    Args:
        example: image (H,W,3) uint8 RGB; points_3d (68,3) or (66,3) px, z towards the viewer, or the features of a
            rendered head (see `rendered_points`). Optional: valid (68,) or (66,) bool, the annotated points; objpos
            (2,) and scale_provided (), the original's square (default: from the landmarks' bounding box); box (4,)
            (default: `framing.face_box` of the landmarks).
    """
    points = example["points_3d"] if "points_3d" in example else rendered_points(example)
    valid = np.isfinite(points).all(-1) & example.get("valid", True)
    points = np.where(valid[:, None], points, np.nan).astype(points.dtype)
    if len(points) == transforms.LANDMARKS - len(ABSENT_OF_66):
        points, valid = _complete_66(points, valid)
    points = _complete_missing(points)
    center, scale = framing.landmark_frame(points[valid])
    if "objpos" in example and example["objpos"][0] != -1:
        center, scale = example["objpos"], SQUARE_MARGIN * float(example["scale_provided"])
    box = example["box"] if "box" in example else framing.face_box(points)
    volume_points = transforms.flip_depth(np.float64(points))
    return AnnotatedImage(example["image"], volume_points, valid, np.float64(center), scale, box)


def rendered_points(example: dict[str, np.ndarray]) -> np.ndarray:
    """Landmarks (68,3) px of a rendered head, z towards the viewer.

    Args:
        example: landmarks (68,2) px, landmarks_mm (68,3) in camera space and focal_px (); depths are scaled to pixels
            at their mean.
    """
    depth = example["landmarks_mm"][:, 2:]
    mean = depth.mean()
    return np.concatenate([example["landmarks"], (mean - depth) * example["focal_px"] / mean], 1)


def _complete_66(points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """68 points (68,3) and the annotated ones (68,) bool, from the 66 of 3DFAW (66,3) and (66,)."""
    present = ~np.isin(np.arange(transforms.LANDMARKS), list(ABSENT_OF_66))
    completed, completed_valid = np.zeros((transforms.LANDMARKS, 3), points.dtype), present.copy()
    completed[present], completed_valid[present] = points, valid
    for absent, neighbour in ABSENT_OF_66.items():
        completed[absent] = completed[neighbour]
    return completed, completed_valid


def _complete_missing(points: np.ndarray) -> np.ndarray:
    """Points (68,3) in which those that are NaN are replaced by those of the template aligned to the others.

    They are not trained or measured, but keep boxes and estimates of the pose plausible.
    """
    known = np.isfinite(points).all(-1)
    if known.all() or not known.any():
        return points
    template = canonical.queries("68") * [1, -1, 1]
    scale, rotation, offset = alignment.similarity(template[known], np.float64(points[known]))
    return np.where(known[:, None], points, template @ rotation.T * scale + offset).astype(points.dtype)


def _sample_augmentation(rng: np.random.Generator, settings: ml_collections.ConfigDict) -> tuple[float, float, bool]:
    """Samples (factor of the square's side, rotation in degrees, whether to mirror) in the original's order."""
    scale = np.clip(1 + settings.scale * rng.standard_normal(), 1 - settings.scale, 1 + settings.scale)
    limit = 2 * settings.rotation_deg
    rotation = np.clip(settings.rotation_deg * rng.standard_normal(), -limit, limit)
    rotation = rotation if rng.random() <= settings.rotation_share else 0.0
    return scale, rotation, rng.random() <= 0.5


def preprocess_train(
    example: dict, seed: int, mode: str, size: int, points: int, settings: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
    """A training example.

    Args:
        example: see `annotated_image`.
        seed: seed of the augmentation.
        mode: "reference" (the original's) or "clean" (ours).
        size: side of the crop in pixels.
        points: number N of points, 68 or 71 (with the centres of eyes and mouth).
        settings: config.data.augment. `scale` and `rotation_deg`: standard deviations of scale (clipped at one) and
            rotation (clipped at two), `rotation_share`: probability of a rotation, `color`: largest offset of a channel
            in [0,1]. Mode "clean" only: `shift`, largest shift in sides of the square; `degrade`, whether to apply
            `augment.color` and `augment.degrade`.

    Returns:
        image (size,size,3) uint8; coordinates (N,3) px of the crop, z away from the viewer; valid (N,) bool, points
        that are annotated; in_volume (N,) bool, points that are rendered into the volume: the original leaves
        out those whose x in the image is not positive.
    """
    rng = np.random.default_rng(seed)
    augment_image = _augment_reference if mode == "reference" else _augment_clean
    image, *labels = augment_image(annotated_image(example), rng, size, settings)
    return _arrays(np.rint(255 * image).astype(np.uint8), *labels, points)


def _arrays(
    image: np.ndarray, coordinates: np.ndarray, valid: np.ndarray, in_volume: np.ndarray, points: int
) -> dict[str, np.ndarray]:
    """The arrays of an example from coordinates (68,3), valid (68,) and in_volume (71,)."""
    return {
        "image": image,
        "coordinates": transforms.with_centers(coordinates)[:points].astype(np.float32),
        "valid": with_center_flags(valid)[:points],
        "in_volume": in_volume[:points],
    }


def with_center_flags(flags: np.ndarray) -> np.ndarray:
    """Flags (71,) bool of flags (68,): a centre counts if all of its points do."""
    return np.concatenate([flags, [flags[list(group)].all() for group in transforms.CENTERS]])


def _augment_reference(
    annotated: AnnotatedImage, rng: np.random.Generator, size: int, settings: ml_collections.ConfigDict
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The original's augmentation and crop: arguments of `_arrays`."""
    factor, rotation, flip = _sample_augmentation(rng, settings)
    image, points = annotated.image / 255.0, annotated.points
    valid, center = annotated.valid, annotated.center
    if flip:  # the original mirrors x to W - x instead of W - 1 - x
        width = image.shape[1]
        image, center = image[:, ::-1], np.array([width - center[0], center[1]])
        points, valid = transforms.mirror(points, width), valid[LAYOUT_68.flip]
    image = np.clip(image + rng.uniform(-settings.color, settings.color, 3), 0, 1)
    scale = annotated.scale * factor
    crop = framing.reference_crop(image, center, scale, size, rotation)
    coordinates = transforms.encode_reference(points, center, np.float64(scale), size, size, rotation)
    in_volume = with_center_flags(valid) & (transforms.with_centers(points)[:, 0] > 0)
    return crop, coordinates, valid, in_volume


def _augment_clean(
    annotated: AnnotatedImage, rng: np.random.Generator, size: int, settings: ml_collections.ConfigDict
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Our augmentation and crop: arguments of `_arrays`."""
    factor, rotation, flip = _sample_augmentation(rng, settings)
    center, side = alignment.square_crop(np.float64(annotated.box))
    center, side = center + side * rng.uniform(-settings.shift, settings.shift, 2), side * factor
    angle, valid = np.deg2rad(rotation), annotated.valid
    crop = crops.cut(annotated.image, center, side, angle, size)
    coordinates = transforms.encode(annotated.points, center, side, size, angle)
    if flip:
        crop, coordinates = crop[:, ::-1], transforms.mirror(coordinates, size - 1)
        valid = valid[LAYOUT_68.flip]
    crop = np.ascontiguousarray(crop)
    if settings.degrade:
        crop = augment.degrade(augment.color(crop, rng), rng)
    offset = rng.uniform(-settings.color, settings.color, 3)
    return np.clip(crop / 255.0 + offset, 0, 1), coordinates, valid, with_center_flags(valid)


def preprocess_eval(example: dict, mode: str, size: int, points: int) -> dict[str, np.ndarray]:
    """An evaluation example: a training example without augmentation, and further arrays for `metrics.score`.

    Args:
        example: see `annotated_image`.
        mode: "reference" or "clean".
        size: side of the crop in pixels.
        points: number N of points, 68 or 71.

    Returns:
        the arrays of `preprocess_train`, with the image as float32 in [0,1]; points (68,3) px of the image with z
        towards the viewer; center (2,) and side () px of the crop.
    """
    annotated = annotated_image(example)
    if mode == "reference":
        center, scale, side = annotated.center, annotated.scale, transforms.SCALE_PX * annotated.scale
        crop = framing.reference_crop(annotated.image, center, scale, size)
        coordinates = transforms.encode_reference(annotated.points, center, np.float64(scale), size, size)
    else:
        center, side = alignment.square_crop(np.float64(annotated.box))
        crop = crops.cut(annotated.image, center, side, 0.0, size) / 255.0
        coordinates = transforms.encode(annotated.points, center, side, size)
    return {
        **_arrays(crop.astype(np.float32), coordinates, annotated.valid, with_center_flags(annotated.valid), points),
        "points": transforms.flip_depth(annotated.points).astype(np.float32),
        "center": np.float32(center),
        "side": np.float32(side),
    }


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    size = config.model.image_size
    splits = [datasets.open_split(config.data, name, size, "train") for name in config.data.datasets]
    process = functools.partial(
        preprocess_train, mode=config.mode, size=size, points=config.model.points, settings=config.data.augment
    )
    return datasets.train_batches(config, splits, step, process)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Batches of the data set "NAME[:SPLIT]", by default its test split, padded."""
    size = config.model.image_size
    split = datasets.open_split(config.data, name, size, "test")
    process = functools.partial(preprocess_eval, mode=config.mode, size=size, points=config.model.points)
    return datasets.eval_batches(config, split, process)
