"""Examples with 3D points to batches, as the original makes them or as we do. The only file here that loads TensorFlow.

Every prepared data set of pictures with 3D points serves: it has `points_3d`, or is of rendered heads.
"""

import dataclasses
import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import parallel, photo
from jaxface.data import augment, stream
from jaxface.data.prepare import is_prepared, prepare
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.layouts import LAYOUT_68
from jaxface.system import Batch
from jaxface.systems.jvcr import crops, transforms

# The original widens the annotation's square by this.
WIDER = 1.25
# The points that 3DFAW's 66 leave out, and their neighbours, which stand in for them where a drawing needs all.
ABSENT_OF_66 = {60: 48, 64: 54}


@dataclasses.dataclass(frozen=True)
class Face:
    """A picture's pixels (H,W,3) uint8; points (68,3) in the volume's frame (see `transforms`), known (68,) bool; and
    the square of the original (center (2,), scale) and ours (box (4,), hairline to chin and side to side)."""

    pixels: np.ndarray
    points: np.ndarray
    known: np.ndarray
    center: np.ndarray
    scale: float
    box: np.ndarray


def face(example: dict[str, np.ndarray]) -> Face:
    """What an example of any of the data sets says.

    `points_3d` (68,3) or (66,3) px with z towards the viewer; of rendered heads they are landmarks (68,2) px with the
    depths of landmarks_mm (68,3), in pixels at the mean depth. `objpos` (2,) and `scale_provided` () of the original's
    annotations, or the landmarks' box, make its square; `box` (4,) or the landmarks' extent makes ours.
    """
    points = example["points_3d"] if "points_3d" in example else rendered_points(example)
    known = np.ones(transforms.LANDMARKS, bool)
    if len(points) == 66:
        points, known = _of_66(points)
    center, scale = crops.landmark_frame(points[known])
    if "objpos" in example and example["objpos"][0] != -1:
        center, scale = example["objpos"], WIDER * float(example["scale_provided"])
    box = example["box"] if "box" in example else crops.face_box(points)
    return Face(example["image"], transforms.turned_over(np.float64(points)), known, np.float64(center), scale, box)


def rendered_points(example: dict[str, np.ndarray]) -> np.ndarray:
    """Points (68,3) px of a rendered head, z towards the viewer."""
    depth = example["landmarks_mm"][:, 2:]
    mean = depth.mean()
    return np.concatenate([example["landmarks"], (mean - depth) * example["focal_px"] / mean], 1)


