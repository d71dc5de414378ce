"""The only module that uses Orbax: saves and restores train states in `workdir`/checkpoints/<step>.

Every checkpoint carries the CRC-32 of each array and, once it is complete, the checksums of its files, because Orbax
does not detect a flipped bit. An unreadable step is renamed `<step>.damaged`, but only after an older one has been
read: if none can be read, the configuration is a more likely cause than the disk, and nothing is renamed.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from jaxface import checksums, compat, config_file, parallel, storage
from jaxface.errors import UserError, disk_errors, is_remote
from jaxface.system import TrainState

Tree = Any
Path = str | os.PathLike

PARTS = ("step", "params", "model_state", "opt_state", "ema")
BEST = "best"
MAX_STEPS = 1000  # Size of the array in which the first host sends the saved steps to the others.
MAX_REASON_CHARS = 200
# Orbax writes it last, into a checkpoint in a bucket.
REMOTE_COMMIT_FILE = "commit_success.txt"
MAX_STEP = np.iinfo(np.int32).max
# Orbax takes the path of a checkpoint for a glob pattern, and does not find its own files if it has one of these.
GLOB_CHARACTERS = re.compile(r"[][*?\\]")
LOG = logging.getLogger(__name__)


class Checkpoints:
    """Asynchronous saves into one workdir, which keeps the newest `keep` steps and the one of the lowest metric.

    A context manager; leaving it waits for the last save. Methods raise UserError if the disk is full or read-only;
    earlier checkpoints stay readable.
    """

    def __init__(self, workdir: Path, keep: int):
        policies = ocp.training.preservation_policies
        lowest = policies.BestN(
            get_metric_fn=lambda metrics: metrics[BEST], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        self._folder = _folder(workdir)
        self._saving: Any = None
        self._failure: Exception | None = None
        with disk_errors(self._folder), contextlib.ExitStack() as stack:
            storage.make_folder(self._folder)
            self._checkpointer = ocp.training.Checkpointer(
                stack.enter_context(_without_glob_characters(self._folder)),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), lowest]),
                cleanup_tmp_directories=True,
            )
            self._cleanup = stack.pop_all()

    def save(self, state: TrainState, metric: float | None = None) -> None:
        """Starts saving the replicated `state` under its step; an existing step is not overwritten.

        `metric` selects the best step, lower is better; a step with None or a value that is not finite is never best.
        """
        step = int(parallel.to_host(state.step))
        if step in [saved.step for saved in self._checkpointer.checkpoints]:
            return
        self.wait()
        metrics = {BEST: float(metric)} if metric is not None and np.isfinite(metric) else None
        items = jax.tree.map(jnp.asarray, _items(state))
        with disk_errors(self._folder):
            self._saving = self._checkpointer.save_checkpointables_async(
                step,
                parallel.to_global(items),
                force=True,
                metrics=metrics,
                custom_metadata={"checksums": array_checksums(items), "files": checksums.NAME},
            )
            if jax.process_index() == 0:
                self._saving.on_complete(lambda _: self._write_checksums(step))

    def wait(self) -> None:
        """Returns when the last save is complete on disk."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        with disk_errors(self._folder):
            # Also ends the thread of this save and closes its descriptors.
            saving.result()
            if self._failure is not None:
                raise self._failure

    def _write_checksums(self, step: int) -> None:
        """Runs in the thread of the save, whose errors asyncio would print."""
        try:
            checksums.write(self._folder / str(step))
        except Exception as error:
            self._failure = error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        # An exception that is propagating explains more than a save that fails for the same reason.
        suppressed = () if kind is None else (Exception,)
        with self._cleanup, contextlib.suppress(*suppressed), disk_errors(self._folder):
            try:
                self.wait()
            finally:
                self._checkpointer.close()


