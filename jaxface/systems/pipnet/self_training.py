"""Self-training with curriculum (PIPNet §3.4; lib/train_gssl.py): rounds of training on pseudo-labels.

Round 0 is trained on labelled faces only. In every later round the previous round's model predicts pseudo-labels for
all unlabelled faces, and a new model, initialised as in round 0 (config.init), is trained on both. A coarse task (cls2,
cls3) supervises only the score map on a coarser grid, where pseudo-labels are more often right. The trainer and the
scorer are arguments, since a system does not import them.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import lax

from jaxface import checkpoint, config_file, json_files, parallel, run_length, storage
from jaxface.errors import UserError, disk_errors, local_path
from jaxface.system import Batch, System, Tree
from jaxface.systems import pipnet
from jaxface.systems.pipnet import decoding, losses, model

logger = logging.getLogger(__name__)

# Tasks of the original's rounds.
ROUNDS = ("std", "cls3", "cls2", "std", "std", "std")
RESULTS_FILE = "rounds.json"
# Cells of the full grid per side of a cell of the coarsest task, cls3.
COARSEST_POOLING = 4

Fit = Callable[[System, ml_collections.ConfigDict, pathlib.Path], Any]
CompileScore = Callable[..., Callable[[Tree, Tree, Tree], tuple[dict[str, float], Any]]]
Result = dict[str, Any]


def run(
    config: ml_collections.ConfigDict,
    workdir: checkpoint.Path,
    fit: Fit,
    compile_score: CompileScore,
    rounds: Sequence[str] = ROUNDS,
    first: checkpoint.Path | None = None,
) -> list[Result]:
    """Trains the rounds in `workdir`/round_0, round_1, …, and records them in `workdir`/rounds.json.

    The number of steps and the learning rate boundaries of later rounds grow with the number of examples, so that
    epochs keep their length. Finished rounds are skipped; an interrupted one is resumed.

    Args:
        config: configuration of round 0.
        workdir: folder of the rounds.
        fit: `jaxface.training.fit`.
        compile_score: `jaxface.evaluation.compile_score`.
        rounds: task of each round, the first "std".
        first: workdir of a trained model that replaces round 0.

    Returns:
        For each round a dict with round, task, workdir and errors {evaluator: {metric: value}}.

    Raises:
        UserError: `rounds` is malformed or differs from the earlier run in this workdir, or no unlabelled data sets are
            configured.
    """
    config, workdir = run_length.resolve(config), local_path(workdir, "--workdir")
    _check(config, rounds)
    results = _finished_rounds(workdir, rounds)
    for number in range(len(results), len(rounds)):
        previous = storage.path(results[-1]["workdir"]) if results else None
        if number == 0 and first:
            folder, round_config = storage.path(first), _pretrained_config(config, first)
        else:
            folder = workdir / f"round_{number}"
            round_config = _round_config(config, folder, rounds[number], previous)
            if previous:
                write_pseudo_labels(round_config, previous)
            round_config = pipnet.resolve(round_config)
            fit(pipnet.build(round_config), round_config, folder)
        errors = _score(pipnet.build(round_config), round_config, folder, compile_score)
        results.append({"round": number, "task": rounds[number], "workdir": str(folder), "errors": errors})
        _write(workdir, results)
        if jax.process_index() == 0:
            logger.info("%s", table(results[-1:]))
    return results


def write_pseudo_labels(config: ml_collections.ConfigDict, workdir: checkpoint.Path) -> None:
    """Writes pseudo-labels by the model of `workdir` for each data set of `config.data.unlabelled`, unless they exist.

    They are written to `config.data.pseudo_labels`.
    """
    from jaxface.systems.pipnet import self_training_data as data

    for name in config.data.unlabelled:
        if not data.is_labelled(config, name):
            data.write_labels(config, name, predict_labels(config, workdir, name))


def predict_labels(config: ml_collections.ConfigDict, workdir: checkpoint.Path, name: str) -> dict[str, np.ndarray]:
    """Pseudo-labels of the data set `name` by the model of `workdir`, on all devices, in the order of the records.

    Returns `landmarks` (E,L,2), pixels of the record's image, and `crop_landmarks` (E,L,2), crop units. Low scores are
    not filtered out, as in the original. Raises UserError if they are not finite.
    """
    from jaxface.systems.pipnet import self_training_data as data

    model_config = config_file.load(workdir)
    step, votes = _labelling_step(model_config)
    params, model_state = checkpoint.load_params(workdir)
    compiled = parallel.compile_step(step, config.backend, donate=False)
    variables, votes = (parallel.replicate(tree, config.backend) for tree in ({"params": params, **model_state}, votes))
    model_config.data, model_config.batch_size = config.data, config.batch_size
    batches = [
        parallel.to_host(compiled(variables, parallel.shard(batch, config.backend), votes))
        for batch in data.unlabelled_stream(model_config, name)
    ]
    labels = {key: _in_order([batch[key] for batch in batches]) for key in batches[0]}
    mask = labels.pop("mask")
    labels = {key: values[mask] for key, values in labels.items()}
    if not np.isfinite(labels["landmarks"]).all():
        raise UserError(f"{workdir}: the model's landmarks for {name} are not finite; train it again")
    return labels


def _labelling_step(config: ml_collections.ConfigDict) -> tuple[Callable, decoding.Votes]:
    """The per-device step that labels a batch with the configured model, and the model's votes."""
    net = model.model_from_config(config.model)
    meanface = decoding.check_meanface(config.model.meanface, config.model.landmarks)
    table = decoding.neighbor_table(meanface, config.model.neighbors)

    def step(variables: Tree, batch: Batch, votes: decoding.Votes) -> dict[str, jax.Array]:
        landmarks = model.predict_landmarks(net, votes, variables, batch["image"])["landmarks"]
        pixels = batch["corner"][:, None] + landmarks * batch["extent"][:, None]
        arrays = {"landmarks": pixels, "crop_landmarks": landmarks, "mask": batch["mask"]}
        return {key: lax.all_gather(array, parallel.AXIS, tiled=True) for key, array in arrays.items()}

    return step, decoding.votes(table, config.model.merge)


