"""Shared by all jobs: process settings, flags, `--help`, and one line on stderr for a user's mistake."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import pathlib
import re
import signal
import sys
import textwrap
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

# TensorFlow, XLA, gRPC and OpenCV read these when they are loaded; the user's own settings win.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow only reads data here; with oneDNN it prints a notice on some processors, whatever the level.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# With it epath would reach buckets through TensorFlow, wherever that is installed, instead of gcsfs.
os.environ.setdefault("EPATH_USE_TF", "false")

import jax
import jaxlib
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from tqdm import tqdm

from jaxface import compat, hosts, interrupts, parallel, storage
from jaxface.errors import UserError, local_path, shortened

from . import INTERRUPTED, STOPPED, compilation_cache, stop_at_once

# XLA's default convolution on CPUs leaves cores idle where channels are few; this flag selects the other one. Other
# versions of jaxlib abort on a flag that they do not know. Flags that the user set come later and win.
if jaxlib.version.__version_info__[:2] == (0, 10):
    NO_YNN = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    os.environ["XLA_FLAGS"] = f"{NO_YNN} {os.environ.get('XLA_FLAGS', '')}".strip()

# On CPUs glibc returns the buffers of every step to the kernel, which clears them again page by page: a quarter of a
# training step. With these settings one arena keeps its memory. Other C libraries have no `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    for parameter, setting in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(parameter, setting)

# `configs/` of the checkout, `jaxface/configs/` where the package is installed.
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
INSTALLED = __package__ != "launch"
# Optional packages and the extra that installs each (setup.cfg).
EXTRAS = {
    "apache_beam": "beam",
    "h5py": "bfm",
    "libtpu": "tpu",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "tensorflow": "data",
    "tensorflow_datasets": "data",
    "torch": "torch",
    "viser": "viewer",
}
FLAGS = flags.FLAGS
HELP = ("-h", "-help", "--help")
HELP_WIDTH = 110
# Flags that name a workdir, which may lie in a bucket.
WORKDIR_FLAGS = ("workdir", "round0", "identity")
TERMINATED = 143  # exit status after SIGTERM


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(argv)` under absl and exits with its status.

    A `UserError`, a missing optional package and a wrong flag become `error: …` on stderr and exit status 2, Ctrl-C
    becomes a line and exit status 130.
    """
    set_up_logging()
    for stream in (sys.stdout, sys.stderr):
        # File names may hold characters that the terminal's encoding does not have.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if any(argument in HELP for argument in sys.argv[1:]):
        print(help_text(sys.modules[main.__module__].__doc__ or ""))
        sys.exit(0)
    sys.argv[1:] = resolve_config_paths(sys.argv[1:])
    app.run(functools.partial(_run_to_the_end, main), flags_parser=_parse)


