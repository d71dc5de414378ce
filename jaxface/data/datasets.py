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
# (batches of single sources, in the order of the sources; all sources of the batch of all hosts) -> one batch.
Collate = Callable[[Sequence[stream.Example], Sequence[int]], stream.Example]


class Split(NamedTuple):
    """A split of a prepared data set."""

    builder: stream.Builder
    name: str


class Source(NamedTuple):
    """Training examples of one kind: a split, their `Process`, and further features as in `stream.train_stream`."""

    split: Split
    process: Process
    overlay: stream.Builder | None = None


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


def concatenate(parts: Sequence[stream.Example], present: Sequence[int] = ()) -> stream.Example:
    """One batch from several with the same keys and shapes."""
    del present
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
    collate: Collate = concatenate,
) -> Iterator[stream.Example]:
    """This host's part of endless training batches, mixed from several splits.

    The splits of the examples follow `mixing_pattern`: the batch of all hosts together is a function of (seed, step),
    and any batch size is possible.

    Args:
        config: with `batch_size` (of all hosts together) and `seed`.
        splits: splits to mix.
        step: number of the first batch.
        processes: for each split (example, seed) -> arrays of fixed shapes, as in `stream.train_stream`.
        shares: for each split its share of the examples, in any unit; () for equal shares.
        collate: joins batches of single splits to one.

    Raises:
        UserError: no splits, or shares that are not one positive number for each split.
    """
    pattern, size = mixing_pattern(shares or (1,) * len(splits), len(splits)), config.batch_size
    local = parallel.local_batch_size(size)
    # Streams of whole batches where every batch has the same composition, otherwise of single examples.
    constant = local % len(pattern) == 0
    groups = np.bincount(np.resize(pattern, local)).tolist() if constant else [1] * len(splits)
    sources = [Source(split, process) for split, process in zip(splits, processes, strict=True)]
    taken = _examples_before(pattern, step * size).tolist()

    def plan(step: int) -> np.ndarray:
        return pattern[(step * size + np.arange(size)) % len(pattern)]

    return planned_batches(config, sources, step, plan, taken, groups, collate)


def planned_batches(
    config: ml_collections.ConfigDict,
    sources: Sequence[Source],
    step: int,
    plan: Callable[[int], np.ndarray],
    taken: Sequence[int],
    groups: Sequence[int],
    collate: Collate = concatenate,
) -> Iterator[stream.Example]:
    """This host's part of endless training batches whose composition follows a plan; in a worker process every n-th.

    Args:
        config: with `batch_size` (of all hosts together) and `seed`.
        sources: sources to mix.
        step: number of the first batch.
        plan: step -> for each position (B,) of the batch of all hosts the number of its source. A host takes the
            positions that follow each other at its place among the hosts.
        taken: for each source its examples before `step`.
        groups: for each source the examples that are made at once; they must divide its number in each part.
        collate: joins batches of single sources to one.
    """
    local, share = parallel.local_batch_size(config.batch_size), parallel.input_share()
    here = slice(share.host * local, (share.host + 1) * local)

    def mine(number: int) -> Iterator[np.ndarray]:
        """For each step, which of the examples of a source this process prepares."""
        own = np.zeros(config.batch_size, bool)
        own[here] = True
        for later in itertools.count(step):
            yield own[plan(later) == number] & ((later - step) % share.stride == 0)

    streams = [
        stream.train_stream(
            source.split.builder,
            source.split.name,
            group,
            config.seed + number,
            first,
            source.process,
            source.overlay,
            functools.partial(mine, number) if share.hosts * share.stride > 1 else None,
        )
        for number, (source, first, group) in enumerate(zip(sources, taken, groups, strict=True))
    ]
    for number in itertools.count(step, share.stride):
        whole = plan(number)
        own = whole[here]
        counts = np.bincount(own, minlength=len(sources))
        parts = [
            concatenate([next(streams[source]) for _ in range(counts[source] // groups[source])])
            for source in np.flatnonzero(counts)
        ]
        yield _arranged(collate(parts, np.unique(whole).tolist()), own)


def _arranged(batch: stream.Example, sources: np.ndarray) -> stream.Example:
    """The batch, grouped by source, in the order of the `sources` (B,) of its positions."""
    places = np.argsort(np.argsort(sources, kind="stable"))
    if (np.diff(places) == 1).all():
        return batch
    return {name: array[places] for name, array in batch.items()}


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
