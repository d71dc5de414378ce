"""JSON files that may be damaged."""

import json
import os
from typing import Any

from jaxface import storage
from jaxface.errors import UserError, shortened


def read(path: str | os.PathLike, remedy: str, kind: type = dict) -> Any:
    """The content of a JSON file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the message.
        kind: the expected type of the whole, dict or list.

    Raises:
        UserError: the file cannot be read, is not JSON, is nested too deeply, is of another type, or has a name
            twice, of which JSON would keep the last.
    """
    repeated: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in entries if names.count(name) > 1)
        return entries

    try:
        content = json.loads(storage.path(path).read_bytes(), object_pairs_hook=mapping)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error) or "too large"
        raise UserError(f"{path}: damaged, not JSON ({reason}); {remedy}") from error
    if repeated:
        raise UserError(f"{path}: the name {shortened(repeated[0])!r} occurs twice; {remedy}")
    if not isinstance(content, kind):
        expected = "an object {…}" if kind is dict else "a list […]"
        raise UserError(f"{path}: damaged, not {expected}; {remedy}")
    return content
