"""Work in threads: on all cores, or ahead of the consumer."""

import collections
import concurrent.futures
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# More would need much memory: each may hold the activations of a network.
MAX_THREADS = 8

_thread = threading.local()


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], computed by `num_threads` threads.

    The threads are shared and live on, so that what a function keeps in thread-local storage is made once. A call
    inside of `function` runs one item after another: waiting for threads that wait for it would never end.
    """
    items = list(items)
    if len(items) < 2 or getattr(_thread, "is_worker", False):
        return [function(item) for item in items]
    return list(_workers().map(function, items))


@functools.cache
def _workers() -> concurrent.futures.ThreadPoolExecutor:
    def start() -> None:
        _thread.is_worker = True

    return concurrent.futures.ThreadPoolExecutor(num_threads(), "jaxface", start)


# The threads of a process do not exist in its forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)


def num_threads() -> int:
    """The number of threads of `in_threads`: one for each core that this process may use, at most MAX_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


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
