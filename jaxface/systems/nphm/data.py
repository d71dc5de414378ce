"""Training and evaluation examples of both phases: points sampled from records with replacement.

Only this file of the system loads TensorFlow. Near-surface and far points are sampled on the device, by the losses.
`jaxface.data.head_records` documents the records.
"""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface.data import datasets, head_records, stream
from jaxface.errors import UserError
from jaxface.system import Batch

# Points per record of a data set that a run builds itself.
BUILT_RECORD_POINTS = 200

Example = dict[str, np.ndarray]


def surface_points(example: Example, seed: int, face: int, nonface: int) -> Example:
    """A phase-1 example: surface points of a neutral scan with normals.

    Args:
        example: a record of a surface.
        seed: seed of the sampling.
        face: number of points on the face.
        nonface: number of points elsewhere.

    Returns:
        face_points, face_normals (face,3), nonface_points, nonface_normals (nonface,3), anchors (39,3), subject ().

    Raises:
        UserError: the record has no points of a requested part.
    """
    rng = np.random.default_rng(seed)
    arrays = {"anchors": example["anchors"], "subject": np.int32(example["subject"])}
    for part, count in (("face", face), ("nonface", nonface)):
        arrays |= _sample_rows(example, (f"{part}_points", f"{part}_normals"), count, rng)
    return arrays


def point_pairs(example: Example, seed: int, pairs: int) -> Example:
    """A phase-2 example: `pairs` corresponding points neutral and posed (pairs,3), and the record's NUMBERS ()."""
    numbers = {name: np.int32(example[name]) for name in head_records.NUMBERS}
    return {**numbers, **_sample_rows(example, ("neutral", "posed"), pairs, np.random.default_rng(seed))}


def identity_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Phase-1 training batches from `step` on, with config.data.face and config.data.nonface points."""
    process = functools.partial(surface_points, **_point_counts(config))
    return datasets.train_batches(config, [_split(config, "train")], step, process)


def expression_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Phase-2 training batches from `step` on, with config.data.pairs pairs."""
    process = functools.partial(point_pairs, pairs=config.data.pairs)
    return datasets.train_batches(config, [_split(config, "train_expressions")], step, process)


def identity_eval(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The records of unseen people of "NAME[:SPLIT]", padded; the points of a record are always the same."""
    process = functools.partial(surface_points, seed=0, **_point_counts(config))
    return datasets.eval_batches(config, _split(config, "test", name), process)


def expression_eval(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The pairs of unseen people's expressions of "NAME[:SPLIT]", padded; those of a record are always the same."""
    process = functools.partial(point_pairs, seed=0, pairs=config.data.pairs)
    return datasets.eval_batches(config, _split(config, "test_expressions", name), process)


def open_dataset(config: ml_collections.ConfigDict) -> stream.Builder:
    """The prepared data set of the configuration; see `datasets.open_dataset`."""
    return datasets.open_dataset(config.data, config.data.dataset, BUILT_RECORD_POINTS)


def _split(config: ml_collections.ConfigDict, default: str, name: str = "") -> datasets.Split:
    return datasets.open_split(config.data, name or config.data.dataset, BUILT_RECORD_POINTS, default)


def _point_counts(config: ml_collections.ConfigDict) -> dict[str, int]:
    return {"face": config.data.face, "nonface": config.data.nonface}


def _sample_rows(example: Example, names: tuple[str, ...], count: int, rng: np.random.Generator) -> Example:
    """The named arrays (n,3) at `count` random rows, the same for all of them."""
    size = len(example[names[0]])
    if count and not size:
        subject = int(example["subject"])
        raise UserError(f"data set: the record of subject {subject} has no {names[0]}; prepare it without this scan")
    rows = rng.integers(0, max(size, 1), count)
    return {name: example[name][rows] for name in names}
