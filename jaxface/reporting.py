"""What a training run does besides updates: logging, evaluation and saving, and when each is due."""

import dataclasses
import io
import pathlib

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from jaxface import evaluation, parallel
from jaxface.checkpoint import Checkpoints
from jaxface.errors import UserError, disk_errors
from jaxface.metric_writer import MetricWriter
from jaxface.system import System, TrainState, Tree


@dataclasses.dataclass(frozen=True)
class Due:
    """What is to be done after a step: names of evaluators to run, whether to log metrics and to save."""

    evaluators: tuple[str, ...]
    logging: bool
    saving: bool

    @property
    def anything(self) -> bool:
        return bool(self.evaluators) or self.logging or self.saving


class Reporter:
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

    def due(self, done: int, stopping: bool) -> Due:
        """What is to be done after `done` updates; a run that is `stopping` is saved but not evaluated."""
        finished = done == self._config.steps
        last = stopping or finished
        evaluators = [
            name for name, one in self._system.evaluators.items() if finished or _is_multiple(done, one.every)
        ]
        return Due(
            evaluators=() if stopping else tuple(evaluators),
            logging=last or bool(evaluators) or _is_multiple(done, self._config.log_every),
            saving=last or _is_multiple(done, self._config.save_every),
        )

    def report(self, done: int, due: Due, state: TrainState, constants: Tree) -> None:
        """Checks that all steps were finite, then evaluates, logs and saves what is due."""
        self._fetch(done)
        scores = self._evaluate(done, due.evaluators, state, constants)
        if due.logging:
            means = self._means()
            self._bar.set_postfix(loss=f"{means['loss']:.4g}")
            self._metrics.write(done, {**means, **scores})
        if due.saving or self._best in scores:
            self._metrics.flush()
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
        content = io.BytesIO()
        np.savez(content, **next(self._system.train_data(step)))
        with disk_errors(self._workdir):
            path.write_bytes(content.getvalue())
        raise UserError(
            f"not finite at step {step} (loss {values['loss']:g}, gradient norm {values['grad_norm']:g}); its batch "
            f"is in {path}, nothing was saved after it; check the batch, or lower config.optim.lr"
        )


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
