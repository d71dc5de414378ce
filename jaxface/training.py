"""The one training loop: a per-device step made from a System, and `fit`, which runs, saves and resumes it."""

import contextlib
import itertools
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

# Steps of a run that its profile leaves out, as the first of them compiles, and those that it shows.
UNSEEN, PROFILED = 3, 5


def make_step(system: System, seed: int, ema: float) -> Callable[[TrainState, Batch, Tree], tuple[TrainState, dict]]:
    """The per-device training step of `system`, to be compiled by `parallel.compile_step`.

    Its random key depends on (seed, step, device) only. The metrics are those of the loss and `loss`, `grad_norm` and
    `finite`. `ema` is the decay of the moving average of the parameters (0: none), smaller in the first steps.
    """

    def step(state: TrainState, batch: Batch, constants: Tree) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), lax.axis_index(parallel.AXIS))
        prepare_key, loss_key = jax.random.split(key)
        batch = system.preprocess_on_device(batch, prepare_key, constants)

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[Tree, dict]]:
            return system.loss(params, state.model_state, batch, loss_key, state.step, constants)

        (loss, (model_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        loss, model_state, metrics, grads = jax.tree.map(_mean, (loss, model_state, metrics, grads))
        updates, opt_state = system.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.global_norm(grads)
        metrics = {**metrics, "loss": loss, "grad_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        average = _moved_average(state.ema, params, state.step, ema) if ema else {}
        return TrainState(state.step + 1, params, model_state, opt_state, average), metrics

    return step


def initial_state(system: System, params: Tree, model_state: Tree, ema: float) -> TrainState:
    """The state before the first step with these parameters: fresh optimizer, moving average equal to `params`."""
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
    """(state, where it came from): the workdir itself, else config.resume, else config.init, else scratch.

    Raises UserError where a named source is missing, of another system or of another shape.
    """

    def fresh() -> TrainState:
        return initial_state(system, *system.init(jax.random.key(config.seed)), config.ema)

    like = jax.eval_shape(fresh)
    state = checkpoint.restore(workdir, like)
    if state is not None:
        return state, f"resumed at step {state.step} from {workdir}"
    if config.resume:
        config_file.check_system(config.resume, config.system)
        state = checkpoint.restore(config.resume, like, set_aside=False)
        if state is None:
            raise UserError(f"config.resume: {config.resume} has no checkpoint; name a workdir that was trained")
        return state, f"resumed at step {state.step} from {config.resume}"
    if config.init:
        config_file.check_system(config.init, config.system)
        params, model_state = system.warm_start(*checkpoint.load_params(config.init))
        _check_shapes((params, model_state), (like.params, like.model_state), config.init)
        return initial_state(system, params, model_state, config.ema), f"started with the parameters of {config.init}"
    return jax.jit(fresh)(), "started from scratch"


def fit(
    system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path, profile: bool = False
) -> TrainState:
    """Trains `system` to config.steps updates in `workdir`, going on from what is there; returns the state, replicated.

    Read from `config`: system, seed, steps, batch_size (global, checked against the devices), log_every, save_every,
    keep, ema, backend, resume, init, prefetch and best ("evaluator/metric", lowest kept; "" for none). A run that is
    finished only verifies its newest checkpoint. After SIGTERM all hosts save the same step and return. Raises
    UserError for a workdir of another system, a full disk, and a loss or gradient that is not finite: after that
    nothing is saved. With `profile` a few steps are traced into `workdir`/profile, for TensorBoard and Perfetto.
    """
    workdir, backend, best = pathlib.Path(workdir), config.backend, _best(system, config)
    parallel.local_batch_size(config.batch_size)
    compiled = parallel.compile_step(make_step(system, config.seed, config.ema), backend)
    if (workdir / "config.json").is_file():
        config_file.check_system(workdir, config.system)
    state, origin = starting_state(system, config, workdir)
    start = int(state.step)
    config_file.write(workdir, pretrained.copy_dependencies(workdir, config))
    _say(f"{origin}; {config.steps} steps in all, workdir {workdir}")
    state = parallel.replicate(state, backend)
    if start >= config.steps:
        return state
    constants = parallel.replicate(system.constants(), backend)
    scores = {name: evaluation.compile_score(evaluator, backend) for name, evaluator in system.evaluators.items()}
    window = _Window(system, workdir)
    with (
        Checkpoints(workdir, config.keep) as checkpoints,
        MetricWriter(workdir, start) as metrics,
        parallel.prefetch(system.train_data(start), config.prefetch, backend) as batches,
        _profiled(compiled, workdir / "profile", profile) as compiled,
        _progress(start, config.steps) as bar,
        jax.transfer_guard("disallow"),
    ):
        for done in range(start + 1, config.steps + 1):
            state, outputs = compiled(state, next(batches), constants)
            window.add(outputs)
            bar.update()
            stopping = parallel.stop_requested(done)
            last = stopping or done == config.steps
            due = [name for name, one in system.evaluators.items() if _every(done, one.every) or done == config.steps]
            logging, saving = last or _every(done, config.log_every), last or _every(done, config.save_every)
            if not (logging or saving or due):
                continue
            with jax.transfer_guard("allow"):
                window.check(done)
                model = (state.ema if config.ema else state.params, state.model_state, constants)
                scored = {}
                for name in [] if stopping else due:
                    values, pictures = scores[name](*model)
                    scored |= evaluation.prefixed(name, values)
                    metrics.write_images(done, evaluation.prefixed(name, pictures))
                if best.rpartition("/")[0] in due and best not in scored and not stopping:
                    raise UserError(f"config.best: there is no {best!r}; choose from {', '.join(scored)}")
                if logging or due:
                    means = window.means()
                    bar.set_postfix(loss=f"{means['loss']:.4g}")
                    metrics.write(done, {**means, **scored})
                if saving or best in scored:
                    checkpoints.save(state, scored.get(best))
            if stopping:
                checkpoints.wait()
                _say(f"stopped by SIGTERM at step {done}, which is saved; run the same command again to go on")
                break
    return state


@contextlib.contextmanager
def _profiled(step: Callable, folder: pathlib.Path, wanted: bool) -> Iterator[Callable]:
    """`step` itself, or where it is `wanted` one that writes a trace of some of its calls to `folder`.

    A run that ends before the last of them has a trace of what it did. Of several hosts the first one writes.
    """
    calls, options = itertools.count(), jax.profiler.ProfileOptions()
    # Perfetto's file ends at a million events: calls in Python, of input and evaluation, would fill it in one step.
    options.python_tracer_level = 0
    with contextlib.ExitStack() as trace:

        def traced(*arguments: Any) -> tuple[TrainState, dict]:
            call = next(calls)
            if call == UNSEEN:
                recording = jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options)
                trace.enter_context(recording)
            with jax.profiler.StepTraceAnnotation("train", step_num=call):
                outputs = step(*arguments)
            if call == UNSEEN + PROFILED - 1:
                jax.block_until_ready(outputs)
                trace.close()
            return outputs

        yield traced if wanted and jax.process_index() == 0 else step


class _Window:
    """The metrics of the steps since the last look, kept on the devices so that the loop need not wait for them."""

    def __init__(self, system: System, workdir: pathlib.Path):
        self._system, self._workdir = system, workdir
        self._unseen: list[dict[str, jax.Array]] = []
        self._values: list[dict[str, np.ndarray]] = []

    def add(self, outputs: dict[str, jax.Array]) -> None:
        self._unseen.append(outputs)

    def check(self, done: int) -> None:
        """Looks at the steps up to `done` updates. Raises UserError at the first that was not finite."""
        seen, self._unseen = parallel.to_host(self._unseen), []
        for step, one in enumerate(seen, start=done - len(seen)):
            if not one["finite"]:
                self._stop(step, one)
        self._values += seen

    def means(self) -> dict[str, float]:
        """The means of the steps checked since the last call."""
        values, self._values = self._values, []
        return {name: float(np.mean([one[name] for one in values])) for name in values[0]}

    def _stop(self, step: int, values: dict[str, np.ndarray]) -> None:
        host = jax.process_index()
        path = self._workdir / (f"nonfinite_{step}_host{host}.npz" if host else f"nonfinite_{step}.npz")
        with disk_errors(self._workdir):
            np.savez(path, **next(self._system.train_data(step)))
        raise UserError(
            f"not finite at step {step} (loss {values['loss']:g}, gradient norm {values['grad_norm']:g}); its batch "
            f"is in {path}, nothing was saved after it; look at the batch, or lower config.optim.lr"
        )


def _best(system: System, config: ml_collections.ConfigDict) -> str:
    """config.best, which may be left out. Raises UserError where no evaluator has its name."""
    best = config.get("best", "")
    if best and best.rpartition("/")[0] not in system.evaluators:
        raise UserError(f"config.best: {best!r} is not evaluator/metric with an evaluator of {list(system.evaluators)}")
    return best


def _mean(leaf: jax.Array) -> jax.Array:
    """Mean over all devices; counters and other integers are the same everywhere and stay as they are."""
    return lax.pmean(leaf, parallel.AXIS) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


def _moved_average(average: Tree, params: Tree, step: jax.Array, decay: float) -> Tree:
    """Exponential moving average that forgets faster while it is young, as in TensorFlow's ExponentialMovingAverage."""
    count = step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda old, new: old + weight.astype(old.dtype) * (new - old), average, params)


def _check_shapes(found: Tree, wanted: Tree, source: str) -> None:
    """Raises UserError naming the arrays of `source` that are missing, left over or of another shape."""
    shapes = [
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (found, wanted))
    ]
    wrong = sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        raise UserError(
            f"config.init: {source} does not fit this configuration: {len(wrong)} arrays differ, {wrong[:4]}"
        )


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _progress(start: int, steps: int) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=steps, initial=start, unit="step", mininterval=interval, disable=jax.process_index() != 0)


def _say(line: Any) -> None:
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)
