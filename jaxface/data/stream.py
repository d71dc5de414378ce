"""Prepared data sets as batches: TFDS records read, ordered and batched by tf.data, without iterator checkpoints.

A training batch of all hosts together is a function of (seed, step), whatever their number. Epoch e is the shuffle of
the split, seeded with seed + e; the examples before `step` are skipped while still encoded; each example gets its own
seed from (seed, position). Every host reads all records, but decodes and processes only its own.
"""

import pathlib
import re
from collections.abc import Callable, Iterator

import cv2
import jax
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from jaxface import prepared_data, storage
from jaxface.errors import UserError

Example = dict[str, np.ndarray]
Builder = tfds.core.DatasetBuilder

# TensorFlow only reads files: it must not allocate accelerator memory. The pipeline already uses all cores, so OpenCV
# must not start threads of its own.
tf.config.set_visible_devices([], "GPU")
cv2.setNumThreads(0)

SHUFFLE_BUFFER = 10_000
# What TensorFlow's messages say of its own operations.
OPERATION = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*")
READ_IN_ORDER = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)


def open_dataset(name: str, data_dir: str | pathlib.Path) -> Builder:
    """The newest version of the prepared data set "NAME[/variant]"; one in a bucket is first copied to this machine.

    Raises UserError if it is not prepared, its description is damaged, or record files are missing or too small.
    """
    folder = storage.local_copy(prepared_data.find(name, data_dir))
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises arbitrary exceptions for damaged files
        raise prepared_data.damaged(folder, f"{type(error).__name__}: {error}") from error
    for split in builder.info.splits.values():
        _check_size(folder, split)
    return builder


def _check_size(folder: pathlib.Path, split: tfds.core.SplitInfo) -> None:
    """Raises UserError if the files of a split are smaller than its records: TensorFlow takes an empty file for none.

    A file that only lost its end is found while it is read.
    """
    names = [path.name for path in split.filepaths]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise prepared_data.damaged(folder, f"{missing[0]} is missing")
    size = sum((folder / name).stat().st_size for name in names)
    if size < split.num_bytes:
        raise prepared_data.damaged(folder, f"its split {split.name!r} has {size} of {int(split.num_bytes)} bytes")


