"""Records of scans to batches of both phases: points drawn with replacement. The only file here that loads TensorFlow.

Near and far points are drawn on the device, by the losses. What records hold is said in `jaxface.data.head_records`.
"""

import functools
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np

from jaxface import parallel
from jaxface.data import datasets, head_records, stream
from jaxface.errors import UserError
from jaxface.system import Batch

SMALLEST_RECORD = 200

Example = dict[str, np.ndarray]


def surface_points(example: Example, seed: int, face: int, nonface: int) -> Example:
    """A phase-1 example: `face` and `nonface` of a neutral scan's surface points (n,3) with normals.

    Gives face_points, face_normals, nonface_points, nonface_normals, anchors (39,3) and subject (). UserError where
    the scan has no points of a part that is asked for.
    """
    rng = np.random.default_rng(seed)
    made = {"anchors": example["anchors"], "subject": np.int32(example["subject"])}
    for part, count in (("face", face), ("nonface", nonface)):
        made |= _drawn(example, (f"{part}_points", f"{part}_normals"), count, rng)
    return made


def point_pairs(example: Example, seed: int, pairs: int) -> Example:
    """A phase-2 example: `pairs` corresponding points, neutral and posed (pairs,3), and NUMBERS () of the record."""
    numbers = {name: np.int32(example[name]) for name in head_records.NUMBERS}
    return {**numbers, **_drawn(example, ("neutral", "posed"), pairs, np.random.default_rng(seed))}


def identity_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Phase-1 training batches from `step` on; config.data.face and .nonface say how many points of each."""
    return _train(config, "train", functools.partial(surface_points, **_points(config)), step)


def expression_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Phase-2 training batches from `step` on; config.data.pairs says how many pairs."""
    return _train(config, "train_expressions", functools.partial(point_pairs, pairs=config.data.pairs), step)


def identity_eval(config: ml_collections.ConfigDict, dataset: str) -> Iterator[Batch]:
    """The records of unseen people of a data set, padded; each always gives the same points."""
    return _eval(config, dataset, "test", functools.partial(surface_points, seed=0, **_points(config)))


def expression_eval(config: ml_collections.ConfigDict, dataset: str) -> Iterator[Batch]:
    """The pairs of unseen people's expressions, padded; each record always gives the same ones."""
    return _eval(config, dataset, "test_expressions", functools.partial(point_pairs, seed=0, pairs=config.data.pairs))


def open_set(config: ml_collections.ConfigDict, dataset: str = "") -> stream.Builder:
    """The prepared data set `dataset`, or the one of the configuration; see `jaxface.data.sets.open_set`."""
    return datasets.open_set(config.data, dataset or config.data.dataset, SMALLEST_RECORD)


def _points(config: ml_collections.ConfigDict) -> dict[str, int]:
    return {"face": config.data.face, "nonface": config.data.nonface}


def _train(
    config: ml_collections.ConfigDict, split: str, process: Callable[[Example, int], Example], step: int
) -> Iterator[Batch]:
    local = parallel.local_batch_size(config.batch_size)
    return stream.train_stream(open_set(config), split, local, config.seed, step, process)


def _eval(
    config: ml_collections.ConfigDict, dataset: str, split: str, process: Callable[[Example], Example]
) -> Iterator[Batch]:
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(open_set(config, dataset), split, local, process)


def _drawn(example: Example, names: tuple[str, ...], count: int, rng: np.random.Generator) -> Example:
    """The named arrays (n,3) at `count` common random rows."""
    size = len(example[names[0]])
    if count and not size:
        raise UserError(f"a record of subject {int(example['subject'])} has no {names[0]}: prepare the data set again")
    rows = rng.integers(0, max(size, 1), count)
    return {name: example[name][rows] for name in names}
