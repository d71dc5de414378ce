"""Training and evaluation examples from data sets of any layout. The only file of this system that loads TensorFlow.

Rendered heads and FaceScape have landmarks and dense surface points, annotated photos the landmarks of their layout
(`query_table`). A landmark that is unlabelled, NaN or far outside the crop is not `valid`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np

from jaxface import crops, detection, landmark_metrics
from jaxface.data import augment, datasets
from jaxface.errors import UserError
from jaxface.geometry import alignment, crop_jitter
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68, MIRROR_X
from jaxface.system import Batch
from jaxface.systems.continuous import crop_units, face_extent, query_table
from jaxface.systems.continuous.query_table import QuerySet

Example = dict[str, np.ndarray]

# A detection with a smaller intersection over union with the annotated box is not of this face.
MIN_OVERLAP = 0.3
PADDED = ("queries", "points", "valid", "asked")


def rendered_queries() -> QuerySet:
    """The 68 landmarks of rendered heads."""
    return QuerySet("rendered_heads", canonical.queries("68"), LAYOUT_68)


def labelled_points(example: Example, queries: QuerySet) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (K,2) px of an example, 0 where unlabelled, and whether each is labelled, (K,) bool.

    Sets of 3D points without landmarks of the layout give the x and y of their points.
    """
    count = len(queries.points)
    given = [example[name][:, :2] for name in ("landmarks", "points_3d") if name in example]
    points = next((one for one in given if len(one) == count), None)
    if points is None:
        raise UserError(
            f"data set {queries.dataset}: an example has {len(given[0]) if given else 'no'} landmarks, its layout "
            f"{count}; correct its layout in config.layouts, or prepare it again"
        )
    valid = np.isfinite(points).all(-1) & np.asarray(example.get("valid", True), bool)
    return np.where(valid[:, None], points, 0), valid


def annotated_box(example: Example, points: np.ndarray, valid: np.ndarray, queries: QuerySet) -> np.ndarray:
    """The box (4,) px of the face from hairline to chin: that of a rendering, else from the labelled landmarks."""
    if "focal_px" in example:
        return example["box"]
    if valid.sum() >= 2:
        return face_extent.face_box(points, valid, queries.points)
    height, width = example["image"].shape[:2]
    return np.asarray(example.get("box", [0, 0, width - 1, height - 1]), np.float64)


def preprocess_train(
    example: Example,
    seed: int,
    size: int,
    num_surface_samples: int,
    queries: QuerySet | None = None,
    dataset: int = 0,
) -> Example:
    """A training example: a jittered, augmented crop with its landmarks and random surface points as queries.

    Half of the examples are mirrored. Mirroring negates the x of the queries and keeps their order.

    Args:
        example: image (H,W,3) uint8; landmarks (K,2) px, or points_3d (K,3) px; optionally valid (K,) bool. With dense
            labels also dense_queries (N,3) template units (100 mm) and dense (N,2) px, their image positions.
            Rendered heads have their box (4,) px.
        seed: seed of the augmentation.
        size: side of the crop in pixels.
        num_surface_samples: number S of surface points, of examples with dense labels.
        queries: the layout of the landmarks; None: the 68 of rendered heads.
        dataset: number of the data set.

    Returns:
        image (size,size,3) uint8; queries (Q,3), the K landmarks and S surface points; points (Q,2) in
        `crop_units`; valid (Q,) bool, whether the point is labelled and in or near the crop; asked (Q,) bool, True;
        dataset () int32; mirrored () bool.
    """
    queries = queries or rendered_queries()
    rng = np.random.default_rng(seed)
    landmarks_px, labelled = labelled_points(example, queries)
    box = annotated_box(example, landmarks_px, labelled, queries)
    center, side, angle = crop_jitter.sample(rng, box)
    matrix = alignment.crop_matrix(center, side, size, angle)
    image = crops.cut(example["image"], center, side, angle, size)
    asked, points_px = queries.points, landmarks_px
    if "dense" in example:
        count = len(example["dense"])
        chosen = rng.choice(count, num_surface_samples, replace=num_surface_samples > count)
        points_px = np.concatenate([points_px, example["dense"][chosen]])
        asked = np.concatenate([asked, example["dense_queries"][chosen]])
        labelled = np.concatenate([labelled, np.isfinite(example["dense"][chosen]).all(-1)])
    points = crop_units.from_pixels(alignment.apply_affine(matrix, points_px), size).astype(np.float32)
    mirrored = rng.random() < 0.5
    if mirrored:
        image, asked, points = image[:, ::-1], asked * np.float32(MIRROR_X), points * np.float32([-1, 1])
    image = augment.color(np.ascontiguousarray(image), rng)
    image = augment.cutout(augment.degrade(image, rng), rng)
    return {
        "image": image,
        "queries": asked.astype(np.float32),
        "points": np.where(labelled[:, None], points, np.float32(0)),
        "valid": labelled & (np.abs(points) < crop_units.MAX_COORDINATE).all(-1),
        "asked": np.ones(len(points), bool),
        "dataset": np.int32(dataset),
        "mirrored": np.bool_(mirrored),
    }


