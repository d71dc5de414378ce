"""Self-training with curriculum (PIPNet §3.4; lib/train_gssl.py): rounds of training, each on the last one's labels.

Round 0 learns from labelled faces only. Every later round starts anew: the last model labels all unlabelled faces, and
a new one learns from both. With a coarse task the labels only say in which cell of a coarser grid a landmark lies, in
which they err less. The trainer and the scorer come from outside: a system does not know them.
"""

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
from jaxface.system import Batch, System, Tree
from jaxface.systems import pipnet
from jaxface.systems.pipnet import decoding, losses, model

ROUNDS = ("std", "cls3", "cls2", "std", "std", "std")
RESULTS_FILE = "rounds.json"
COARSEST = 4

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
    """Trains the rounds in `workdir`/round_0, round_1, … and returns what `workdir`/rounds.json says of them.

    `rounds` is the task of each round, the first "std"; `first` a trained workdir that is taken as round 0. fit and
    compile_score are those of `jaxface.training` and `jaxface.evaluation`. Steps and learning rate boundaries of a
    later round grow with the examples, so that epochs stay as long. A finished round is not done again; one that was
    interrupted goes on. A result has round, task, workdir and errors {evaluator: {metric: value}}. Raises UserError
    for rounds that are none, or others than those that were begun, and where there is nothing to label.
    """
    config, workdir = config.copy_and_resolve_references(), pathlib.Path(workdir)
    _check(config, rounds)
    results = _finished(workdir, rounds)
    for number in range(len(results), len(rounds)):
        last = pathlib.Path(results[-1]["workdir"]) if results else None
        if number == 0 and first:
            folder, own = pathlib.Path(first), _given(config, first)
        else:
            folder = workdir / f"round_{number}"
            own = _round_config(config, folder, rounds[number], last)
            if last:
                label_all(own, last)
            own = pipnet.resolve(own)
            fit(pipnet.build(own), own, folder)
        errors = _score(pipnet.build(own), own, folder, compile_score)
        results.append({"round": number, "task": rounds[number], "workdir": str(folder), "errors": errors})
        _write(workdir, results)
        if jax.process_index() == 0:
            print(table(results[-1:]), flush=True)
    return results


def label_all(config: ml_collections.ConfigDict, workdir: checkpoint.Path) -> None:
    """Writes what the model of `workdir` finds in config.data.unlabelled to config.data.pseudo_labels, once."""
    from jaxface.systems.pipnet import self_training_data as data

    for name in config.data.unlabelled:
        if not data.is_labelled(config, name):
            data.write_labels(config, name, find_labels(config, workdir, name))


def find_labels(config: ml_collections.ConfigDict, workdir: checkpoint.Path, name: str) -> dict[str, np.ndarray]:
    """Landmarks that the model of `workdir` finds in the data set `name`, on all devices, in the order of its records.

    `landmarks` (E,L,2) px of the record's picture and `crop_landmarks` (E,L,2) in units of the crop; all of them are
    kept, however sure. Raises UserError where they are not finite.
    """
    from jaxface.systems.pipnet import self_training_data as data

    own = checkpoint.load_config(workdir)
    net = model.model_from_config(own.model)
    face = decoding.check_meanface(own.model.meanface, own.model.landmarks)
    votes = decoding.votes(decoding.neighbor_table(face, own.model.neighbors), own.model.merge)

    def step(variables: Tree, batch: Batch, votes: decoding.Votes) -> dict[str, jax.Array]:
        found = model.answer(net, votes, variables, batch["image"])["landmarks"]
        pixels = batch["corner"][:, None] + found * batch["extent"][:, None]
        arrays = {"landmarks": pixels, "crop_landmarks": found, "mask": batch["mask"]}
        return {key: lax.all_gather(array, parallel.AXIS, tiled=True) for key, array in arrays.items()}

    params, model_state = checkpoint.load_params(workdir)
    compiled = parallel.compile_step(step, config.backend, donate=False)
    variables, votes = (parallel.replicate(tree, config.backend) for tree in ({"params": params, **model_state}, votes))
    own.data, own.batch_size = config.data, config.batch_size
    batches = [
        parallel.to_host(compiled(variables, parallel.shard(batch, config.backend), votes))
        for batch in data.unlabelled_stream(own, name)
    ]
    labels = {key: _in_order([batch[key] for batch in batches]) for key in batches[0]}
    mask = labels.pop("mask")
    labels = {key: values[mask] for key, values in labels.items()}
    if not np.isfinite(labels["landmarks"]).all():
        raise UserError(f"the model of {workdir} finds landmarks in {name} that are not finite; train it again")
    return labels


