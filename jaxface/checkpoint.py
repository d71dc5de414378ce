"""The one seam to Orbax: saving and restoring train states, and the files of a workdir that other commands read.

A workdir holds `config.json`, `checkpoints/<step>/` and, below `dependencies/`, what it took from other workdirs. Every
checkpoint carries the CRC-32 of each array: Orbax does not notice a flipped bit. A step that cannot be read is renamed
`<step>.damaged`, but only once an older one has been read: when none can be read, the configuration is the likelier
cause than the disk, and nothing is touched.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from jaxface import compat, parallel
from jaxface.errors import UserError
from jaxface.system import TrainState

Tree = Any
Path = str | os.PathLike

PARTS = ("step", "params", "model_state", "opt_state", "ema")
BEST = "best"
DEPENDENCIES = "dependencies"
_DEPENDENCY_PREFIXES = tuple(f"{name}/" for name in (DEPENDENCIES, *compat.EARLIER_DEPENDENCIES))
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """False for what Orbax logs: stack traces of errors that it raises as well, and that are told here in a line."""
    in_task = record.name == "asyncio" and "orbax" in record.getMessage()
    return not in_task and "orbax" not in pathlib.Path(record.pathname).parts


for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_is_not_orbax)
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
LOG = logging.getLogger(__name__)


class Checkpoints:
    """Asynchronous saves into one workdir: the newest `keep` steps stay, and the one of the lowest metric.

    A context manager; leaving it waits for the last save. Raises UserError in one line where the disk is full or
    read-only: what was saved before stays readable.
    """

    def __init__(self, workdir: Path, keep: int):
        policies = ocp.training.preservation_policies
        lowest = policies.BestN(
            get_metric_fn=lambda metrics: metrics[BEST], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        self._folder = _folder(workdir)
        with disk_errors(self._folder):
            self._checkpointer = ocp.training.Checkpointer(
                self._folder.absolute(),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), lowest]),
                cleanup_tmp_directories=True,
            )

    def save(self, state: TrainState, metric: float | None = None) -> None:
        """Starts saving `state` (replicated) under its step; a step that is there already is left alone.

        `metric` is the value by which the best step is chosen, lower is better; None or not finite: not a candidate.
        """
        step = int(parallel.to_host(state.step))
        if step in [saved.step for saved in self._checkpointer.checkpoints]:
            return
        metrics = {BEST: float(metric)} if metric is not None and np.isfinite(metric) else None
        items = jax.tree.map(jnp.asarray, _items(state))
        with disk_errors(self._folder):
            self._checkpointer.save_checkpointables_async(
                step,
                parallel.to_global(items),
                force=True,
                metrics=metrics,
                custom_metadata={"checksums": _checksums(items)},
            )

    def wait(self) -> None:
        """Returns once everything is on the disk."""
        with disk_errors(self._folder):
            self._checkpointer.wait()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            with disk_errors(self._folder):
                self._checkpointer.close()
        else:
            # The error on its way out says more than a save that fails for the same reason.
            with contextlib.suppress(Exception):
                self._checkpointer.close()


def restore(workdir: Path, like: TrainState, set_aside: bool = True) -> TrainState | None:
    """The newest readable state of `workdir` as numpy arrays, or None where nothing was ever saved.

    `like` gives structure, shapes and dtypes. Damaged newer steps are named in a warning and, with `set_aside`,
    renamed. All hosts call this and get the same step. Raises UserError when there are checkpoints and none can be
    read; then nothing is touched.
    """
    found = steps(workdir)
    damaged: dict[int, str] = {}
    for step in found:
        state, reason = _read_agreed(_folder(workdir) / str(step), like)
        if state is not None:
            if set_aside:
                _set_aside(workdir, damaged)
            return state
        LOG.warning("checkpoint passed over, %s", reason)
        damaged[step] = reason
    if not found:
        return None
    raise UserError(
        f"none of the checkpoints in {_folder(workdir)} can be read ({damaged[found[0]]}); "
        "does the configuration differ from the one they were saved with? Nothing was changed there"
    )


def load_params(workdir: Path) -> tuple[Tree, Tree]:
    """(params, model_state) for inference, as numpy arrays: of the best step where config.best is set, else the newest.

    Parameters are the moving average where one is kept. Needs no optimizer and changes nothing on the disk; a damaged
    step is passed over with a warning. Raises UserError where there is no workdir, no config.json or no readable
    checkpoint.
    """
    config = load_config(workdir)
    found = steps(workdir)
    if config.get(BEST):
        found.sort(key=lambda step: _metric(workdir, step))
    reason = "there is none; train first, or convert a checkpoint"
    for step in found:
        try:
            return _read_params(_folder(workdir) / str(step))
        except Exception as error:  # Damage raises a great many types.
            reason = f"step {step}: {_line(error)}"
            LOG.warning("checkpoint passed over, %s", reason)
    raise UserError(f"no readable checkpoint in {_folder(workdir)} ({reason})")


def steps(workdir: Path) -> list[int]:
    """The saved steps, newest first; the same on all hosts."""
    folder = _folder(workdir)
    found = sorted((int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True)
    if jax.process_count() == 1:
        return found
    padded = np.full(1000, -1, np.int32)
    padded[: len(found)] = found
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """The whole configuration that `workdir` was made with, its sequences as tuples, paths below it where it is now.

    Raises UserError for a folder that is no workdir and for a damaged file.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}")
    if not path.is_file():
        raise UserError(f"{path.parent} is not a workdir: it has no config.json; give the --workdir of a training run")
    try:
        values = compat.current_config(_with_tuples(json.loads(path.read_text())))
        for name, value in values.items():
            if isinstance(value, str) and value.startswith(_DEPENDENCY_PREFIXES):
                values[name] = str(path.parent / value)
        return ml_collections.ConfigDict(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({_line(error)}); train again, or restore the file") from error


def check_system(workdir: Path, system: str) -> None:
    """Raises UserError where `workdir` belongs to another system than `system`."""
    found = load_config(workdir).system
    if found != system:
        raise UserError(f"{workdir} is a workdir of the system {found!r}, not {system!r}; choose another --workdir")


def write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved configuration to `workdir`/config.json in one step; on the first host only.

    Paths below `workdir`/dependencies are written as seen from there, so that the folder can be moved.
    """
    if jax.process_index() != 0:
        return
    folder = pathlib.Path(workdir)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "config.json.partial"
        values = json.loads(config.to_json())
        for name, value in values.items():
            if isinstance(value, str) and value.startswith(
                tuple(f"{folder / prefix}{os.sep}" for prefix in _DEPENDENCY_PREFIXES)
            ):
                values[name] = pathlib.Path(value).relative_to(folder).as_posix()
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(folder / "config.json")


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns a full, read-only or forbidden disk below the body into one clear UserError."""
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise UserError(
            f"cannot write to {where}: {reason}; what was saved before is intact; "
            "make room and run the same command again"
        ) from error


def _with_tuples(value: Any) -> Any:
    """JSON has lists only, and modules want their fields hashable."""
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _folder(workdir: Path) -> pathlib.Path:
    return pathlib.Path(workdir) / "checkpoints"


def _items(state: TrainState) -> dict[str, Tree]:
    """The parts of a state that hold arrays: Orbax refuses an empty one."""
    items = {name: getattr(state, name) for name in PARTS}
    items["step"] = {"step": items["step"]}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _checksums(items: dict[str, Tree]) -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.to_host(items))
    return {jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf)) for path, leaf in leaves}