def preprocess_eval(example: Example, size: int, queries: QuerySet | None = None, detector: bool = False) -> Example:
    """An evaluation example: the crop of a face box and the inputs of `metrics.landmark_errors`.

    Args:
        example: as for training; rendered heads with landmarks_mm (68,3) in camera space, focal_px (), rotation (3,3)
            of the head (`camera.to_camera`), visible (68,) bool. Other bool features () mark subsets.
        size: side of the crop in pixels.
        queries: the layout of the landmarks; None: the 68 of rendered heads.
        detector: whether to take the detector's box that overlaps most with the annotated one.

    Returns:
        image (size,size,3) float32 in [0,1]; landmarks (K,2) in `crop_units`; valid (K,) bool; norm_interocular,
        norm_interpupil and norm_box (), normalising distances in the same unit, NaN if undefined; with `detector`
        found () bool, whether there is such a box. Rendered heads also have visible (68,) bool, eye_distance () in crop
        units and yaw_rad (). Bool features () of the example are returned as subset_NAME.
    """
    queries = queries or rendered_queries()
    points_px, labelled = labelled_points(example, queries)
    box, found = annotated_box(example, points_px, labelled, queries), True
    if detector:
        box, found = detected_box(example["image"], box)
    center, side = alignment.square_crop(box)
    matrix = alignment.crop_matrix(center, side, size)
    landmarks = crop_units.from_pixels(alignment.apply_affine(matrix, points_px), size)
    flags = {f"subset_{name}": value for name, value in example.items() if _is_flag(name, value)}
    return {
        "image": crops.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255,
        "landmarks": landmarks.astype(np.float32),
        "valid": labelled,
        **({"found": np.bool_(found)} if detector else {}),
        **norms(example, points_px, labelled, queries, 2 / side),
        **(_rendered_truth(example, side) if "landmarks_mm" in example else {}),
        **flags,
    }


def _is_flag(name: str, value: np.ndarray) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype == bool and name != "valid"


def _rendered_truth(example: Example, side: float) -> Example:
    eyes_px = landmark_metrics.projected_interocular_px(
        example["landmarks_mm"], example["focal_px"], LAYOUT_68.eye_corners
    )
    rotation = example["rotation"]
    return {
        "visible": example["visible"],
        "eye_distance": np.float32(2 * eyes_px / side),
        "yaw_rad": np.float32(np.arctan2(rotation[0, 2], rotation[2, 2])),
    }


def norms(example: Example, points: np.ndarray, valid: np.ndarray, queries: QuerySet, scale: float) -> Example:
    """The normalising distances of an example, in crop units; NaN where the landmarks that define one are unlabelled.

    The box is that of the labelled landmarks; for layouts without eye corners (AFLW) the annotated face box.
    """
    layout = queries.layout
    corners, pupils = layout.eye_corners, [index for group in layout.five[:2] for index in group]
    interocular = interpupil = np.nan
    if corners is not None and valid[list(corners)].all():
        interocular = landmark_metrics.interocular_distance(points, corners)
    if pupils and valid[pupils].all():
        interpupil = landmark_metrics.interpupil_distance(points, layout)
    extent = np.ptp(points[valid], axis=0) if valid.any() else np.full(2, np.nan)
    if corners is None and layout.five and "box" in example:
        extent = example["box"][2:] - example["box"][:2]
    distances = {"interocular": interocular, "interpupil": interpupil, "box": landmark_metrics.box_size(extent)}
    return {f"norm_{name}": np.float32(distance * scale) for name, distance in distances.items()}


def detected_box(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, bool]:
    """The detected box (4,) px of the face in `box` (4,), and True; `box` and False if the detector misses it."""
    detections = detection.detect_faces(image).boxes
    low = np.maximum(detections[:, :2], box[:2])
    high = np.minimum(detections[:, 2:], box[2:])
    common = np.maximum(high - low, 0).prod(-1)
    union = (detections[:, 2:] - detections[:, :2]).prod(-1) + (box[2:] - box[:2]).prod() - common
    overlap = common / union
    if not len(overlap) or overlap.max() < MIN_OVERLAP:
        return box, False
    return detections[overlap.argmax()].astype(np.float64), True


