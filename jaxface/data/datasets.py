"""The data sets that a configuration names: opened, or made where they are tiny, and several of them in one batch."""

import functools
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np

from jaxface import parallel
from jaxface.data import stream
from jaxface.data.prepare import is_prepared, prepare
from jaxface.errors import UserError


def open_set(data: ml_collections.ConfigDict, name: str, size: int) -> stream.Builder:
    """The prepared data set `name` of `config.data`: its keys `dir` and `build_examples`.

    Where build_examples is not 0 and the set is not there, the first host makes one of so many examples of `size`.
    Raises UserError where it is not prepared.
    """
    if data.build_examples:
        _make(name, data.dir, data.build_examples, size)
    return stream.open_dataset(name, data.dir)


@functools.cache
def _make(name: str, folder: str, examples: int, size: int) -> None:
    with parallel.process_zero_first(f"prepare {name}"):
        if not is_prepared(name, folder):
            prepare(name, folder, examples=examples, size=size)


def train_batches(
    builders: Sequence[stream.Builder],
    config: ml_collections.ConfigDict,
    step: int,
    process: Callable[[stream.Example, int], stream.Example],
) -> Iterator[stream.Example]:
    """This host's training batches from `step` on, an equal share of each data set; `process` as in `train_stream`.

    Raises UserError where `config.batch_size` cannot be shared equally.
    """
    share, rest = divmod(parallel.local_batch_size(config.batch_size), len(builders))
    if rest:
        raise UserError(f"a host's batch cannot be shared equally by the {len(builders)} data sets")
    streams = [
        stream.train_stream(builder, "train", share, config.seed + number, step, process)
        for number, builder in enumerate(builders)
    ]
    for parts in zip(*streams, strict=True):
        yield {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
