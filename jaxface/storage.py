"""Folders of this machine and of Google Cloud Storage buckets, `gs://BUCKET/FOLDER` (extra `gcs`).

Work directories and prepared data sets may lie in a bucket. It is reached through etils' epath and gcsfs, and by Orbax.
An object is written as a whole: nothing is appended to it, and a reader never sees half of it. There are no locks.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, cast

from jaxface.errors import UserError, disk_errors, is_remote, local_path

SCHEME = "gs://"
MARKER = ".folder"
# Characters that gcsfs and Orbax take for patterns.
PATTERN_CHARACTERS = frozenset("*?[]\\")


def path(folder: str | os.PathLike, name: str = "") -> pathlib.Path:
    """`folder` of this machine or of a bucket; the latter is an epath.Path, which has the same methods.

    Only what epath offers may be used: no `resolve`, `rglob` or `open(errors=...)`, and no function of another library
    that opens a file by its name.

    Args:
        folder: the path.
        name: the flag that it was given for, for messages.

    Raises:
        UserError: another kind of remote path, a missing extra `gcs`, or a bucket that cannot be reached.
    """
    text = os.fspath(folder)
    if not text.lower().startswith(SCHEME):
        return local_path(folder, name)
    where = f"{name} {text}" if name else text
    bucket, _, inside = text[len(SCHEME) :].partition("/")
    if not bucket or ".." in inside.split("/") or PATTERN_CHARACTERS & set(text):
        raise UserError(f"{where}: not the name of a folder in a bucket; give gs://BUCKET/FOLDER without * ? [ ] \\")
    reason = _unreachable(bucket)
    if reason:
        raise UserError(f"{where}: {reason}")
    from etils import epath

    return cast(pathlib.Path, epath.Path(SCHEME + text[len(SCHEME) :].rstrip("/")))


@functools.cache
def _unreachable(bucket: str) -> str:
    """Why a bucket cannot be used, and what to do; "" if it can be. Its first use selects gcsfs for epath."""
    # Without this epath imports TensorFlow, wherever it is installed.
    os.environ.setdefault("EPATH_USE_TF", "false")
    try:
        import fsspec

        # Orbax writes past gcsfs, which would answer from listings that it keeps.
        fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
        files = fsspec.filesystem("gcs", finalize_on_close=True)
    except ImportError:
        return "a bucket needs the package gcsfs; run: pip install 'jaxface[gcs]', or give a folder of a mounted bucket"
    try:
        files.info(bucket)
    except Exception as error:  # Those of gcsfs, aiohttp and google-auth have no common base.
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "check its name and the access of this machine (gcloud auth application-default login)"
        return f"the bucket cannot be reached ({reason[:200]}); {hint}"
    return ""


def make_folder(folder: pathlib.Path) -> None:
    """Creates a folder; in a bucket, which has folders only as parts of names, by an empty file in it."""
    if is_remote(folder):
        if not folder.exists():
            (folder / MARKER).write_text("")
        return
    folder.mkdir(parents=True, exist_ok=True)


def write_text(target: pathlib.Path, text: str) -> None:
    """Writes a file atomically. Its folder exists."""
    if is_remote(target):
        target.write_text(text)
        return
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text)
    partial.replace(target)


def files(folder: pathlib.Path, inside: str = "") -> list[str]:
    """The paths of all files below `folder`/`inside`, relative to `folder`, sorted."""
    found: list[str] = []
    for entry in (folder / inside).iterdir():
        name = f"{inside}/{entry.name}".lstrip("/")
        if entry.is_dir():
            found += files(folder, name)
        else:
            found.append(name)
    return sorted(found)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies all files below a folder into another folder, from or to a bucket."""
    for name in files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Renames a folder. In a bucket its files are copied, because gcsfs cannot be relied on to move folders."""
    if not is_remote(source):
        source.rename(target)
        return
    copy(source, target)
    remote: Any = source
    remote.rmtree()


@contextlib.contextmanager
def staged(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local folder for functions that need one: `target` itself, or a temporary folder that is copied to it."""
    if not is_remote(target):
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="jaxface-") as folder:
        yield pathlib.Path(folder)
        with disk_errors(target):
            copy(pathlib.Path(folder), target)


def local_copy(folder: pathlib.Path) -> pathlib.Path:
    """`folder` itself, or for one in a bucket its copy below `$XDG_CACHE_HOME`/jaxface/gs (default: ~/.cache).

    A copy is made once, and anew after the names or sizes of the files have changed.
    """
    if not is_remote(folder):
        return folder
    remote: Any = folder
    sizes = {name: (remote / name).stat().length for name in files(folder)}
    version = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxface" / "gs"
    target = cache / os.fspath(folder)[len(SCHEME) :] / version
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(target), tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            copy(folder, pathlib.Path(partial) / "copy")
            # Another process may have been faster.
            with contextlib.suppress(OSError):
                (pathlib.Path(partial) / "copy").rename(target)
    return target
