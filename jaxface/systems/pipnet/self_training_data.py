"""What self-training reads and writes: unlabelled faces, their pseudo-labels, and both kinds of faces mixed.

Like `data` this loads TensorFlow.
"""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np

from jaxface import crops, parallel
from jaxface.data import datasets, pseudo_labels, stream
from jaxface.data.prepare import is_prepared
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.system import Batch
from jaxface.systems.pipnet import data
from jaxface.systems.pipnet.losses import TASKS

Example = dict[str, np.ndarray]


def preprocess_unlabelled(example: Example, size: int) -> Example:
    """The crop of a face without labels: image, and its `corner` and `extent` (2,) px in the picture of the record."""
    if "crop" in example:
        corner, extent = example["crop"][:2], example["crop"][2:] - example["crop"][:2]
        image = data.resized(example, size)
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
    """Batches of a round of self-training: labelled examples and unlabelled ones with the labels of the last model.

    Every example of config.data.datasets and config.data.unlabelled is seen equally often, and each batch holds them in
    proportion to their numbers. Where config.data.task is not "std", `task` says which examples teach that (`TASKS`).
    """
    process = functools.partial(data.preprocess_train, size=config.model.image_size, flip=data.flip_map(config))
    task = TASKS.index(config.data.task)

    def tagged(example: Example, seed: int, task: int) -> Example:
        return {**process(example, seed), "task": np.int32(task)}

    labelled = [(data.open_labelled(config, name), None, 0) for name in config.data.datasets]
    found = [(*open_unlabelled(config, name), task) for name in config.data.unlabelled]
    sources = labelled + found
    counts = [builder.info.splits["train"].num_examples for builder, _, _ in sources]
    local = parallel.local_batch_size(config.batch_size)
    taken = shares(counts, step * local)
    streams = [
        stream.train_stream(
            builder, "train", 1, config.seed + number, taken[number], functools.partial(tagged, task=teaches), beside
        )
        for number, (builder, beside, teaches) in enumerate(sources)
    ]
    while True:
        due = shares(counts, (step + 1) * local)
        examples = [next(one) for one, a, b in zip(streams, taken, due, strict=True) for _ in range(b - a)]
        # Devices take their parts of a batch in order: each should get some of everything.
        order = np.random.default_rng((config.seed, step)).permutation(local)
        kept = [name for name in examples[0] if task or name != "task"]
        yield {name: np.concatenate([examples[i][name] for i in order]) for name in kept}
        step, taken = step + 1, due


def shares(counts: list[int], examples: int) -> list[int]:
    """How many of the first `examples` examples of a mixed stream come from each source of `counts` examples."""
    taken = []
    for number, count in enumerate(counts):
        taken.append((examples - sum(taken)) * count // sum(counts[number:]))
    return taken


def unlabelled_stream(config: ml_collections.ConfigDict, name: str) -> Iterator[Batch]:
    """The train split of the data set `name` in order, padded, as `preprocess_unlabelled` makes it."""
    process = functools.partial(preprocess_unlabelled, size=config.model.image_size)
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(datasets.open_set(config.data, name, config.model.image_size), "train", local, process)


def is_labelled(config: ml_collections.ConfigDict, name: str) -> bool:
    """Whether the pseudo-labels of the data set `name` lie in config.data.pseudo_labels."""
    return is_prepared(pseudo_labels.dataset_name(name), config.data.pseudo_labels)


def write_labels(config: ml_collections.ConfigDict, name: str, labels: dict[str, np.ndarray]) -> None:
    """Writes them there; with several hosts, the first of them does."""
    folder = config.data.pseudo_labels
    with parallel.process_zero_first(f"write {folder} {name}"):
        if not is_labelled(config, name):
            pseudo_labels.write(name, folder, labels)


def count_examples(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """(labelled, unlabelled) examples to train on. UserError where a set is missing or has none."""
    sums = []
    for names in (config.data.datasets, config.data.unlabelled):
        splits = {name: datasets.open_set(config.data, name, config.model.image_size).info.splits for name in names}
        empty = [name for name, one in splits.items() if "train" not in one or not one["train"].num_examples]
        if empty:
            raise UserError(f"data set {empty[0]} has no example in its split train")
        sums.append(sum(one["train"].num_examples for one in splits.values()))
    return sums[0], sums[1]


def open_unlabelled(config: ml_collections.ConfigDict, name: str) -> tuple[stream.Builder, stream.Builder]:
    """The unlabelled data set `name` and its pseudo-labels. UserError where one of them is not there."""
    found = pseudo_labels.dataset_name(name)
    return datasets.open_set(config.data, name, config.model.image_size), stream.open_dataset(
        found, config.data.pseudo_labels
    )
