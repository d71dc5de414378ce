"""What every launcher shares: flags, the system that a configuration names, and one line for a user's mistake."""

import ctypes
import os
import re
import sys
from collections.abc import Callable

import jaxlib
import ml_collections
from absl import app, flags, logging

from jaxface import compat
from jaxface.errors import UserError

# Of XLA's two convolutions for CPUs the default one leaves cores idle where channels are few. Other versions of jaxlib
# end the process at a flag that they do not know; a user's own flags come later and win.
if jaxlib.version.__version_info__[:2] == (0, 10):
    NO_YNN = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    os.environ["XLA_FLAGS"] = f"{NO_YNN} {os.environ.get('XLA_FLAGS', '')}".strip()

# On CPUs glibc gives the buffers of every step back to the system, which then clears them again page by page: a quarter
# of a training step. Here one arena keeps what it has. Other C libraries have no `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(parameter, value)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(argv)` under absl; a `UserError` and a wrong flag become `error: …` on stderr and exit status 2."""

    def guarded(argv: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise UserError(f"unknown argument {argv[1]!r}; see --help")
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    app.run(guarded, flags_parser=_parse)


def config(holder: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The configuration of a `--config` flag. Raises UserError where the flag is missing or its file cannot be read."""
    if holder.value is None:
        raise UserError("needs --config configs/NAME.py:variant")
    try:
        holder.value.system  # noqa: B018 - a file that could not be read is reported at the first use
    except (OSError, AttributeError) as error:
        path = flags.FLAGS[holder.name].config_filename
        raise UserError(f"--config: {path} is no readable configuration; give configs/NAME.py:variant") from error
    return holder.value


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError) as error:
        print(f"error: {_flag_line(error, argv)}", file=sys.stderr)
        sys.exit(2)


def _flag_line(error: Exception, argv: list[str]) -> str:
    """One line about a flag. ml_collections reports an unknown key as an attribute, a failing file as a traceback."""
    if isinstance(error, flags.Error):
        first, *rest = str(error).strip().splitlines()
        last = re.sub(r"^[\w.]+: ", "", rest[-1]) if rest else ""
        return f"{first.removesuffix(' Error whilst parsing config file:')} {last}".strip() + "; see --help"
    for flag in (arg.split("=")[0] for arg in argv):
        renamed = compat.current_key(flag.lstrip("-").removeprefix("config."))
        if renamed is not None:
            return f"{flag}: this key was renamed; use --config.{renamed}"
    first, *hints = str(error).replace("\\n", "\n").replace("\\", "").strip("'\"").splitlines()
    key = re.search(r"\w+$", first.strip("'."))
    wrong = [arg.split("=")[0] for arg in argv if key and key.group() in arg.split("=")[0].split(".")]
    return "; ".join([f"{' '.join(wrong) or first}: the configuration has no such key", *hints])