def table(results: Sequence[Result], metric: str = "nme_crop") -> str:
    """Text table of the errors on each test set, one line per round."""
    names = list(results[0]["errors"])
    lines = [f"round  task  {'  '.join(names)}   ({metric}, %)"]
    for result in results:
        values = [f"{result['errors'][name][metric]:{len(name)}.2f}" for name in names]
        lines.append(f"{result['round']:5d}  {result['task']:4s}  {'  '.join(values)}")
    return "\n".join(lines)


def _check(config: ml_collections.ConfigDict, rounds: Sequence[str]) -> None:
    unknown = sorted(set(rounds) - set(losses.TASKS))
    if unknown or not rounds or rounds[0] != "std":
        raise UserError(
            f"--rounds {','.join(rounds)}: the first must be std, and each one of {', '.join(losses.TASKS)}; correct it"
        )
    if not config.data.unlabelled:
        raise UserError("config.data.unlabelled is empty; name prepared data sets to label")
    grid = config.model.image_size // config.model.stride
    if grid % COARSEST_POOLING and set(rounds) & {"cls2", "cls3"}:
        raise UserError(
            f"config.model.stride: the tasks cls2 and cls3 need a grid that is a multiple of {COARSEST_POOLING}, not "
            f"{grid}; choose another"
        )


def _round_config(
    config: ml_collections.ConfigDict, folder: pathlib.Path, task: str, previous: pathlib.Path | None
) -> ml_collections.ConfigDict:
    """The configuration of one round; `previous` is the workdir of the previous round, None for the first."""
    from jaxface.systems.pipnet import self_training_data as data

    round_config = config.copy_and_resolve_references()
    if previous is None:
        round_config.data.unlabelled = ()
        return round_config
    round_config.data.update(pseudo_labels=str(folder), task=task)
    labelled, unlabelled = data.count_examples(config)
    growth = 1 + unlabelled / labelled
    for section, key in ((round_config, "steps"), (round_config, "examples"), (round_config.optim, "boundaries")):
        section[key] = jax.tree.map(lambda steps: round(steps * growth), section[key])
    return round_config


def _pretrained_config(config: ml_collections.ConfigDict, workdir: checkpoint.Path) -> ml_collections.ConfigDict:
    """The configuration of an already trained model, with the test sets of `config`."""
    config_file.check_system(workdir, config.system)
    model_config = config_file.load(workdir)
    count = model_config.model.landmarks
    if count != (config.model.landmarks or count):
        raise UserError(
            f"{workdir} has {count} landmarks, the configuration {config.model.landmarks}; choose another model or "
            "config.model.landmarks"
        )
    model_config.data = config.data
    return model_config


def _score(
    system: System, config: ml_collections.ConfigDict, workdir: pathlib.Path, compile_score: CompileScore
) -> dict[str, dict[str, float]]:
    """Metrics of a trained round by the name of the evaluator."""
    trees = (*checkpoint.load_params(workdir), system.constants())
    replicated = [parallel.replicate(tree, config.backend) for tree in trees]
    errors = {}
    for name, evaluator in system.evaluators.items():
        errors[name], _ = compile_score(evaluator, config.backend)(*replicated)
    return errors


def _in_order(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Gathered batches (hosts * B,…) in the order of the records: each host reads a contiguous part of them."""
    parts = [np.split(batch, jax.process_count()) for batch in batches]
    by_host = [np.concatenate(host_parts) for host_parts in zip(*parts, strict=True)]
    return np.concatenate(by_host)


def _finished_rounds(workdir: pathlib.Path, rounds: Sequence[str]) -> list[Result]:
    """Results of the finished rounds. Raises UserError if their tasks are not the first of `rounds`."""
    path = workdir / RESULTS_FILE
    if not path.is_file():
        return []
    results = json_files.read(path, "restore the file, or choose another --workdir", list)
    tasks = [str(result.get("task")) if isinstance(result, dict) else "?" for result in results]
    if tasks != list(rounds[: len(tasks)]):
        raise UserError(
            f"{workdir} has the finished rounds {','.join(tasks)}; choose another --workdir, or --rounds that begin "
            "with these"
        )
    return results


def _write(workdir: pathlib.Path, results: Sequence[Result]) -> None:
    if jax.process_index() == 0:
        with disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            storage.write_text(workdir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
