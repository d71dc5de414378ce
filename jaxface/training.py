"""The training loop: a per-device step made from a System, and `fit`, which runs, saves and resumes it.

Messages and progress go to the logger of this module and to a tqdm bar on stderr, on the first host only.
"""

import contextlib
import itertools
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import lax
from tqdm import tqdm

from jaxface import (
    checkpoint,
    config_file,
    hosts,
    input_processes,
    interrupts,
    parallel,
    pretrained,
    run_length,
    storage,
)
from jaxface.checkpoint import Checkpoints
from jaxface.errors import UserError
from jaxface.lock import locked
from jaxface.metric_writer import MetricWriter
from jaxface.reporting import Reporter
from jaxface.system import Batch, System, TrainState, Tree, unit_images

# Steps that a profile skips, because they compile and fill caches, and steps that it records.
WARMUP_STEPS, PROFILED_STEPS = 3, 5
STOPPING = "stopping after this step, which is then saved; press Ctrl-C again to stop at once"
STOPPING_AT_ONCE = "stopping at once: the steps after the newest checkpoint are not saved"
LOG = logging.getLogger(__name__)

Step = Callable[[TrainState, Batch, Tree], tuple[TrainState, dict]]


def make_step(system: System, seed: int, ema: float, accumulate: int = 1) -> Step:
    """Builds the per-device training step of `system`, to be compiled by `parallel.compile_step`.

    Args:
        system: the system to train.
        seed: random seed; the key of a step depends on (seed, step, device) only.
        ema: decay of the exponential moving average of the parameters, smaller in the first steps; 0: no average.
        accumulate: number of micro-batches into which each device splits its batch, see `_accumulated`.

    Returns:
        `step(state, batch, constants) -> (state, metrics)`. The metrics are those of the loss and `loss`, `grad_norm`
        and `finite`.
    """

    def step(state: TrainState, batch: Batch, constants: Tree) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), lax.axis_index(parallel.AXIS))
        preprocess_key, loss_key = jax.random.split(key)
        batch = system.preprocess_on_device(unit_images(batch), preprocess_key, constants)

        def gradient(model_state: Tree, batch: Batch, key: jax.Array) -> tuple:
            def loss_of(params: Tree) -> tuple[jax.Array, tuple[Tree, dict]]:
                return system.loss(params, model_state, batch, key, state.step, constants)

            (loss, (model_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            return loss, model_state, metrics, grads

        if accumulate > 1:
            gradient = _accumulated(gradient, accumulate)
        loss, model_state, metrics, grads = gradient(state.model_state, batch, loss_key)
        loss, model_state, metrics, grads = parallel.mean_over_devices((loss, model_state, metrics, grads))
        updates, opt_state = system.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.global_norm(grads)
        metrics = {**metrics, "loss": loss, "grad_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        average = _update_average(state.ema, params, state.step, ema) if ema else {}
        return TrainState(state.step + 1, params, model_state, opt_state, average), metrics

    return step


def _accumulated(gradient: Callable[..., tuple], count: int) -> Callable[..., tuple]:
    """`gradient(model_state, batch, key)`, averaged over `count` micro-batches in turn, which bounds the memory.

    A micro-batch is treated as a device is: every `count`-th example with a random key of its own. Where the loss is a
    mean over examples, the update is therefore that of the whole batch, up to rounding. Batch statistics are those of a
    micro-batch over all devices, and the running statistics are updated `count` times.
    """

    def averaged(model_state: Tree, batch: Batch, key: jax.Array) -> tuple:
        def add(carry: tuple, micro_batch: tuple) -> tuple[tuple, tuple]:
            model_state, total = carry
            number, part = micro_batch
            loss, model_state, metrics, grads = gradient(model_state, part, jax.random.fold_in(key, number))
            return (model_state, jax.tree.map(jnp.add, total, grads)), (loss, metrics)

        parts = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), batch)
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        *_, shapes = jax.eval_shape(gradient, model_state, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (model_state, total), outputs = lax.scan(add, (model_state, zeros), (jnp.arange(count), parts))
        loss, metrics = jax.tree.map(lambda values: values.mean(0), outputs)
        return loss, model_state, metrics, jax.tree.map(lambda leaf: leaf / count, total)

    return averaged


def initial_state(system: System, params: Tree, model_state: Tree, ema: float) -> TrainState:
    """The state before the first step with these parameters: new optimizer state, moving average equal to `params`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=system.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else {},
    )


def starting_state(
    system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path
) -> tuple[TrainState, str]:
    """The state that a run starts from: the workdir's, else that of config.resume, of config.init, or random.

    Args:
        system: the system to train.
        config: its configuration. `resume` names a workdir to continue; `init` names a workdir, or a folder written by
            `pretrained.save_asset`, whose parameters initialise a new run.
        workdir: folder of the run.

    Returns:
        (state on the host, one line that names its source).

    Raises:
        UserError: if a named source is missing, of another system or of another shape.
    """

    def random_state() -> TrainState:
        return initial_state(system, *system.init(jax.random.key(config.seed)), config.ema)

    like = jax.eval_shape(random_state)
    state = checkpoint.restore(workdir, like)
    if state is not None:
        return state, f"resumed at step {state.step} from {workdir}"
    if config.resume:
        config_file.check_system(config.resume, config.system)
        state = checkpoint.restore(config.resume, like, set_aside=False)
        if state is None:
            raise UserError(f"config.resume: {config.resume} has no checkpoint; give a workdir that was trained")
        return state, f"resumed at step {state.step} from {config.resume}"
    if config.init:
        config_file.check_system(config.init, config.system)
        _, params, model_state = pretrained.load(config.init)
        params, model_state = system.warm_start(params, model_state)
        _check_shapes((params, model_state), (like.params, like.model_state), config.init)
        return initial_state(system, params, model_state, config.ema), f"initialised with parameters of {config.init}"
    return jax.jit(random_state)(), "randomly initialised"


def fit(
    system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path, profile: bool = False
) -> TrainState:
    """Trains `system` until config.steps updates are done, resuming from what `workdir` holds.

    A run that is already finished only verifies its newest checkpoint. After SIGTERM all hosts save the same step and
    return; after Ctrl-C they do the same and raise KeyboardInterrupt, whose message says what is saved. A second
    Ctrl-C does not wait for the step and its save.

    Args:
        system: the system to train.
        config: reads system, seed, steps, batch_size (global, checked against the devices), accumulate (micro-batches
            of each device's batch, default 1), log_every, save_every, keep, ema, backend, resume, init, prefetch,
            input_processes (default 1) and best ("evaluator/metric" whose lowest value is kept; "": none).
        workdir: folder of the run.
        profile: whether to trace a few steps into `workdir`/profile, for TensorBoard and Perfetto.

    Returns:
        The final state, replicated over the devices.

    Raises:
        UserError: for a workdir of another system or of a run in another process, a full disk, and a loss or gradient
            that is not finite; nothing is saved after such a step.
        KeyboardInterrupt: after Ctrl-C.
    """
    workdir = storage.path(workdir)
    _check_best(system, config)
    _check_batch(config)
    run_length.check(config)
    hold = locked(workdir, "trains in it", all_hosts=True)
    with interrupts.deferred(STOPPING, STOPPING_AT_ONCE) as interrupted, hold:
        try:
            state = _train(system, config, workdir, profile, interrupted)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"stopped by Ctrl-C; {_saved(workdir)}") from interrupt
        if interrupted():
            hosts.leave()
            raise KeyboardInterrupt(f"stopped by Ctrl-C at step {int(state.step)}; {_saved(workdir)}")
        return state


def _train(
    system: System,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile: bool,
    interrupted: Callable[[], bool],
) -> TrainState:
    """The body of `fit`, in a workdir that this process holds; `interrupted()` is whether Ctrl-C was pressed."""
    backend = config.backend
    compiled = parallel.compile_step(make_step(system, config.seed, config.ema, config.get("accumulate", 1)), backend)
    if (workdir / config_file.NAME).is_file():
        config_file.check_system(workdir, config.system)
    state, origin = starting_state(system, config, workdir)
    start = int(state.step)
    config_file.write(workdir, pretrained.copy_dependencies(workdir, config))
    _log(f"{origin}; {run_length.described(config)}; workdir {workdir}")
    state = parallel.replicate(state, backend)
    if start >= config.steps or (interrupted() and jax.process_count() == 1):
        return state
    constants = parallel.replicate(system.constants(), backend)
    with (
        Checkpoints(workdir, config.keep) as checkpoints,
        MetricWriter(workdir, start) as metrics,
        input_processes.train_data(system, config, start) as read,
        parallel.prefetch(read, config.prefetch, backend) as batches,
        _profiled(compiled, workdir / "profile", profile) as compiled,
        _progress(start, config.steps) as bar,
        jax.transfer_guard("disallow"),
    ):
        reporter = Reporter(system, config, workdir, checkpoints, metrics, bar)
        _log("compiling the training step, then training")
        for done in range(start + 1, config.steps + 1):
            state, outputs = compiled(state, next(batches), constants)
            reporter.add(outputs)
            bar.update()
            stopping = parallel.stop_requested(done, interrupted())
            due = reporter.due(done, stopping)
            if due.anything:
                with jax.transfer_guard("allow"):
                    reporter.report(done, due, state, constants)
            if stopping:
                checkpoints.wait()
                if not interrupted():
                    _log(f"stopped by SIGTERM at step {done}, which is saved; run the same command again to resume")
                break
    return state


def _saved(workdir: pathlib.Path) -> str:
    """What of the run is saved, for a message."""
    steps = checkpoint.steps(workdir) if jax.process_count() == 1 else ()
    saved = f"step {steps[0]} is the newest that is saved" if steps else "nothing is saved"
    return f"{saved} in {workdir}; run the same command again to resume"


@contextlib.contextmanager
def _profiled(step: Callable, folder: pathlib.Path, enabled: bool) -> Iterator[Callable]:
    """`step` itself, or if `enabled` a function that also traces `PROFILED_STEPS` of its calls into `folder`.

    If the run ends earlier, the trace holds the steps until then. Only the first host writes a trace.
    """
    calls, options = itertools.count(), jax.profiler.ProfileOptions()
    # A Perfetto file holds a million events; Python calls of input and evaluation would fill it within a step.
    options.python_tracer_level = 0
    with contextlib.ExitStack() as trace:

        def traced(*arguments: Any) -> tuple[TrainState, dict]:
            call = next(calls)
            if call == WARMUP_STEPS:
                local = trace.enter_context(storage.staged(folder))
                recording = jax.profiler.trace(local, create_perfetto_trace=True, profiler_options=options)
                trace.enter_context(recording)
            with jax.profiler.StepTraceAnnotation("train", step_num=call):
                outputs = step(*arguments)
            if call == WARMUP_STEPS + PROFILED_STEPS - 1:
                jax.block_until_ready(outputs)
                trace.close()
            return outputs

        yield traced if enabled and jax.process_index() == 0 else step


def _check_best(system: System, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if config.best, which may be left out, names no evaluator."""
    best = config.get("best", "")
    if best and best.rpartition("/")[0] not in system.evaluators:
        raise UserError(
            f"config.best: {best!r} names no metric; give EVALUATOR/METRIC, evaluators: {list(system.evaluators)}"
        )


def _check_batch(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the batch cannot be split over the devices, and there into micro-batches."""
    parallel.local_batch_size(config.batch_size)
    parts = jax.device_count() * config.get("accumulate", 1)
    if config.batch_size % parts:
        raise UserError(
            f"config.accumulate: a batch of {config.batch_size} on {jax.device_count()} devices does not divide into "
            f"{config.accumulate} micro-batches each; make batch_size a multiple of {parts}"
        )


def _update_average(average: Tree, params: Tree, step: jax.Array, decay: float) -> Tree:
    """Exponential moving average with the smaller decay (1 + step) / (10 + step) at first.

    As TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    count = step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda old, new: old + weight.astype(old.dtype) * (new - old), average, params)


def _check_shapes(found: Tree, expected: Tree, source: str) -> None:
    """Raises UserError that names the arrays of `source` that are missing, left over or of another shape."""
    found_shapes, expected_shapes = _shapes(found), _shapes(expected)
    names = found_shapes.keys() | expected_shapes.keys()
    wrong = sorted(name for name in names if found_shapes.get(name) != expected_shapes.get(name))
    if wrong:
        raise UserError(
            f"config.init: {source} does not fit this configuration: {len(wrong)} arrays differ, {wrong[:4]}; "
            "use the model configuration of that run"
        )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves by path, "0/encoder/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def _progress(start: int, steps: int) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=steps, initial=start, unit="step", mininterval=interval, disable=jax.process_index() != 0)


def _log(line: str) -> None:
    if jax.process_index() == 0:
        LOG.info(line)
