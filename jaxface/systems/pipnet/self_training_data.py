"""Data of self-training: unlabelled faces, their pseudo-labels, and batches that mix labelled and unlabelled faces.

Like `data` this loads TensorFlow.
"""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import crops, hosts, prepared_data
from jaxface.data import datasets, pseudo_labels, stream
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.system import Batch
from jaxface.systems.pipnet import data
from jaxface.systems.pipnet.losses import TASKS

Example = dict[str, np.ndarray]


def preprocess_unlabelled(example: Example, size: int) -> Example:
    """The crop of a face without landmarks.

    Args:
        example: a record of an annotated or rendered data set.
        size: side of the crop in pixels.

    Returns:
        image (size,size,3) float32 in [0,1]; corner and extent (2,) px of the crop in the record's image.
    """
    if "crop" in example:
        corner, extent = example["crop"][:2], example["crop"][2:] - example["crop"][:2]
        image = data.annotated_crop(example, size)
    else:
        center, side = alignment.square_crop(example["box"])
        corner, extent = center - side / 2, np.full(2, side)
        image = crops.cut(example["image"], center, side, 0.0, size)
    return {
        "image": image.astype(np.float32) / 255,
        "corner": corner.astype(np.float32),
        "extent": extent.astype(np.float32),
    }


def mixed_stream(config: ml_collections.ConfigDict, step: int) -> Iterator[Batch]:
    """Batches of a round of self-training: labelled examples, and unlabelled ones with pseudo-labels.

    All examples of config.data.datasets and config.data.unlabelled are equally frequent: each batch holds the data sets
    in proportion to their sizes. If config.data.task is not "std", `task` (B,) int32 is the curriculum's task of each
    example, an index into `TASKS`.
    """
    process = functools.partial(data.preprocess_train, size=config.model.image_size, flip=data.flip_map(config))
    unlabelled_task, standard = TASKS.index(config.data.task), TASKS.index("std")

    def process_tagged(example: Example, seed: int, task: int) -> Example:
        tag = {} if unlabelled_task == standard else {"task": np.int32(task)}
        return {**process(example, seed), **tag}

    def source(builder: stream.Builder, overlay: stream.Builder | None, task: int) -> datasets.Source:
        return datasets.Source(datasets.Split(builder, "train"), functools.partial(process_tagged, task=task), overlay)

    sources = [
        source(data.open_labelled(config, name, "train").builder, None, standard) for name in config.data.datasets
    ]
    sources += [source(*open_unlabelled(config, name), unlabelled_task) for name in config.data.unlabelled]
    counts = [one.split.builder.info.splits["train"].num_examples for one in sources]

    def plan(step: int) -> np.ndarray:
        """A permutation, as devices take contiguous parts of a batch: each gets some of every source."""
        due, taken = (np.array(shares(counts, number * config.batch_size)) for number in (step + 1, step))
        return np.random.default_rng((config.seed, step)).permutation(np.repeat(np.arange(len(counts)), due - taken))

    taken = shares(counts, step * config.batch_size)
    return datasets.planned_batches(config, sources, step, plan, taken, [1] * len(sources))


def shares(counts: list[int], examples: int) -> list[int]:
    """Number of examples from each source among the first examples of a mixed stream.

    Args:
        counts: size of each source, to which its share is proportional.
        examples: number of examples of the stream.
    """
    taken = []
    for number, count in enumerate(counts):
        taken.append((examples - sum(taken)) * count // sum(counts[number:]))
    return taken


def unlabelled_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """Padded batches of `preprocess_unlabelled` from the train split of the data set `name`, in order."""
    split = datasets.Split(_open(config, name), "train")
    return datasets.eval_batches(config, split, functools.partial(preprocess_unlabelled, size=config.model.image_size))


def is_labelled(config: ml_collections.ConfigDict, name: str) -> bool:
    """Whether config.data.pseudo_labels contains the pseudo-labels of the data set `name`."""
    return prepared_data.newest_version(pseudo_labels.dataset_name(name), config.data.pseudo_labels) is not None


def write_labels(config: ml_collections.ConfigDict, name: str, labels: dict[str, np.ndarray]) -> None:
    """Writes pseudo-labels to config.data.pseudo_labels, on the first host only."""
    folder = config.data.pseudo_labels
    with hosts.process_zero_first(f"write {folder} {name}"):
        if not is_labelled(config, name):
            pseudo_labels.write(name, folder, labels)


def count_examples(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Numbers of labelled and unlabelled training examples. Raises UserError for a missing or empty data set."""
    totals = []
    for names in (config.data.datasets, config.data.unlabelled):
        splits = {name: _open(config, name).info.splits for name in names}
        counts = {name: split["train"].num_examples if "train" in split else 0 for name, split in splits.items()}
        empty = [name for name, count in counts.items() if not count]
        if empty:
            raise UserError(f"data set {empty[0]} has no example in its split train; choose another one")
        totals.append(sum(counts.values()))
    return totals[0], totals[1]


def open_unlabelled(config: ml_collections.ConfigDict, name: str) -> tuple[stream.Builder, stream.Builder]:
    """The unlabelled data set `name` and the data set of its pseudo-labels. Raises UserError if one is missing."""
    unlabelled = _open(config, name)
    return unlabelled, stream.open_dataset(pseudo_labels.dataset_name(name), config.data.pseudo_labels)


def _open(config: ml_collections.ConfigDict, name: str) -> stream.Builder:
    return datasets.open_dataset(config.data, name, config.model.image_size)
