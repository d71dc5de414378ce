"""Scoring a model: every example of every host once, with the moving average of the parameters where one is kept."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import lax

from jaxface import checkpoint, parallel
from jaxface.errors import UserError
from jaxface.system import Evaluator, System, Tree

Score = Callable[[Tree, Tree, Tree], dict[str, float]]


def compile_score(evaluator: Evaluator, backend: str = "pmap") -> Score:
    """`score(params, extra, frozen) -> named floats` for one evaluator, equal on all hosts; replicated arguments.

    Examples that only pad the last batch (`mask` False) are left out before `summarise`.
    """

    def step(model: tuple[Tree, Tree], batch: dict[str, jax.Array], frozen: Tree) -> dict[str, jax.Array]:
        arrays = {**evaluator.predict(*model, batch, frozen), "mask": batch["mask"]}
        return {name: lax.all_gather(array, parallel.AXIS, tiled=True) for name, array in arrays.items()}

    compiled = parallel.compile_step(step, backend, donate=False)

    def score(params: Tree, extra: Tree, frozen: Tree) -> dict[str, float]:
        parts: dict[str, list[np.ndarray]] = {}
        for batch in evaluator.data():
            arrays = parallel.to_host(compiled((params, extra), parallel.shard(batch, backend), frozen))
            mask = arrays.pop("mask")
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array[mask])
        summary = evaluator.summarise({name: np.concatenate(arrays) for name, arrays in parts.items()})
        return {name: float(value) for name, value in summary.items()}

    return score


def evaluate(
    system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path, names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """{evaluator: {metric: value}} of the model in `workdir`, also written to its `eval.json`.

    `names` chooses among the evaluators (default: all). Raises UserError for a name that does not exist, a workdir of
    another system, and one without a readable checkpoint.
    """
    chosen = list(system.evaluators) if names is None else list(names)
    for name in chosen:
        if name not in system.evaluators:
            raise UserError(f"{config.system} is not evaluated on {name!r}; choose from {', '.join(system.evaluators)}")
    checkpoint.check_system(workdir, config.system)
    params, extra = checkpoint.load_params(workdir)
    model = [parallel.replicate(tree, config.backend) for tree in (params, extra, system.frozen())]
    results = {name: compile_score(system.evaluators[name], config.backend)(*model) for name in chosen}
    if jax.process_index() == 0:
        with checkpoint.disk_errors(workdir):
            (pathlib.Path(workdir) / "eval.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def scalars(results: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Results under the names by which they are logged and chosen: "evaluator/metric"."""
    return {f"{name}/{metric}": value for name, metrics in results.items() for metric, value in metrics.items()}
