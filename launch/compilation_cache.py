"""The persistent compilation cache of all jobs: what one run compiled, the next one loads."""

import contextlib
import hashlib
import os
import pathlib
import platform

import jax
import jaxlib
from absl import flags

ENABLED = flags.DEFINE_bool(
    "compilation_cache", True, "keep compiled programs in the user's cache folder (JAX_COMPILATION_CACHE_DIR: another)"
)
MAX_BYTES = 4 * 2**30
# Lines of /proc/cpuinfo that list the instructions of a processor, on x86 and on ARM.
CPU_FEATURES = ("flags", "Features")


def enable() -> None:
    """Turns the cache on for this process, unless `--nocompilation_cache` is given or the user has set one for JAX.

    The folder is `jaxface` in `$XDG_CACHE_HOME` or `~/.cache`. It is used if it can be written to. The oldest programs
    are removed when all together exceed `MAX_BYTES`.
    """
    if not flags.FLAGS.is_parsed():
        return
    if not ENABLED.value:
        jax.config.update("jax_enable_compilation_cache", False)
    if not ENABLED.value or jax.config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, or one that cannot be written to
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxface"
        folder = root / f"{jaxlib.__version__}-{_machine()}"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            _remove_oldest(root)
            jax.config.update("jax_compilation_cache_dir", str(folder))


def _machine() -> str:
    """A name of this kind of processor: programs for CPUs use its instructions, and may lie in a shared home folder."""
    features = [platform.machine()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        features += {line for line in file if line.startswith(CPU_FEATURES)}
    return hashlib.sha256("".join(sorted(features)).encode()).hexdigest()[:12]


def _remove_oldest(root: pathlib.Path) -> None:
    """Removes the files of programs that were written first, until the rest is smaller than half of `MAX_BYTES`."""
    files = [(status.st_mtime, status.st_size, path) for path in root.glob("*/*") for status in [path.stat()]]
    total = sum(size for _, size, _ in files)
    if total <= MAX_BYTES:
        return
    for _, size, path in sorted(files):
        if total <= MAX_BYTES / 2:
            return
        path.unlink(missing_ok=True)
        total -= size
