"""The entries of a data set, read one by one: what cannot be used is left out and named, the rest is prepared."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NoReturn, TypeVar

import tensorflow_datasets as tfds

from jaxface.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Entry(Generic[T]):
    """One image, face or scan of a data set.

    Attributes:
        name: identifies it to the user.
        read: reads it when it is needed; None if it does not belong to the data set. May raise UserError.
    """

    name: str
    read: Callable[[], T | None]


def unusable(name: str, reason: str) -> Entry:
    """An entry that is known not to be usable before it is read."""

    def read() -> NoReturn:
        raise UserError(reason)

    return Entry(name, read)


def read_each(entries: Iterable[Entry[T]], info: tfds.core.DatasetInfo) -> Iterator[tuple[str, T]]:
    """Yields (name, content) of the entries of a split; those that raise UserError are left out (`leave_out`).

    Raises UserError, with the first reason, if the split has no usable entry.
    """
    failed: dict[str, str] = {}
    count = 0
    for entry in entries:
        try:
            content = entry.read()
        except UserError as error:
            failed[entry.name] = str(error).removeprefix(f"{pathlib.PurePath(entry.name).name}: ")
            continue
        if content is not None:
            count += 1
            yield entry.name, content
    leave_out(info, failed)
    if not count:
        known = list((failed or info.metadata.get("failed", {})).items())
        reasons = "".join(f"; the first one, {name}: {reason}" for name, reason in known[:1])
        raise UserError(f"a split of the data set has no face; check that the files are complete{reasons}")


def leave_out(info: tfds.core.DatasetInfo, problems: Mapping[str, str]) -> None:
    """Adds the reasons of entries that cannot be used, by name, to the "failed" of a data set's metadata."""
    if problems:
        info.metadata["failed"] = {**info.metadata.get("failed", {}), **problems}
