"""Scores a model on the data sets of a system: every example of all hosts once, with the EMA parameters if kept."""

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import lax

from jaxface import checkpoint, config_file, error_plots, parallel, storage
from jaxface.errors import UserError, disk_errors
from jaxface.system import Evaluator, System, Tree

# Example images of an evaluation, written to TensorBoard and to the folder `pictures`.
MAX_IMAGES = 4
PICTURE, PICTURE_MASK = "picture", "picture_mask"
RESULTS_FILE = "eval.json"
# `evaluate` with `pictures`: number of examples of the contact sheet, and the largest error of the CED plot in percent.
NUM_WORST = 16
CED_LIMIT_PERCENT = 10.0
PICTURES = "pictures"

Score = Callable[[Tree, Tree, Tree], tuple[dict[str, float], dict[str, np.ndarray]]]


class Ranking:
    """The errors of all examples of an evaluator, and the pictures of the worst.

    Attributes:
        errors: (E,) float64 fractions so far, in the order of the examples.
        worst: (error, number of the example, picture (H,W,3)) of the NUM_WORST largest, the largest first.
    """

    def __init__(self, ranked: Callable[[dict[str, np.ndarray]], np.ndarray]):
        self._ranked = ranked
        self.errors = np.zeros(0)
        self.worst: list[tuple[float, int, np.ndarray]] = []

    def add(self, arrays: dict[str, np.ndarray], pictures: np.ndarray | None) -> None:
        """Takes the arrays of further examples and their pictures."""
        errors = np.asarray(self._ranked(arrays), np.float64)
        if pictures is not None:
            numbers = range(len(self.errors), len(self.errors) + len(errors))
            labelled = [item for item in zip(errors, numbers, pictures, strict=True) if not np.isnan(item[0])]
            self.worst = sorted(self.worst + labelled, key=lambda item: -item[0])[:NUM_WORST]
        self.errors = np.concatenate([self.errors, errors])


def compile_score(evaluator: Evaluator, backend: str = "pmap", ranking: Ranking | None = None) -> Score:
    """Compiles the scoring of one evaluator.

    Args:
        evaluator: data, prediction and summary.
        backend: see `parallel.compile_step`.
        ranking: takes the errors and pictures of all examples.

    Returns:
        `score(params, model_state, constants) -> (metrics, images)` for replicated arguments, equal on all hosts.
        Examples that pad the last batch (`mask` False) are left out before `summarise`. `images` are the first
        `MAX_IMAGES` of the array that `predict` calls "picture", (H,W,3) by number (with several devices, the first of
        each); empty if there is none.
    """

    def step(model: tuple[Tree, Tree], batch: dict[str, jax.Array], constants: Tree) -> dict[str, jax.Array]:
        arrays = {**evaluator.predict(*model, batch, constants), "mask": batch["mask"]}
        if PICTURE in arrays and ranking is None:
            # All pictures of a large batch would fill the memory of every device.
            shown = -(-MAX_IMAGES // lax.axis_size(parallel.AXIS))
            arrays |= {PICTURE: arrays[PICTURE][:shown], PICTURE_MASK: batch["mask"][:shown]}
        return {name: lax.all_gather(array, parallel.AXIS, tiled=True) for name, array in arrays.items()}

    compiled = parallel.compile_step(step, backend, donate=False)

    def score(params: Tree, model_state: Tree, constants: Tree) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        parts: dict[str, list[np.ndarray]] = {}
        images: list[np.ndarray] = []
        for batch in evaluator.data():
            arrays = parallel.to_host(compiled((params, model_state), parallel.shard(batch, backend), constants))
            mask = arrays.pop("mask")
            pictures, shown = arrays.pop(PICTURE, None), arrays.pop(PICTURE_MASK, mask)
            arrays = {name: array[mask] for name, array in arrays.items()}
            if pictures is not None:
                pictures = pictures[shown]
                images += list(pictures[: MAX_IMAGES - len(images)])
            if ranking is not None:
                ranking.add(arrays, pictures)
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array)
        summary = evaluator.summarise({name: np.concatenate(arrays) for name, arrays in parts.items()})
        metrics = {name: float(value) for name, value in summary.items()}
        return metrics, {str(number): image for number, image in enumerate(images)}

    return score


def evaluate(
    system: System,
    config: ml_collections.ConfigDict,
    workdir: checkpoint.Path,
    names: Sequence[str] | None = None,
    pictures: bool = False,
) -> dict[str, dict[str, float]]:
    """Scores the model of a workdir and writes the metrics to its `eval.json`.

    Args:
        system: the system that `config` describes.
        config: the configuration of the workdir.
        workdir: folder of a training run or of a converted checkpoint.
        names: evaluators to run (default: all).
        pictures: whether to write the CED and the worst examples of each evaluator into the folder `pictures`.

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
        if pictures and system.evaluators[name].ranked is None:
            raise UserError(f"--pictures: {config.system} has no landmark errors to rank; leave it out")
    config_file.check_system(workdir, config.system)
    params, model_state = checkpoint.load_params(workdir)
    model = [parallel.replicate(tree, config.backend) for tree in (params, model_state, system.constants())]
    results = {}
    for name in chosen:
        evaluator = system.evaluators[name]
        ranking = Ranking(evaluator.ranked) if pictures else None
        results[name] = compile_score(evaluator, config.backend, ranking)(*model)[0]
        if ranking is not None and jax.process_index() == 0:
            with storage.staged(storage.path(workdir) / PICTURES) as folder:
                write_pictures(ranking, folder, name)
    if jax.process_index() == 0:
        with disk_errors(workdir):
            (storage.path(workdir) / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n")
    return results


def write_pictures(ranking: Ranking, folder: pathlib.Path, name: str) -> None:
    """Writes <name>_ced.png and <name>_worst.png; examples without labels (NaN) are left out of the CED."""
    stem = re.sub(r"[^\w-]", "_", name)
    errors = 100 * ranking.errors[~np.isnan(ranking.errors)]
    error_plots.write_ced_plot(folder / f"{stem}_ced.png", {name: errors}, CED_LIMIT_PERCENT, "NME in %")
    titles = [f"{number}: {100 * error:.1f} %" for error, number, _ in ranking.worst]
    error_plots.write_contact_sheet(folder / f"{stem}_worst.png", [picture for *_, picture in ranking.worst], titles)


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of an evaluator under the names by which they are logged and chosen: "evaluator/metric"."""
    return {f"{name}/{key}": value for key, value in values.items()}
