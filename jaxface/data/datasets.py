"""The data sets "NAME[/variant][:SPLIT]" of a configuration: opened, built on demand, and read as batches."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from jaxface import parallel, prepared_data
from jaxface.data import stream
from jaxface.data.prepare import prepare
from jaxface.errors import UserError


class Split(NamedTuple):
    """A split of a prepared data set."""

    builder: stream.Builder
    name: str


def open_dataset(data: ml_collections.ConfigDict, dataset: str, size: int) -> stream.Builder:
    """The prepared data set "NAME[/variant]" of `config.data`.

    If the data set is missing and `data.build_examples` is not 0, the first host builds it with that many examples.

    Args:
        data: the configuration's section with the keys `dir` and `build_examples`.
        dataset: "NAME[/variant]".
        size: size of the examples when they are built, `--size` of launch.prepare.

    Raises:
        UserError: the data set is not prepared.
    """
    if data.build_examples:
        _build(dataset, data.dir, data.build_examples, size)
    return stream.open_dataset(dataset, data.dir)


def open_split(data: ml_collections.ConfigDict, name: str, size: int, default: str) -> Split:
    """The split of "NAME[/variant][:SPLIT]", `default` if none is named; arguments and errors as in `open_dataset`."""
    dataset, split = prepared_data.parse_name(name, default)
    return Split(open_dataset(data, dataset, size), split)


@functools.cache
def _build(dataset: str, data_dir: str, examples: int, size: int) -> None:
    with parallel.process_zero_first(f"prepare {dataset}"):
        if prepared_data.newest_version(dataset, data_dir) is None:
            prepare(dataset, data_dir, examples=examples, size=size)


def train_batches(
    config: ml_collections.ConfigDict,
    splits: Sequence[Split],
    step: int,
    process: Callable[[stream.Example, int], stream.Example],
) -> Iterator[stream.Example]:
    """This host's endless training batches, an equal share of each split in every batch.

    Args:
        config: with `batch_size` (of all hosts together) and `seed`.
        splits: splits to mix, in this order within a batch.
        step: number of the first batch.
        process: (example, seed) -> arrays of fixed shape, as in `stream.train_stream`.

    Raises:
        UserError: the batch cannot be divided equally among the splits.
    """
    local = parallel.local_batch_size(config.batch_size)
    share, rest = divmod(local, len(splits))
    if rest:
        raise UserError(
            f"config.batch_size: {local} examples per host do not divide by {len(splits)} data sets; choose a multiple"
        )
    streams = [
        stream.train_stream(builder, split, share, config.seed + number, step, process)
        for number, (builder, split) in enumerate(splits)
    ]
    for parts in zip(*streams, strict=True):
        yield {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def eval_batches(
    config: ml_collections.ConfigDict, split: Split, process: Callable[[stream.Example], stream.Example]
) -> Iterator[stream.Example]:
    """This host's batches of a split, each example once, padded with `mask`; see `stream.eval_stream`."""
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(split.builder, split.name, local, process)
