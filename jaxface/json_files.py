"""JSON files that may be damaged."""

import json
import os
import pathlib
from typing import Any

from jaxface.errors import UserError


def read(path: str | os.PathLike, remedy: str, kind: type = dict) -> Any:
    """The content of a JSON file, with or without a byte order mark.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the message.
        kind: the expected type of the whole, dict or list.

    Raises:
        UserError: the file cannot be read, is not JSON, is nested too deeply, or is of another type.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error) or "too large"
        raise UserError(f"{path}: damaged, not JSON ({reason}); {remedy}") from error
    if not isinstance(content, kind):
        expected = "an object {…}" if kind is dict else "a list […]"
        raise UserError(f"{path}: damaged, not {expected}; {remedy}")
    return content