def _read(folder: pathlib.Path, abstract: dict[str, Tree]) -> dict[str, Tree]:
    """The named items of one checkpoint on the host. Raises ValueError where a checksum does not match."""
    folder = folder.absolute()
    metadata = ocp.checkpointables_metadata(folder)
    saved_names = {name: compat.saved_item(name, metadata.metadata) for name in abstract}
    saved_abstract = {saved_names[name]: tree for name, tree in abstract.items()}
    loaded = parallel.to_host(ocp.load_checkpointables(folder, saved_abstract))
    expected = metadata.custom_metadata["checksums"]
    for path, found in _checksums(loaded).items():
        if expected[path] != found:
            raise ValueError(f"wrong checksum of {path}")
    return {name: loaded[saved] for name, saved in saved_names.items()}


def _read_agreed(folder: pathlib.Path, like: TrainState) -> tuple[TrainState | None, str]:
    """(state, "") if every host can read this step, else (None, why this host could not)."""
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), (parallel.AXIS,)), PartitionSpec())
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), _items(like))
    items, reason = None, "another host could not read it"
    try:
        items = _read(folder, abstract)
    except Exception as error:  # Damage raises a great many types.
        reason = f"step {folder.name}: {_line(error)}"
    if not parallel.all_hosts(items is not None):
        return None, reason
    items["step"] = items["step"]["step"]
    return like.replace(**items), ""


def _read_params(folder: pathlib.Path) -> tuple[Tree, Tree]:
    saved = ocp.checkpointables_metadata(folder.absolute()).metadata
    saved = {compat.current_item(name): tree for name, tree in saved.items()}
    names = ["ema" if "ema" in saved else "params"] + (["model_state"] if "model_state" in saved else [])
    if None in [saved[name] for name in names]:
        raise ValueError(f"{' or '.join(names)} cannot be read")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    items = _read(folder, jax.tree.map(abstract, {name: saved[name] for name in names}))
    return items[names[0]], items.get("model_state", {})


def _set_aside(workdir: Path, damaged: Iterable[int]) -> None:
    """Renames damaged steps: saving the same step number again would fail otherwise."""
    for step in damaged:
        LOG.warning("checkpoint %s is renamed %s.damaged", step, step)
        if jax.process_index() == 0:
            target, count = _folder(workdir) / f"{step}.damaged", 1
            while target.exists():
                count += 1
                target = target.with_name(f"{step}.damaged{count}")
            (_folder(workdir) / str(step)).rename(target)
    if damaged:
        parallel.all_hosts(True)


def _metric(workdir: Path, step: int) -> float:
    """The metric that `step` was saved with; infinite where it has none, so that those come last, newest first."""
    path = _folder(workdir) / str(step) / "metrics" / "metrics"
    try:
        return float(json.loads(path.read_text())[BEST])
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def _disk_reason(error: BaseException | None) -> str | None:
    """What the disk said, found in the chain of causes or, where a library kept only text, in the message."""
    while error is not None:
        for code in DISK_ERRORS:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def _line(error: BaseException) -> str:
    """The first line of the innermost cause, short enough to stand in a message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
