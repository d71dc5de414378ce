"""The training loop: a per-device step made from a System, and `fit`, which runs, saves and resumes it.

Messages and progress go to the logger of this module and to a tqdm bar on stderr, on the first host only.
"""

import contextlib
import dataclasses
import itertools
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from jaxface import checkpoint, config_file, evaluation, parallel, pretrained
from jaxface.checkpoint import Checkpoints
from jaxface.errors import UserError, disk_errors
from jaxface.metric_writer import MetricWriter
from jaxface.system import Batch, System, TrainState, Tree

# Steps that a profile skips, because they compile and fill caches, and steps that it records.
WARMUP_STEPS, PROFILED_STEPS = 3, 5
LOG = logging.getLogger(__name__)

Step = Callable[[TrainState, Batch, Tree], tuple[TrainState, dict]]


def make_step(system: System, seed: int, ema: float) -> Step:
    """Builds the per-device training step of `system`, to be compiled by `parallel.compile_step`.

    Args:
        system: the system to train.
        seed: random seed; the key of a step depends on (seed, step, device) only.
        ema: decay of the exponential moving average of the parameters, smaller in the first steps; 0: no average.

    Returns:
        `step(state, batch, constants) -> (state, metrics)`. The metrics are those of the loss and `loss`, `grad_norm`
        and `finite`.
    """

    def step(state: TrainState, batch: Batch, constants: Tree) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), lax.axis_index(parallel.AXIS))
        preprocess_key, loss_key = jax.random.split(key)
        batch = system.preprocess_on_device(batch, preprocess_key, constants)

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[Tree, dict]]:
            return system.loss(params, state.model_state, batch, loss_key, state.step, constants)

        (loss, (model_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        loss, model_state, metrics, grads = jax.tree.map(_mean_over_devices, (loss, model_state, metrics, grads))
        updates, opt_state = system.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.global_norm(grads)
        metrics = {**metrics, "loss": loss, "grad_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        average = _update_average(state.ema, params, state.step, ema) if ema else {}
        return TrainState(state.step + 1, params, model_state, opt_state, average), metrics

    return step


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
    return.

    Args:
        system: the system to train.
        config: reads system, seed, steps, batch_size (global, checked against the devices), log_every, save_every,
            keep, ema, backend, resume, init, prefetch and best ("evaluator/metric" whose lowest value is kept; "":
            none).
        workdir: folder of the run.
        profile: whether to trace a few steps into `workdir`/profile, for TensorBoard and Perfetto.

    Returns:
        The final state, replicated over the devices.

    Raises:
        UserError: for a workdir of another system, a full disk, and a loss or gradient that is not finite; nothing is
            saved after such a step.
    """
    workdir, backend = pathlib.Path(workdir), config.backend
    _check_best(system, config)
    parallel.local_batch_size(config.batch_size)
    compiled = parallel.compile_step(make_step(system, config.seed, config.ema), backend)
    if (workdir / "config.json").is_file():
        config_file.check_system(workdir, config.system)
    state, origin = starting_state(system, config, workdir)
    start = int(state.step)
    config_file.write(workdir, pretrained.copy_dependencies(workdir, config))
    _log(f"{origin}; {config.steps} steps in all, workdir {workdir}")
    state = parallel.replicate(state, backend)
    if start >= config.steps:
        return state
    constants = parallel.replicate(system.constants(), backend)
    with (
        Checkpoints(workdir, config.keep) as checkpoints,
        MetricWriter(workdir, start) as metrics,
        parallel.prefetch(system.train_data(start), config.prefetch, backend) as batches,
        _profiled(compiled, workdir / "profile", profile) as compiled,
        _progress(start, config.steps) as bar,
        jax.transfer_guard("disallow"),
    ):
        reporter = _Reporter(system, config, workdir, checkpoints, metrics, bar)
        _log("compiling the training step, then training")
        for done in range(start + 1, config.steps + 1):
            state, outputs = compiled(state, next(batches), constants)
            reporter.add(outputs)
            bar.update()
            stopping = parallel.stop_requested(done)
            due = reporter.due(done, stopping)
            if due.anything:
                with jax.transfer_guard("allow"):
                    reporter.report(done, due, state, constants)
            if stopping:
                checkpoints.wait()
                _log(f"stopped by SIGTERM at step {done}, which is saved; run the same command again to resume")
                break
    return state


@dataclasses.dataclass(frozen=True)
class _Due:
    """What is to be done after a step: names of evaluators to run, whether to log metrics and to save."""

    evaluators: tuple[str, ...]
    logging: bool
    saving: bool

    @property
    def anything(self) -> bool:
        return bool(self.evaluators) or self.logging or self.saving


class _Reporter:
    """Logging, evaluation and saving of one run.

    The metrics of the steps since the last report stay on the devices, so that the loop need not wait for them.
    """

    def __init__(
        self,
        system: System,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        metrics: MetricWriter,
        bar: tqdm,
    ):
        self._system, self._config, self._workdir = system, config, workdir
        self._checkpoints, self._metrics, self._bar = checkpoints, metrics, bar
        self._best = config.get("best", "")
        self._scores = {
            name: evaluation.compile_score(evaluator, config.backend) for name, evaluator in system.evaluators.items()
        }
        self._on_device: list[dict[str, jax.Array]] = []
        self._on_host: list[dict[str, np.ndarray]] = []

    def add(self, outputs: dict[str, jax.Array]) -> None:
        """Takes the metrics of one step."""
        self._on_device.append(outputs)

    def due(self, done: int, stopping: bool) -> _Due:
        """What is to be done after `done` updates; a run that is `stopping` is saved but not evaluated."""
        finished = done == self._config.steps
        last = stopping or finished
        evaluators = [
            name for name, one in self._system.evaluators.items() if finished or _is_multiple(done, one.every)
        ]
        return _Due(
            evaluators=() if stopping else tuple(evaluators),
            logging=last or bool(evaluators) or _is_multiple(done, self._config.log_every),
            saving=last or _is_multiple(done, self._config.save_every),
        )

    def report(self, done: int, due: _Due, state: TrainState, constants: Tree) -> None:
        """Checks that all steps were finite, then evaluates, logs and saves what is due."""
        self._fetch(done)
        scores = self._evaluate(done, due.evaluators, state, constants)
        if due.logging:
            means = self._means()
            self._bar.set_postfix(loss=f"{means['loss']:.4g}")
            self._metrics.write(done, {**means, **scores})
        if due.saving or self._best in scores:
            self._checkpoints.save(state, scores.get(self._best))

    def _evaluate(self, done: int, names: tuple[str, ...], state: TrainState, constants: Tree) -> dict[str, float]:
        params = state.ema if self._config.ema else state.params
        scores: dict[str, float] = {}
        for name in names:
            values, images = self._scores[name](params, state.model_state, constants)
            scores |= evaluation.prefixed(name, values)
            self._metrics.write_images(done, evaluation.prefixed(name, images))
        if self._best.rpartition("/")[0] in names and self._best not in scores:
            raise UserError(f"config.best: the evaluator has no {self._best!r}; choose from {', '.join(scores)}")
        return scores

    def _fetch(self, done: int) -> None:
        """Fetches the metrics of the steps up to `done` updates. Raises UserError at the first that is not finite."""
        fetched, self._on_device = parallel.to_host(self._on_device), []
        for step, values in enumerate(fetched, start=done - len(fetched)):
            if not values["finite"]:
                self._stop(step, values)
        self._on_host += fetched

    def _means(self) -> dict[str, float]:
        """Means over the steps since the last call."""
        values, self._on_host = self._on_host, []
        return {name: float(np.mean([one[name] for one in values])) for name in values[0]}

    def _stop(self, step: int, values: dict[str, np.ndarray]) -> None:
        host = jax.process_index()
        path = self._workdir / (f"nonfinite_{step}_host{host}.npz" if host else f"nonfinite_{step}.npz")
        with disk_errors(self._workdir):
            np.savez(path, **next(self._system.train_data(step)))
        raise UserError(
            f"not finite at step {step} (loss {values['loss']:g}, gradient norm {values['grad_norm']:g}); its batch "
            f"is in {path}, nothing was saved after it; check the batch, or lower config.optim.lr"
        )


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
                recording = jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options)
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
        raise UserError(f"config.best: {best!r} is not evaluator/metric with an evaluator of {list(system.evaluators)}")


def _mean_over_devices(leaf: jax.Array) -> jax.Array:
    """Mean over all devices; integers, such as counters, are equal on all devices and are returned unchanged."""
    return lax.pmean(leaf, parallel.AXIS) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


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


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _progress(start: int, steps: int) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=steps, initial=start, unit="step", mininterval=interval, disable=jax.process_index() != 0)


def _log(line: str) -> None:
    if jax.process_index() == 0:
        LOG.info(line)