def train_stream(
    builder: Builder,
    split: str,
    batch_size: int,
    seed: int,
    first: int,
    process: Callable[[Example, int], Example],
    overlay: Builder | None = None,
    mine: Callable[[], Iterator[np.ndarray]] | None = None,
) -> Iterator[Example]:
    """Endless training batches of this host.

    Args:
        builder: the prepared data set.
        split: its split.
        batch_size: examples per batch on this host.
        seed: seed of order and augmentation.
        first: position of the first example in the endless stream of all hosts.
        process: (decoded example, seed) -> arrays of fixed shapes, deterministically.
        overlay: a data set with further features of the same examples in the same order, which are added to the
            examples' features or replace them (pseudo-labels).
        mine: () -> iterator of bool arrays (any length), whether this host takes the examples from `first` on; None:
            it takes all.

    Raises:
        UserError: unknown split, or an unreadable record, which is named.
    """

    def process_seeded(example: Example, position: int) -> Example:
        return process(example, _example_seed(seed, position))

    reader = _Reader(builder, split, process_seeded, overlay)
    count = builder.info.splits[split].num_examples
    records = reader.records(split)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        return records.shuffle(min(count, SHUFFLE_BUFFER), seed=seed + number, reshuffle_each_iteration=False)

    rest_of_epoch = epoch(tf.constant(first // count, tf.int64)).skip(first % count)
    ordered = rest_of_epoch.concatenate(tf.data.Dataset.counter(first // count + 1).flat_map(epoch))
    numbered = tf.data.Dataset.zip((tf.data.Dataset.counter(first), ordered))
    if mine is not None:
        flags = tf.data.Dataset.from_generator(mine, output_signature=tf.TensorSpec((None,), tf.bool)).unbatch()
        numbered = tf.data.Dataset.zip((numbered, flags)).filter(lambda _, own: own).map(lambda record, _: record)
    yield from reader.batches(numbered, batch_size)


def eval_stream(
    builder: Builder, split: str, batch_size: int, process: Callable[[Example], Example]
) -> Iterator[Example]:
    """Each example of this host's part of the split once, in order, in batches with a bool `mask` (B,).

    The last batches are padded with zeros where `mask` is False, so that all hosts yield the same number of batches.

    Args:
        builder: the prepared data set.
        split: its split.
        batch_size: examples per batch on this host.
        process: decoded example -> arrays of fixed shapes.

    Raises:
        UserError: unknown split, or an unreadable record, which is named.
    """
    reader = _Reader(builder, split, lambda example, position: process(example))
    parts = tfds.even_splits(split, n=jax.process_count(), drop_remainder=False)
    counts = [builder.info.splits[part].num_examples for part in parts]
    missing = -(-max(counts) // batch_size)
    if counts[jax.process_index()]:  # TFDS refuses to read an empty part
        records = reader.records(parts[jax.process_index()])
        numbered = tf.data.Dataset.zip((tf.data.Dataset.counter(), records))
        for batch in reader.batches(numbered, batch_size, drop_remainder=False):
            missing -= 1
            yield _pad(batch, batch_size)
    empty = {name: np.zeros((0, *array.shape), array.dtype) for name, array in reader.probe.items()}
    for _ in range(missing):
        yield _pad(empty, batch_size)


class _Reader:
    """Reader of one split, whose errors name the unreadable record."""

    def __init__(
        self,
        builder: Builder,
        split: str,
        process: Callable[[Example, int], Example],
        overlay: Builder | None = None,
    ):
        if split.split("[")[0] not in builder.info.splits or not builder.info.splits[split].num_examples:
            raise UserError(
                f"data set {builder.info.full_name} has no split {split!r}; it has {list(builder.info.splits)}"
            )
        if overlay is not None and overlay.info.splits[split].num_examples != builder.info.splits[split].num_examples:
            raise UserError(f"{overlay.data_path}: not of this version of {builder.info.full_name}; remove it")
        self._builder, self._split, self._process, self._overlay = builder, split, process, overlay
        features = builder.info.features
        self._images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        self._failure: Exception | None = None
        index, example = next(self._guarded(self.records(split).take(1)))
        self._structure = example
        self.probe = self._processed(index, 0, example)

    def records(self, part: str | tfds.core.ReadInstruction) -> tf.data.Dataset:
        """(number within the part, record with its images still encoded), in the order on disk."""
        skipped = {name: tfds.decode.SkipDecoding() for name in self._images}
        records = self._builder.as_dataset(split=part, decoders=skipped, read_config=READ_IN_ORDER)
        if self._overlay is not None:
            overlay = self._overlay.as_dataset(split=part, read_config=READ_IN_ORDER)
            records = tf.data.Dataset.zip((records, overlay)).map(lambda record, features: {**record, **features})
        return records.enumerate()

    def batches(self, numbered: tf.data.Dataset, batch_size: int, drop_remainder: bool = True) -> Iterator[Example]:
        """Processed examples in batches, from (position in the stream, element of `records`)."""
        names = sorted(self.probe)

        def call(index: np.ndarray, position: np.ndarray, *leaves: np.ndarray) -> list[np.ndarray]:
            example = tf.nest.pack_sequence_as(self._structure, leaves)
            try:
                processed = self._processed(int(index), int(position), example)
            except Exception as error:
                self._failure = self._failure or error  # TensorFlow would turn it into a text
                raise
            return [processed[name] for name in names]

        def process_record(position: tf.Tensor, record: tuple) -> dict[str, tf.Tensor]:
            index, example = record
            types = [tf.as_dtype(self.probe[name].dtype) for name in names]
            arrays = tf.numpy_function(call, [index, position, *tf.nest.flatten(example)], types, stateful=False)
            for name, array in zip(names, arrays, strict=True):
                array.set_shape(self.probe[name].shape)
            return dict(zip(names, arrays, strict=True))

        processed = numbered.map(process_record, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return self._guarded(processed.batch(batch_size, drop_remainder).prefetch(tf.data.AUTOTUNE))

    def _guarded(self, dataset: tf.data.Dataset) -> Iterator:
        """The elements as numpy. Raises UserError naming an unreadable record."""
        try:
            yield from dataset.as_numpy_iterator()
        except tf.errors.OpError as error:
            if self._failure is not None:
                raise self._failure from None
            raise self._unreadable(
                self._first_unreadable(), OPERATION.sub("", error.message.splitlines()[0])
            ) from error

    def _first_unreadable(self) -> int:
        """Number of the split's first record that cannot be read."""
        count = 0
        try:
            for _ in self.records(self._split):
                count += 1
        except tf.errors.OpError:
            return count
        return count

    def _processed(self, index: int, position: int, example: Example) -> Example:
        decoded = dict(example)
        for name in self._images:
            decoded[name] = self._decoded(index, name, example[name])
        return {name: np.asarray(value) for name, value in self._process(decoded, position).items()}

    def _decoded(self, index: int, name: str, encoded: bytes) -> np.ndarray:
        is_rgb = self._builder.info.features[name].shape[-1] == 3
        flag = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if is_rgb else cv2.IMREAD_UNCHANGED
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if len(encoded) else None
        if image is None:
            raise self._unreadable(index, f"feature {name!r} is not an image")
        return image[..., ::-1] if is_rgb else image.reshape(*image.shape[:2], -1)

    def _unreadable(self, index: int, reason: str) -> UserError:
        info = self._builder.info
        return UserError(
            f"data set {info.full_name}, split {self._split!r}: record {index} cannot be read ({reason}); "
            f"prepare the data set again"
        )


def _example_seed(seed: int, position: int) -> int:
    """The seed of the example at `position` of the stream of all hosts."""
    # The zero keeps the seeds of earlier versions, where it was the number of the host.
    return int(np.random.SeedSequence((seed, 0, position)).generate_state(1, np.uint32)[0])


def _pad(batch: Example, batch_size: int) -> Example:
    """The batch padded with zeros to `batch_size`, and its `mask`."""
    count = len(next(iter(batch.values())))
    widths = {name: [(0, batch_size - count)] + [(0, 0)] * (array.ndim - 1) for name, array in batch.items()}
    padded = {name: np.pad(array, widths[name]) for name, array in batch.items()}
    return {**padded, "mask": np.arange(batch_size) < count}