def restore(workdir: Path, like: TrainState, set_aside: bool = True) -> TrainState | None:
    """The newest readable state of `workdir` as numpy arrays, the same step on all hosts, which all call this.

    Args:
        workdir: folder of a run.
        like: a state with the expected structure, shapes and dtypes.
        set_aside: rename damaged newer steps. They are reported in a warning in any case.

    Returns:
        The state, or None if there is no checkpoint.

    Raises:
        UserError: checkpoints exist but none can be read; nothing is renamed in this case.
    """
    saved = steps(workdir)
    reasons = []
    for step in _intact_first(workdir, saved):
        state, reason = _read_agreed(_folder(workdir) / str(step), like)
        if state is not None:
            if set_aside:
                _set_aside(workdir, [newer for newer in saved if newer > step])
            return state
        LOG.warning("checkpoint skipped, %s", reason)
        reasons.append(reason)
    if not saved:
        return None
    raise UserError(
        f"{_folder(workdir)}: none of the checkpoints can be read ({reasons[0]}); use the configuration that "
        "they were saved with, or another workdir; nothing was changed there"
    )


def load_params(workdir: Path) -> tuple[Tree, Tree]:
    """The parameters of a run for inference: of the best step if `config.best` is set, else of the newest.

    Needs no optimizer and changes nothing on disk. A damaged step is skipped with a warning.

    Returns:
        params (the moving average if the run keeps one) and model_state, as numpy arrays.

    Raises:
        UserError: `workdir` does not exist, or has no config.json or no readable checkpoint.
    """
    config = config_file.load(workdir)
    saved = steps(workdir)
    if config.get(BEST):
        saved.sort(key=lambda step: _metric(workdir, step))
    reason = "none was saved"
    for step in _intact_first(workdir, saved):
        try:
            return _read_params(_folder(workdir) / str(step))
        except Exception as error:  # Damage raises many types.
            reason = f"step {step}: {_one_line(error)}"
            LOG.warning("checkpoint skipped, %s", reason)
    raise UserError(f"{_folder(workdir)}: no readable checkpoint ({reason}); train first, or convert a checkpoint")


def steps(workdir: Path) -> list[int]:
    """The saved steps, newest first; the same on all hosts."""
    folder = _folder(workdir)
    found = [path for path in folder.glob("*") if _is_step(path.name)]
    if is_remote(folder):
        # Elsewhere an unfinished checkpoint has another name.
        found = [path for path in found if (path / REMOTE_COMMIT_FILE).exists()]
    saved = sorted((int(path.name) for path in found), reverse=True)[:MAX_STEPS]
    if jax.process_count() == 1:
        return saved
    padded = np.full(MAX_STEPS, -1, np.int32)
    padded[: len(saved)] = saved
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]


def _is_step(name: str) -> bool:
    """Whether a folder of this name is a checkpoint: ASCII digits without leading zeros, in the range of a step."""
    return re.fullmatch(r"0|[1-9][0-9]{0,9}", name) is not None and int(name) <= MAX_STEP


def _intact_first(workdir: Path, saved: Iterable[int]) -> Iterator[int]:
    """The steps whose files all have the right checksums, in the given order, then the others.

    The arrays of a step of which other files are changed may still be intact: they have checksums of their own.
    """
    changed = []
    for step in saved:
        problem = checksums.problem(_folder(workdir) / str(step))
        if parallel.all_hosts(problem is None):
            yield step
        else:
            LOG.warning("checkpoint skipped, step %s: %s", step, problem or "damaged on another host")
            changed.append(step)
    for step in changed:
        LOG.warning("checkpoint of step %s is damaged, but none is intact: reading what is left of it", step)
        yield step


