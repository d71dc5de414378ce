"""Work beside other work: the results of a function, computed in threads ahead of the consumer."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, concurrent.futures.Future[Result]]]:
    """Yields each item with the completed call `function(item)`; up to `count` calls run ahead of the consumer."""
    remaining = iter(items)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        running = collections.deque((item, pool.submit(function, item)) for item in itertools.islice(remaining, count))
        while running:
            item, future = running.popleft()
            concurrent.futures.wait([future])
            running.extend((other, pool.submit(function, other)) for other in itertools.islice(remaining, 1))
            yield item, future


def batches(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Yields lists of `count` items; the last one may be shorter."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, count)):
        yield batch