def collate(parts: Sequence[Example], present: Sequence[int], widths: Sequence[int]) -> Example:
    """One batch from batches of single data sets. Different numbers of queries are padded, see `batch_width`.

    Padding has `asked` and `valid` False.

    Args:
        parts: batches of single data sets.
        present: numbers of the data sets that the batch of all hosts has: it is equally wide on all of them.
        widths: for each data set the queries of its examples.
    """
    width = query_table.batch_width([widths[number] for number in present])
    padded = [{**part, **{name: _padded(part[name], width) for name in PADDED}} for part in parts]
    return datasets.concatenate(padded)


def _padded(array: np.ndarray, width: int) -> np.ndarray:
    """(B,Q,…) padded with zeros to (B,width,…)."""
    return np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))


def train_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Training batches from `step` on, mixed from `config.data.datasets` by `config.data.shares`."""
    size, names = config.model.image_size, config.data.datasets
    splits, processes, widths = [], [], []
    for number, name in enumerate(names):
        split, queries = open_labelled(config, name, "train")
        splits.append(split)
        dense = "dense" in split.builder.info.features
        widths.append(len(queries.points) + (config.data.num_surface_samples if dense else 0))
        processes.append(
            functools.partial(
                preprocess_train,
                size=size,
                num_surface_samples=config.data.num_surface_samples,
                queries=queries,
                dataset=number,
            )
        )
    padded = functools.partial(collate, widths=widths)
    return datasets.mixed_batches(config, splits, step, processes, config.data.get("shares", ()), padded)


def eval_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Batches of the data set "NAME[:SPLIT][@detector]", by default its test split; the last batch is padded."""
    split, queries = open_labelled(config, name.removesuffix(query_table.DETECTOR), "test")
    process = functools.partial(
        preprocess_eval, size=config.model.image_size, queries=queries, detector=name.endswith(query_table.DETECTOR)
    )
    return datasets.eval_batches(config, split, process)


def open_labelled(config: ml_collections.ConfigDict, name: str, default: str) -> tuple[datasets.Split, QuerySet]:
    """The split of "NAME[/variant][:SPLIT]", and the queries of its landmarks.

    Raises UserError if the data set has no images with one face each and landmarks of a layout with template points.
    """
    split = datasets.open_split(config.data, name, config.model.image_size, default)
    features = split.builder.info.features
    if "image" not in features:
        raise UserError(f"data set {name} has no images; name one of images with landmarks")
    shapes = [features[key].shape for key in ("landmarks", "points_3d") if key in features]
    if not any(len(shape) == 2 for shape in shapes):
        raise UserError(f"data set {name} has no landmarks of one face an image; name one that has")
    queries = query_table.query_set(config, name)
    if not any(shape[0] in (None, len(queries.points)) for shape in shapes):
        counts = ", ".join(str(shape[0]) for shape in shapes)
        raise UserError(f"data set {name} has {counts} landmarks, its layout {len(queries.points)}; prepare it again")
    return split, queries


def search_examples(
    config: ml_collections.ConfigDict, dataset: str, count: int, locate: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of the first training images of a data set for `layout_search`.

    Args:
        config: the configuration.
        dataset: "NAME[/variant][:SPLIT]", by default the split train.
        count: largest number of images N.
        locate: (image (H,W,3) uint8, box (4,) of the labelled landmarks) -> box (4,) from hairline to chin.

    Returns:
        images (N,S,S,3) float32 in [0,1], points (N,K,2) in `crop_units`, valid (N,K) bool.
    """
    size = config.model.image_size
    split = datasets.open_split(config.data, dataset, size, "train")
    if "landmarks" not in split.builder.info.features:
        raise UserError(f"data set {dataset} has no landmarks; name one that has")
    images, points, valid = [], [], []
    for example in split.builder.as_dataset(split=split.name).take(count).as_numpy_iterator():
        landmarks = example["landmarks"]
        labelled = np.isfinite(landmarks).all(-1) & np.asarray(example.get("valid", True), bool)
        if labelled.sum() < 2:
            continue
        inside = landmarks[labelled]
        center, side = alignment.square_crop(locate(example["image"], np.concatenate([inside.min(0), inside.max(0)])))
        in_crop = alignment.apply_affine(alignment.crop_matrix(center, side, size), np.nan_to_num(landmarks))
        images.append(crops.cut(example["image"], center, side, 0.0, size).astype(np.float32) / 255)
        points.append(crop_units.from_pixels(in_crop, size))
        valid.append(labelled & (np.abs(points[-1]) < crop_units.MAX_COORDINATE).all(-1))
    if not images:
        raise UserError(f"data set {dataset}: no image has two labelled landmarks; label some")
    return np.stack(images), np.stack(points), np.stack(valid)