@contextlib.contextmanager
def _without_glob_characters(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The absolute path of `folder`, or a symbolic link to it if the path has `GLOB_CHARACTERS`."""
    folder = folder if is_remote(folder) else folder.absolute()
    if not GLOB_CHARACTERS.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxface-") as links:
        link = pathlib.Path(links) / folder.name
        link.symlink_to(folder)
        yield link


def _folder(workdir: Path) -> pathlib.Path:
    return storage.path(workdir) / "checkpoints"


def _items(state: TrainState) -> dict[str, Tree]:
    """The parts of a state that hold arrays; Orbax refuses an empty part."""
    items = {name: getattr(state, name) for name in PARTS}
    items["step"] = {"step": items["step"]}
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def array_checksums(items: dict[str, Tree]) -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parallel.to_host(items))
    return {jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf)) for path, leaf in leaves}


def _saved_parts(folder: pathlib.Path) -> dict[str, Tree | None]:
    """Shapes and dtypes of the saved parts of a checkpoint by today's names; None for a part that is missing on disk.

    What was saved is known from the checksums: without its moving average a model would load as another one.
    """
    metadata = ocp.checkpointables_metadata(folder)
    # The path of an array is "['params']['encoder']['kernel']".
    saved = {path.split("'")[1] for path in metadata.custom_metadata["checksums"]}
    return {compat.current_item(name): metadata.metadata.get(name) for name in saved}


def _read(folder: pathlib.Path, abstract: dict[str, Tree]) -> dict[str, Tree]:
    """The named items of one checkpoint on the host. Raises ValueError if a checksum does not match."""
    metadata = ocp.checkpointables_metadata(folder)
    saved_names = {name: compat.saved_item(name, metadata.metadata) for name in abstract}
    saved_abstract = {saved_names[name]: tree for name, tree in abstract.items()}
    loaded = parallel.to_host(ocp.load_checkpointables(folder, saved_abstract))
    if "files" in metadata.custom_metadata and not checksums.exists(folder):
        LOG.warning("checkpoint of step %s has no %s: only its arrays are verified", folder.name, checksums.NAME)
    expected = metadata.custom_metadata["checksums"]
    for path, checksum in array_checksums(loaded).items():
        if expected[path] != checksum:
            raise ValueError(f"wrong checksum of {path}")
    return {name: loaded[saved] for name, saved in saved_names.items()}


def _read_agreed(folder: pathlib.Path, like: TrainState) -> tuple[TrainState | None, str]:
    """(state, "") if every host can read this step, else (None, the reason on this host)."""
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), (parallel.AXIS,)), PartitionSpec())
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), _items(like))
    items, reason = None, "another host could not read it"
    try:
        with _without_glob_characters(folder) as path:
            items = _read(path, abstract)
    except Exception as error:  # Damage raises many types.
        reason = f"step {folder.name}: {_one_line(error)}"
    if not parallel.all_hosts(items is not None):
        return None, reason
    items["step"] = items["step"]["step"]
    return like.replace(**items), ""


def _read_params(folder: pathlib.Path) -> tuple[Tree, Tree]:
    """params (or their moving average) and model_state of one checkpoint. Raises many types if it is damaged."""
    sharding = SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    with _without_glob_characters(folder) as path:
        saved = _saved_parts(path)
        params = "ema" if "ema" in saved else "params"
        parts = {name: tree for name, tree in saved.items() if name in (params, "model_state")}
        for name, tree in parts.items():
            if tree is None:
                raise ValueError(f"{name} is missing or cannot be read")
        items = _read(path, jax.tree.map(abstract, parts))
    return items[params], items.get("model_state", {})


def _set_aside(workdir: Path, damaged: Iterable[int]) -> None:
    """Renames damaged steps, because saving an existing step again fails."""
    for step in damaged:
        LOG.warning("checkpoint %s is renamed %s.damaged", step, step)
        if jax.process_index() == 0:
            target, count = _folder(workdir) / f"{step}.damaged", 1
            while target.exists():
                count += 1
                target = target.with_name(f"{step}.damaged{count}")
            storage.rename(_folder(workdir) / str(step), target)
    if damaged:
        parallel.all_hosts(True)


def _metric(workdir: Path, step: int) -> float:
    """The metric that `step` was saved with; without one, infinity, which sorts last and keeps the order of steps."""
    folder, file = _folder(workdir) / str(step), "metrics/metrics"
    problem = checksums.problem(folder, file)
    if problem:
        LOG.warning("checkpoint %s: %s; it is not taken for the best one", step, problem)
        return float("inf")
    path = folder / file
    try:
        return float(json.loads(path.read_text())[BEST])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return float("inf")


def _one_line(error: BaseException) -> str:
    """The first line of the innermost cause, shortened for a message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_REASON_CHARS]
