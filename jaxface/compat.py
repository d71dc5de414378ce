"""Workdirs and shipped files written by earlier versions of jaxface, read under today's names.

This is the only place that knows the earlier names. Nothing is rewritten on disk.
"""

from collections.abc import Iterable
from typing import Any

# Earlier name of the checkpoint item (and of the array prefix in a shipped file) that holds batch statistics.
_EARLIER_ITEMS = {"model_state": "extra"}
# Earlier names of the folder of a workdir that holds copies of the runs that it depends on.
EARLIER_DEPENDENCIES = ("frozen",)


def saved_item(name: str, saved: Iterable[str]) -> str:
    """The name under which a checkpoint with the items `saved` stores the item that is now called `name`."""
    earlier = _EARLIER_ITEMS.get(name)
    return earlier if earlier in set(saved) else name


def current_item(saved: str) -> str:
    """Today's name of the checkpoint item `saved`."""
    return next((name for name, earlier in _EARLIER_ITEMS.items() if earlier == saved), saved)


def asset_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of a shipped file by path, an earlier prefix replaced by today's."""
    for name, earlier in _EARLIER_ITEMS.items():
        arrays = {_replaced(path, f"{earlier}/", f"{name}/"): value for path, value in arrays.items()}
    return arrays


def _replaced(path: str, earlier: str, prefix: str) -> str:
    return prefix + path.removeprefix(earlier) if path.startswith(earlier) else path
