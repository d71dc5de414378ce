"""Scores a model on the data sets of a system: every example of all hosts once, with the EMA parameters if kept."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import lax

from jaxface import checkpoint, config_file, parallel
from jaxface.errors import UserError, disk_errors
from jaxface.system import Evaluator, System, Tree

# Example images of an evaluation, written to TensorBoard and to the folder `pictures`.
MAX_IMAGES = 4
RESULTS_FILE = "eval.json"

Score = Callable[[Tree, Tree, Tree], tuple[dict[str, float], dict[str, np.ndarray]]]


def compile_score(evaluator: Evaluator, backend: str = "pmap") -> Score:
    """Compiles the scoring of one evaluator.

    Args:
        evaluator: data, prediction and summary.
        backend: see `parallel.compile_step`.

    Returns:
        `score(params, model_state, constants) -> (metrics, images)` for replicated arguments, equal on all hosts.
        Examples that pad the last batch (`mask` False) are left out before `summarise`. `images` are the first
        `MAX_IMAGES` of the array that `predict` calls "picture", (H,W,3) by number; empty if there is none.
    """

    def step(model: tuple[Tree, Tree], batch: dict[str, jax.Array], constants: Tree) -> dict[str, jax.Array]:
        arrays = {**evaluator.predict(*model, batch, constants), "mask": batch["mask"]}
        return {name: lax.all_gather(array, parallel.AXIS, tiled=True) for name, array in arrays.items()}

    compiled = parallel.compile_step(step, backend, donate=False)

    def score(params: Tree, model_state: Tree, constants: Tree) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        parts: dict[str, list[np.ndarray]] = {}
        images: list[np.ndarray] = []
        for batch in evaluator.data():
            arrays = parallel.to_host(compiled((params, model_state), parallel.shard(batch, backend), constants))
            mask = arrays.pop("mask")
            if "picture" in arrays:
                images += list(arrays.pop("picture")[mask][: MAX_IMAGES - len(images)])
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array[mask])
        summary = evaluator.summarise({name: np.concatenate(arrays) for name, arrays in parts.items()})
        metrics = {name: float(value) for name, value in summary.items()}
        return metrics, {str(number): image for number, image in enumerate(images)}

    return score


def evaluate(
    system: System, config: ml_collections.ConfigDict, workdir: checkpoint.Path, names: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Scores the model of a workdir and writes the metrics to its `eval.json`.

    Args:
        system: the system that `config` describes.
        config: the configuration of the workdir.
        workdir: folder of a training run or of a converted checkpoint.
        names: evaluators to run (default: all).

    Returns:
        {evaluator: {metric: value}}.

    Raises:
        UserError: for a configuration without test sets, an unknown name, a workdir of another system, or one without
            a readable checkpoint.
    """
    chosen = list(system.evaluators) if names is None else list(names)
    if not chosen:
        raise UserError(f"{workdir}: its config.json names no test sets; set data.evaluate in it")
    for name in chosen:
        if name not in system.evaluators:
            choices = ", ".join(system.evaluators)
            raise UserError(f"--dataset: {config.system} is not evaluated on {name!r}; choose from {choices}")
    config_file.check_system(workdir, config.system)
    params, model_state = checkpoint.load_params(workdir)
    model = [parallel.replicate(tree, config.backend) for tree in (params, model_state, system.constants())]
    results = {name: compile_score(system.evaluators[name], config.backend)(*model)[0] for name in chosen}
    if jax.process_index() == 0:
        with disk_errors(workdir):
            (pathlib.Path(workdir) / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n")
    return results


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of an evaluator under the names by which they are logged and chosen: "evaluator/metric"."""
    return {f"{name}/{key}": value for key, value in values.items()}