def table(results: Sequence[Result], metric: str = "nme_crop") -> str:
    """The errors of the rounds on each test set, a line a round."""
    names = list(results[0]["errors"])
    lines = [f"round  task  {'  '.join(names)}   ({metric}, %)"]
    for result in results:
        values = [f"{result['errors'][name][metric]:{len(name)}.2f}" for name in names]
        lines.append(f"{result['round']:5d}  {result['task']:4s}  {'  '.join(values)}")
    return "\n".join(lines)


def _check(config: ml_collections.ConfigDict, rounds: Sequence[str]) -> None:
    unknown = sorted(set(rounds) - set(losses.TASKS))
    if unknown or not rounds or rounds[0] != "std":
        raise UserError(f"rounds {','.join(rounds)}: the first is std, the others of {', '.join(losses.TASKS)}")
    if not config.data.unlabelled:
        raise UserError("nothing to label: name prepared data sets in config.data.unlabelled")
    grid = config.model.image_size // config.model.stride
    if grid % COARSEST and set(rounds) & {"cls2", "cls3"}:
        raise UserError(f"the curriculum needs a grid that {COARSEST} divides, not {grid}; choose another model.stride")


def _round_config(
    config: ml_collections.ConfigDict, folder: pathlib.Path, task: str, last: pathlib.Path | None
) -> ml_collections.ConfigDict:
    """The configuration of one round; without a `last` round, of the first."""
    from jaxface.systems.pipnet import self_training_data as data

    own = config.copy_and_resolve_references()
    if last is None:
        own.data.unlabelled = ()
        return own
    own.data.update(pseudo_labels=str(folder), task=task)
    labelled, unlabelled = data.count_examples(config)
    for holder, key in ((own, "steps"), (own.optim, "boundaries")):
        holder[key] = jax.tree.map(lambda steps: round(steps * (1 + unlabelled / labelled)), holder[key])
    return own


def _given(config: ml_collections.ConfigDict, workdir: checkpoint.Path) -> ml_collections.ConfigDict:
    """The configuration of a model that was trained before, to be scored on the test sets of `config`."""
    checkpoint.check_system(workdir, config.system)
    own = checkpoint.load_config(workdir)
    if own.model.landmarks != (config.model.landmarks or own.model.landmarks):
        raise UserError(f"{workdir} has {own.model.landmarks} landmarks, the configuration {config.model.landmarks}")
    own.data = config.data
    return own


def _score(
    system: System, config: ml_collections.ConfigDict, workdir: pathlib.Path, compile_score: CompileScore
) -> dict[str, dict[str, float]]:
    trees = (*checkpoint.load_params(workdir), system.constants())
    replicated = [parallel.replicate(tree, config.backend) for tree in trees]
    return {name: compile_score(one, config.backend)(*replicated)[0] for name, one in system.evaluators.items()}


def _in_order(batches: Sequence[np.ndarray]) -> np.ndarray:
    """Gathered batches (hosts * B,…) in the order of the records: each host reads a part of its own."""
    parts = [np.split(batch, jax.process_count()) for batch in batches]
    return np.concatenate([part for host in zip(*parts, strict=True) for part in host])


def _finished(workdir: pathlib.Path, rounds: Sequence[str]) -> list[Result]:
    """The rounds that are done. UserError where they are not the first of `rounds`."""
    path = workdir / RESULTS_FILE
    if not path.is_file():
        return []
    results = json.loads(path.read_text())
    tasks = [result["task"] for result in results]
    if tasks != list(rounds[: len(tasks)]):
        raise UserError(f"{workdir} has the rounds {','.join(tasks)}; choose another workdir, or rounds that go on so")
    return results


def _write(workdir: pathlib.Path, results: Sequence[Result]) -> None:
    if jax.process_index() == 0:
        with checkpoint.disk_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            partial = workdir / f"{RESULTS_FILE}.partial"
            partial.write_text(json.dumps(results, indent=2) + "\n")
            partial.replace(workdir / RESULTS_FILE)
