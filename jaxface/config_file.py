"""The file `config.json` of a workdir: the resolved configuration, written once and read by every other command.

Paths of the runs that a workdir depends on, which lie below its folder `dependencies/`, are stored relative to the
workdir, so that it can be moved.
"""

import json
import os
import pathlib
from typing import Any

import jax
import ml_collections

from jaxface import compat, json_files, storage
from jaxface.errors import UserError, disk_errors, is_remote

NAME = "config.json"
MAX_SHOWN_CHARS = 80
DEPENDENCIES = "dependencies"
_DEPENDENCY_FOLDERS = (DEPENDENCIES, *compat.EARLIER_DEPENDENCIES)


def load(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The configuration that `workdir` was made with, under today's keys; sequences are tuples, paths absolute.

    Raises UserError if the folder is not a workdir or the file is damaged.
    """
    path = storage.path(workdir) / NAME
    try:
        exists = path.parent.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"{str(workdir)[:MAX_SHOWN_CHARS]!r}…: not the name of a folder; give a workdir") from error
    if not exists:
        raise UserError(f"{path.parent}: no such folder; give the workdir of a training run or a converted checkpoint")
    if not path.is_file():
        raise UserError(f"{path.parent}: not a workdir, it has no {NAME}; give that of a training run")
    try:
        values = compat.current_config(_with_tuples(json_files.read(path, "restore the file, or train again")))
        values = {name: _from_workdir(path.parent, value) for name, value in values.items()}
        return ml_collections.ConfigDict(values)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); restore the file, or train again") from error


def write(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved configuration to `workdir`/config.json atomically, on the first host only."""
    if jax.process_index() != 0:
        return
    folder = storage.path(workdir)
    values = {name: _to_workdir(folder, value) for name, value in json.loads(config.to_json()).items()}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        storage.write_text(folder / NAME, json.dumps(values, indent=2) + "\n")


def check_system(workdir: str | os.PathLike, system: str) -> None:
    """Raises UserError if `workdir` belongs to another system than `system`."""
    actual = load(workdir).system
    if actual != system:
        raise UserError(f"{workdir}: a workdir of the system {actual!r}, not {system!r}; choose another --workdir")


def _from_workdir(folder: pathlib.Path, value: Any) -> Any:
    """The path of a dependency, stored relative to `folder`, with `folder` in front; any other value unchanged."""
    prefixes = tuple(f"{name}/" for name in _DEPENDENCY_FOLDERS)
    inside = isinstance(value, str) and value.startswith(prefixes)
    return str(folder / value) if inside else value


def _to_workdir(folder: pathlib.Path, value: Any) -> Any:
    """The path of a dependency relative to `folder`, with forward slashes; any other value unchanged."""
    separator = "/" if is_remote(folder) else os.sep
    prefixes = tuple(f"{folder / name}{separator}" for name in _DEPENDENCY_FOLDERS)
    inside = isinstance(value, str) and value.startswith(prefixes)
    return value[len(f"{folder}{separator}") :].replace(os.sep, "/") if inside else value


def _with_tuples(value: Any) -> Any:
    """JSON has lists only; Flax modules need hashable fields."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