def _run_to_the_end(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """As `call`; what Python and its libraries do until the process has ended is not interrupted by Ctrl-C."""
    status = call(main, argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def call(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """The exit status of `main(argv)`, see `_status`. A process that other hosts wait for ends at once if it failed."""
    try:
        with hosts.losses_end_the_process():
            status = _status(main, argv)
    except Exception:
        if hosts.connected():
            traceback.print_exc()
            _end(1)
        raise
    if hosts.connected() and status not in (None, 0, TERMINATED):
        _end(status)
    hosts.leave()
    return status


def _end(status: int) -> None:
    """Ends the process without the handlers of JAX, which wait for the other hosts; these then end as well."""
    hosts.fail(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """The exit status of `main(argv)`.

    Prints a UserError, an error of the operating system or a missing optional package and returns 2; after Ctrl-C
    returns 130.
    """
    if not FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)
    compilation_cache.enable()
    outside = signal.signal(signal.SIGINT, _interrupt)
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}; see --help")
        _check_paths()
        return main(argv)
    except UserError as error:
        return fail(commands(str(error)))
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        return stop.code
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or STOPPED, file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        return fail(f"{shortened(str(error.filename))}: {error.strerror}; check the path and who may use it")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return fail(f"{job_name(main)} needs {package}; run: pip install 'jaxface[{EXTRAS[package]}]'")
    finally:
        signal.signal(signal.SIGINT, outside)


def _check_paths() -> None:
    """Raises UserError for a flag with a remote path that the jobs cannot read or write."""
    for name, value in FLAGS.flag_values_dict().items():
        check = storage.path if name in WORKDIR_FLAGS else local_path
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str):
                check(path, f"--{name}")


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    """Handler of Ctrl-C while a job runs: raises KeyboardInterrupt, or ends the process where that could crash it."""
    if interrupts.inside_jax(frame):
        interrupts.remove_temporary_files()
        stop_at_once()
    signal.default_int_handler(number, frame)


class _LineHandler(logging.Handler):
    """Writes records as plain lines on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(prefix + record.getMessage(), file=sys.stderr)


def set_up_logging() -> None:
    """Shows the messages of jaxface as plain lines and silences what libraries print about their own work."""
    logger = logging.getLogger("jaxface")
    logger.handlers, logger.level, logger.propagate = [_LineHandler()], logging.INFO, False
    # Orbax logs stack traces of errors that it also raises, and that jaxface reports in one line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_orbax)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    # Pillow warns about damaged EXIF data and logs errors that it also raises.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # TFDS prints where and how large a data set is by this function, whatever the level of its logger.
    with contextlib.suppress(ModuleNotFoundError):
        import termcolor

        termcolor.cprint = lambda *_, **__: None


def _is_not_orbax(record: logging.LogRecord) -> bool:
    in_task = record.name == "asyncio" and "orbax" in record.getMessage()
    return not in_task and "orbax" not in pathlib.Path(record.pathname).parts


def fail(message: str) -> int:
    """Prints `error: message` on stderr; returns exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def job_name(main: Callable) -> str:
    """The command of the job of `main`: `launch.train` in a checkout, `jaxface train` where installed."""
    name = pathlib.Path(sys.modules[main.__module__].__file__ or "").stem
    return f"jaxface {name}" if INSTALLED else f"launch.{name}"


def commands(text: str) -> str:
    """`text` with commands as this installation runs them: `jaxface JOB` where the package is installed."""
    return text.replace("python -m launch.", "jaxface ") if INSTALLED else text


def help_text(description: str) -> str:
    """The description of a job and every flag of jaxface; absl's own `--help` shows those of the main module only."""
    by_module = FLAGS.flags_by_module_dict()
    ours = [by_module[name] for name in by_module if name == sys.argv[0] or name.startswith(__package__)]
    by_name = {flag.name: flag for group in ours for flag in group}
    lines = [commands(description).strip(), "", "Flags:"]
    for name in sorted(by_name):
        lines += _flag_lines(by_name[name])
    return "\n".join(lines)


def _flag_lines(flag: flags.Flag) -> list[str]:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    shown = flag.default not in (None, "", False) and "(default" not in (flag.help or "")
    text = f"{flag.help} (default: {flag.default_as_str.strip(chr(39))})" if shown else flag.help or ""
    return [f"  {name}", *textwrap.wrap(text, HELP_WIDTH, initial_indent="      ", subsequent_indent="      ")]


def required(holder: flags.FlagHolder) -> Any:
    """The value of a flag that the job needs. Raises UserError if it is missing."""
    if not holder.value:
        raise UserError(f"--{holder.name}: missing; see --help")
    return holder.value


def define_config() -> flags.FlagHolder:
    """Defines `--config FILE:variant`, whose keys are overridden by `--config.a.b=v`."""
    text = "configs/NAME.py:variant, or NAME:variant of a configuration in the package; --config.a.b=v overrides a key"
    return config_flags.DEFINE_config_file("config", None, text, lock_config=True)


def config(holder: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The configuration of a `--config` flag. Raises UserError if the flag is missing or its file cannot be read."""
    try:
        required(holder).system  # noqa: B018 - ml_collections reports a file that it could not read at the first use
    except (OSError, AttributeError) as error:
        path = FLAGS[holder.name].config_filename
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("[!_]*.py")))
        raise UserError(f"--config: {path} is not a readable configuration; give a file or one of {names}") from error
    return holder.value


def resolve_config_paths(arguments: list[str]) -> list[str]:
    """`arguments` with the value of `--config` as a path that exists: `pipnet:own` -> `.../configs/pipnet.py:own`.

    A path that exists, from the current directory, comes first. Then NAME, NAME.py and configs/NAME.py are files of
    the package; a path in another folder is never replaced.
    """
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in ("-config", "--config"):
            continue
        if equals:
            resolved[index] = f"{name}={_config_path(value)}"
        elif index + 1 < len(arguments):
            resolved[index + 1] = _config_path(arguments[index + 1])
    return resolved


def _config_path(value: str) -> str:
    path, colon, variant = value.partition(":")
    name = pathlib.PurePath(path)
    packaged = CONFIGS / f"{name.name.removesuffix('.py')}.py"
    in_other_folder = name.parent.parts not in ((), ("configs",))
    if in_other_folder or pathlib.Path(path).is_file() or not packaged.is_file():
        return value
    return f"{packaged}{colon}{variant}"


def define_cluster() -> None:
    """Defines the flags by which a process joins the other hosts of a run."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto on SLURM, Kubernetes and Cloud TPU")
    flags.DEFINE_integer("num_processes", 0, "number of processes of the run, with --coordinator HOST:PORT")
    flags.DEFINE_integer("process_id", -1, "index of this process, from 0")


def join_cluster(saves: bool = True) -> None:
    """Initialises jax.distributed from the flags of `define_cluster`; call it before any use of a device.

    A job that `saves` ends by SIGTERM when it has saved; another one at once.
    """
    jax.config.update("jax_enable_preemption_service", saves)
    if not FLAGS.coordinator:
        # A single host needs no Gloo, which prints its ranks on stdout.
        jax.config.update("jax_cpu_collectives_implementation", None)
    parallel.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)


def _parse(argv: list[str]) -> list[str]:
    try:
        return FLAGS(argv)
    except (flags.Error, AttributeError, KeyError) as error:
        sys.exit(fail(_flag_message(error, argv)))


def _flag_message(error: Exception, argv: list[str]) -> str:
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