def _of_66(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isin(np.arange(transforms.LANDMARKS), list(ABSENT_OF_66))
    filled = np.zeros((transforms.LANDMARKS, 3), points.dtype)
    filled[known] = points
    for absent, neighbour in ABSENT_OF_66.items():
        filled[absent] = filled[neighbour]
    return filled, known


def _chance(rng: np.random.Generator, settings: ml_collections.ConfigDict) -> tuple[float, float, bool]:
    """Factor of the square's side, rotation in degrees and whether to mirror: the original's draws and their order."""
    scale = np.clip(1 + settings.scale * rng.standard_normal(), 1 - settings.scale, 1 + settings.scale)
    rotation = np.clip(
        settings.rotation_deg * rng.standard_normal(), -2 * settings.rotation_deg, 2 * settings.rotation_deg
    )
    rotation = rotation if rng.random() <= settings.rotation_share else 0.0
    return scale, rotation, rng.random() <= 0.5


def preprocess_train(example: dict, seed: int, mode: str, size: int, points: int, settings) -> dict[str, np.ndarray]:
    """A training example: image (S,S,3) float32 in [0,1]; coordinates (N,3) px of the crop; known and drawn (N,) bool.

    N is `points`: 68 or 71. `settings` is config.data.augment. `known`: whether the data set says it; `drawn`: whether
    it is in the volume; the original leaves points out whose x in the picture is not positive.
    """
    rng = np.random.default_rng(seed)
    make = _reference_train if mode == "reference" else _clean_train
    return _named(*make(face(example), rng, size, settings), points)


def _named(image: np.ndarray, places: np.ndarray, known: np.ndarray, drawn: np.ndarray, points: int) -> dict:
    """places (68,3), known (68,), drawn (71,)."""
    return {
        "image": image.astype(np.float32),
        "coordinates": transforms.with_centers(places)[:points].astype(np.float32),
        "valid": with_center_flags(known)[:points],
        "in_volume": drawn[:points],
    }


def with_center_flags(flags: np.ndarray) -> np.ndarray:
    """(71,) bool of (68,): a centre counts where all of its points do."""
    return np.concatenate([flags, [flags[list(group)].all() for group in transforms.CENTERS]])


def _reference_train(found: Face, rng: np.random.Generator, size: int, settings) -> tuple:
    factor, rotation, flip = _chance(rng, settings)
    pixels, points, known, center = found.pixels / 255.0, found.points, found.known, found.center
    if flip:  # about W, not W - 1
        width = pixels.shape[1]
        pixels, center = pixels[:, ::-1], np.array([width - center[0], center[1]])
        points, known = transforms.mirrored(points, width), known[LAYOUT_68.flip]
    pixels = np.clip(pixels + rng.uniform(-settings.color, settings.color, 3), 0, 1)
    scale = found.scale * factor
    image = crops.reference_crop(pixels, center, scale, size, rotation)
    places = transforms.encode_reference(points, center, np.float64(scale), size, size, rotation)
    return image, places, known, with_center_flags(known) & (transforms.with_centers(points)[:, 0] > 0)


def _clean_train(found: Face, rng: np.random.Generator, size: int, settings) -> tuple:
    factor, rotation, flip = _chance(rng, settings)
    center, side = alignment.square_crop(np.float64(found.box))
    center, side = center + side * rng.uniform(-settings.shift, settings.shift, 2), side * factor
    angle, known = np.deg2rad(rotation), found.known
    image = photo.cut(found.pixels, center, side, angle, size)
    places = transforms.encode(found.points, center, side, size, angle)
    if flip:
        image, places = image[:, ::-1], transforms.mirrored(places, size - 1)
        known = known[LAYOUT_68.flip]
    image = np.ascontiguousarray(image)
    if settings.degrade:
        image = augment.degrade(augment.color(image, rng), rng)
    shift = rng.uniform(-settings.color, settings.color, 3)
    return np.clip(image / 255.0 + shift, 0, 1), places, known, with_center_flags(known)


def preprocess_eval(example: dict, mode: str, size: int, points: int) -> dict[str, np.ndarray]:
    """An evaluation example: as for training without chance, and what `metrics.score` needs: points (68,3) px of the
    picture with z towards the viewer, center (2,) and side () px of the crop."""
    found = face(example)
    if mode == "reference":
        center, side = found.center, transforms.SCALE_PX * found.scale
        image = crops.reference_crop(found.pixels, center, found.scale, size)
        places = transforms.encode_reference(found.points, center, np.float64(found.scale), size, size)
    else:
        center, side = alignment.square_crop(np.float64(found.box))
        image = photo.cut(found.pixels, center, side, 0.0, size) / 255.0
        places = transforms.encode(found.points, center, side, size)
    return {
        **_named(image, places, found.known, with_center_flags(found.known), points),
        "points": transforms.turned_over(found.points).astype(np.float32),
        "center": np.float32(center),
        "side": np.float32(side),
    }


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on: an equal share of each of `config.data.datasets`."""
    share, rest = divmod(parallel.local_batch_size(config.batch_size), len(config.data.datasets))
    if rest:
        raise UserError(f"a host's batch cannot be shared equally by the {len(config.data.datasets)} data sets")
    process = functools.partial(
        preprocess_train,
        mode=config.mode,
        size=config.model.image_size,
        points=config.model.points,
        settings=config.data.augment,
    )
    streams = [
        stream.train_stream(_open(config, name), "train", share, config.seed + number, step, process)
        for number, name in enumerate(config.data.datasets)
    ]
    for parts in zip(*streams, strict=True):
        yield {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The test split of the data set `name`, padded."""
    process = functools.partial(
        preprocess_eval, mode=config.mode, size=config.model.image_size, points=config.model.points
    )
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(_open(config, name), "test", local, process)


def _open(config: ml_collections.ConfigDict, name: str) -> stream.Builder:
    """The prepared data set; where the config asks for a tiny one of its own, the first host makes it."""
    if config.data.build_examples:
        _prepare_own(name, config.data.dir, config.data.build_examples, config.model.image_size)
    return stream.open_dataset(name, config.data.dir)


@functools.cache
def _prepare_own(name: str, folder: str, examples: int, size: int) -> None:
    with parallel.process_zero_first(f"prepare {name}"):
        if not is_prepared(name, folder):
            prepare(name, folder, examples=examples, size=size)
