"""Scoring a model: every example of every host once, with the moving average of the parameters where one is kept."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import lax

from jaxface import checkpoint, parallel
from jaxface.errors import UserError
from jaxface.system import Evaluator, System, Tree

PICTURES = 4

Score = Callable[[Tree, Tree, Tree], tuple[dict[str, float], dict[str, np.ndarray]]]


def compile_score(evaluator: Evaluator, backend: str = "pmap") -> Score:
    """`score(params, model_state, constants) -> (named floats, pictures)` of one evaluator, equal on all hosts.

    The arguments are replicated. Examples that only pad the last batch (`mask` False) are left out before `summarise`.
    The pictures (H,W,3), by number, are the first `PICTURES` of what `predict` calls "picture"; none if it has no such.
    """

    def step(model: tuple[Tree, Tree], batch: dict[str, jax.Array], constants: Tree) -> dict[str, jax.Array]:
        arrays = {**evaluator.predict(*model, batch, constants), "mask": batch["mask"]}
        return {name: lax.all_gather(array, parallel.AXIS, tiled=True) for name, array in arrays.items()}

    compiled = parallel.compile_step(step, backend, donate=False)

    def score(params: Tree, model_state: Tree, constants: Tree) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        parts: dict[str, list[np.ndarray]] = {}
        pictures: list[np.ndarray] = []
        for batch in evaluator.data():
            arrays = parallel.to_host(compiled((params, model_state), parallel.shard(batch, backend), constants))
            mask = arrays.pop("mask")
            if "picture" in arrays:
                pictures += list(arrays.pop("picture")[mask][: PICTURES - len(pictures)])
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array[mask])
        summary = evaluator.summarise({name: np.concatenate(arrays) for name, arrays in parts.items()})
        return {name: float(value) for name, value in summary.items()}, {
            str(number): picture for number, picture in enumerate(pictures)
        }

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
    params, model_state = checkpoint.load_params(workdir)
    model = [parallel.replicate(tree, config.backend) for tree in (params, model_state, system.constants())]
    results = {name: compile_score(system.evaluators[name], config.backend)(*model)[0] for name in chosen}
    if jax.process_index() == 0:
        with checkpoint.disk_errors(workdir):
            (pathlib.Path(workdir) / "eval.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of an evaluator under the names by which they are logged and chosen: "evaluator/metric"."""
    return {f"{name}/{key}": value for key, value in values.items()}
