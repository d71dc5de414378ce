"""Values of results that are computed when they are read.

A dataclass declares `name: Type | None = deferred_field()`. Its instances may be given a `Deferred` for the field;
reading the field gives the computed value. The standard library does not have this: `functools.cached_property` can be
neither a field nor an argument of the constructor.
"""

import threading
from collections.abc import Callable
from typing import Any


class Deferred:
    """A value that is computed by the first call, once; the others return it. Safe to call from several threads.

    Pickling and deep copying compute the value and store it in place of this object. What `compute` refers to is
    released as soon as the value is known; if it raises, the next call tries again.

    Args:
        compute: returns the value.
    """

    def __init__(self, compute: Callable[[], Any]):
        self._compute: Callable[[], Any] | None = compute
        self._value: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            if self._compute is not None:
                self._value = self._compute()
                self._compute = None
            return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        return _computed, (self(),)


def _computed(value: Any) -> Any:
    return value


def deferred_field() -> Any:
    """The default None of a dataclass field that may hold a `Deferred`."""
    return _DeferredField()


def stored(instance: Any, name: str) -> Any:
    """What a field declared by `deferred_field` holds, without computing it: for another instance of the dataclass."""
    return vars(instance)[name]


class _DeferredField:
    """A descriptor-typed field: https://docs.python.org/3/library/dataclasses.html#descriptor-typed-fields."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return None  # the default, which `dataclasses` reads from the class
        value = vars(instance)[self._name]
        return value() if isinstance(value, Deferred) else value

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value
