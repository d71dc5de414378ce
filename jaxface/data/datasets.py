"""The data sets "NAME[/variant][:SPLIT]" of a configuration: opened, built on demand, and read as batches."""

import fractions
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from jaxface import hosts, parallel, prepared_data
from jaxface.data import stream
from jaxface.data.prepare import prepare
from jaxface.errors import UserError

# Shares whose pattern would be longer are rounded to fractions with this denominator.
LONGEST_PATTERN = 1000
# (example, seed) -> arrays of fixed shapes.
Process = Callable[[stream.Example, int], stream.Example]


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
    with hosts.process_zero_first(f"prepare {dataset}"):
        if prepared_data.newest_version(dataset, data_dir) is None:
            prepare(dataset, data_dir, examples=examples, size=size)


def concatenate(parts: Sequence[stream.Example]) -> stream.Example:
    """One batch from several with the same keys and shapes."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def train_batches(
    config: ml_collections.ConfigDict, splits: Sequence[Split], step: int, process: Process
) -> Iterator[stream.Example]:
    """`mixed_batches` of equal shares whose examples all have the same shapes."""
    return mixed_batches(config, splits, step, [process] * len(splits))


def mixed_batches(
    config: ml_collections.ConfigDict,
    splits: Sequence[Split],
    step: int,
    processes: Sequence[Process],
    shares: Sequence[float] = (),
    collate: Callable[[Sequence[stream.Example]], stream.Example] = concatenate,
) -> Iterator[stream.Example]:
    """This host's endless training batches, mixed from several splits; in a worker process every n-th of them.

    The splits of the examples follow `mixing_pattern`, so the number of each split's examples in a batch is a function
    of the batch's number and equal on all hosts, and any batch size is possible. Within a batch the examples are
    grouped by split.

    Args:
        config: with `batch_size` (of all hosts together) and `seed`.
        splits: splits to mix.
        step: number of the first batch.
        processes: for each split (example, seed) -> arrays of fixed shapes, as in `stream.train_stream`.
        shares: for each split its share of the examples, in any unit; () for equal shares.
        collate: joins batches of single splits, in the order of `splits`, to one.

    Raises:
        UserError: no splits, or shares that are not one positive number for each split.
    """
    local = parallel.local_batch_size(config.batch_size)
    pattern = mixing_pattern(shares or (1,) * len(splits), len(splits))
    constant = local % len(pattern) == 0
    stride = parallel.input_share().stride

    def counts(number: int) -> np.ndarray:
        """Number of examples of each split in a batch."""
        return _examples_before(pattern, (number + 1) * local) - _examples_before(pattern, number * local)

    def stream_of(number: int) -> Iterator[stream.Example]:
        """Whole batches of a split where every batch has the same composition, otherwise single examples."""
        (builder, split), process, seed = splits[number], processes[number], config.seed + number
        if constant:
            return stream.train_stream(builder, split, counts(0)[number], seed, step, process)
        first = int(_examples_before(pattern, step * local)[number])
        return stream.train_stream(
            builder, split, 1, seed, first, process, counts=lambda later: counts(step + later)[number]
        )

    streams = [stream_of(number) for number in range(len(splits))]
    for batch in itertools.count(step, stride):
        parts = [
            next(one) if constant else concatenate([next(one) for _ in range(count)])
            for one, count in zip(streams, counts(batch), strict=True)
            if count
        ]
        yield collate(parts)


def mixing_pattern(shares: Sequence[float], count: int) -> np.ndarray:
    """The periodic order (P,) int, indices of `count` splits, in which examples are taken from them.

    Each position goes to the split that is furthest behind its share. P is the sum of the shares as coprime integers,
    about LONGEST_PATTERN at most. Raises UserError if they are not `count` positive numbers.
    """
    if count == 0:
        raise UserError("config.data.datasets: empty; name at least one data set")
    if len(shares) != count or not all(math.isfinite(share) and share > 0 for share in shares):
        raise UserError(f"config.data.shares: {tuple(shares)} for {count} data sets; give one positive number for each")
    ratios = [fractions.Fraction(str(share)) for share in shares]
    unit = math.lcm(*(ratio.denominator for ratio in ratios))
    whole = [int(ratio * unit) for ratio in ratios]
    divisor = math.gcd(*whole)
    integers = np.array([number / divisor for number in whole])
    if integers.sum() > LONGEST_PATTERN:
        integers = np.maximum(1, np.rint(LONGEST_PATTERN * integers / integers.sum()))
    integers = integers.astype(int)
    taken, pattern = np.zeros(count, int), []
    for position in range(1, integers.sum() + 1):
        chosen = int(np.argmax(integers * position - taken * integers.sum()))
        taken[chosen] += 1
        pattern.append(chosen)
    return np.array(pattern)


def _examples_before(pattern: np.ndarray, position: int) -> np.ndarray:
    """How many examples of each split come before `position` of a periodic order."""
    periods, rest = divmod(position, len(pattern))
    count = pattern.max() + 1
    return periods * np.bincount(pattern, minlength=count) + np.bincount(pattern[:rest], minlength=count)


def eval_batches(
    config: ml_collections.ConfigDict, split: Split, process: Callable[[stream.Example], stream.Example]
) -> Iterator[stream.Example]:
    """This host's batches of a split, each example once, padded with `mask`; see `stream.eval_stream`."""
    local = parallel.local_batch_size(config.batch_size)
    return stream.eval_stream(split.builder, split.name, local, process)
