"""Data of self-training: unlabelled faces, their pseudo-labels, and batches that mix labelled and unlabelled faces.

Like `data` this loads TensorFlow.
"""

import functools
import itertools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import crops, hosts, parallel, prepared_data
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
    unlabelled_task = TASKS.index(config.data.task)

    def process_tagged(example: Example, seed: int, task: int) -> Example:
        return {**process(example, seed), "task": np.int32(task)}

    standard = TASKS.index("std")
    labelled = [(data.open_labelled(config, name, "train").builder, None, standard) for name in config.data.datasets]
    unlabelled = [(*open_unlabelled(config, name), unlabelled_task) for name in config.data.unlabelled]
    sources = labelled + unlabelled
    counts = [builder.info.splits["train"].num_examples for builder, _, _ in sources]
    local = parallel.local_batch_size(config.batch_size)

    def stream_of(number: int) -> Iterator[Batch]:
        builder, overlay, task = sources[number]
        tagged = functools.partial(process_tagged, task=task)
        first = shares(counts, step * local)[number]
        return stream.train_stream(
            builder,
            "train",
            1,
            config.seed + number,
            first,
            tagged,
            overlay,
            lambda later: due(step + later)[number],
        )

    def due(batch: int) -> list[int]:
        """Number of examples of each source in a batch."""
        ends, starts = shares(counts, (batch + 1) * local), shares(counts, batch * local)
        return [end - start for end, start in zip(ends, starts, strict=True)]

    streams = [stream_of(number) for number in range(len(sources))]
    for batch in itertools.count(step, parallel.input_share().stride):
        examples = [next(source) for source, count in zip(streams, due(batch), strict=True) for _ in range(count)]
        # Devices take contiguous parts of a batch: the permutation gives each of them some of every source.
        order = np.random.default_rng((config.seed, batch)).permutation(local)
        names = [name for name in examples[0] if unlabelled_task != standard or name != "task"]
        yield {name: np.concatenate([examples[i][name] for i in order]) for name in names}


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
