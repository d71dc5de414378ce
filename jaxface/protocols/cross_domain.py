"""PIPNet's cross-domain table (Jin et al., IJCV 2021): one 68-point model on 300-W, COFW-68 and WFLW-68.

The crops are those of the self-training experiments (lib/preprocess_gssl.py) and the NME is that of the original, over
the outer eye corners in units of the crop. The three sets are prepared once below OUTPUT/data and read again by later
runs. Reads with TensorFlow (extra `data`).
"""

import functools
import pathlib
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from jaxface import evaluation, landmark_metrics, parallel, prepared_data, system
from jaxface.errors import UserError
from jaxface.protocols.protocol import WORST, Item, Outcome, Protocol, Request
from jaxface.system import Evaluator

# {row: (prepared data set, its split, folder below manual_dir)}.
SETS = {
    "300w": ("300w/gssl", "test", "300W"),
    "300w_common": ("300w/gssl", "test_common", "300W"),
    "300w_challenge": ("300w/gssl", "test_challenge", "300W"),
    "cofw_68": ("cofw/68", "test", "COFW"),
    "wflw_68": ("wflw/68", "test", "WFLW"),
}
EYE_CORNERS = (36, 45)
TREE = "300W/, COFW/ and WFLW/, each with the files that launch.prepare expects for 300w, cofw/68 and wflw"
LIMIT_PERCENT = 10.0


def run(request: Request) -> Outcome:
    """Scores a PIPNet of 68 landmarks; prepares the sets that are not yet below OUTPUT/data."""
    model = request.model()
    if model.config.system != "pipnet" or model.config.model.landmarks != 68:
        raise UserError("--workdir: cross_domain scores a pipnet of 68 landmarks; give the workdir of one")
    data_dir = request.output / "data"
    _prepare(request.manual_dir, data_dir)
    config = model.config.copy_and_resolve_references()
    config.data.dir, config.data.eye_corners = str(data_dir), EYE_CORNERS
    config.data.evaluate = tuple(f"{name}:{split}" for name, split, _ in SETS.values())
    built = system.build(config, "the configuration")
    state = [parallel.replicate(tree, config.backend) for tree in (model.params, model.model_state, built.constants())]
    table, curves = {}, {}
    for row, (name, split, _) in SETS.items():
        kept: dict[str, np.ndarray] = {}
        evaluator = _keeping(built.evaluators[f"{name}:{split}"], kept)
        table[row], _ = evaluation.compile_score(evaluator, config.backend)(*state)
        curves[row] = 100 * kept["nme_crop"]
    scored: list[tuple[float, str, int]] = []
    for row, errors in curves.items():
        scored += [(error, row, number) for number, error in enumerate(errors)]
    worst = sorted(scored, reverse=True)
    pictures: dict[tuple[str, int], np.ndarray] = {}
    for row, (name, split, _) in SETS.items():
        numbers = {number for _, other, number in worst[:WORST] if other == row}
        if numbers:
            found = _marked_crops(built.evaluators[f"{name}:{split}"], numbers)
            pictures |= {(row, number): image for number, image in found.items()}
    items = [
        Item(
            f"{row} {number}",
            float(error),
            (row,),
            functools.partial(pictures.get, (row, number)) if (row, number) in pictures else None,
        )
        for error, row, number in worst
    ]
    return Outcome(table, items, curves, LIMIT_PERCENT, "NME (% of the outer eye distance)")


def _prepare(manual_dir: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Prepares the data sets that are not prepared. Raises UserError if their files are missing."""
    from jaxface.data import prepare

    for name, folder in {name: folder for name, _, folder in SETS.values()}.items():
        if prepared_data.newest_version(name, data_dir) is not None:
            continue
        if not (manual_dir / folder).is_dir():
            raise UserError(f"{manual_dir}: has no folder {folder}; expected {TREE}")
        prepare.prepare(name, str(data_dir), str(manual_dir / folder))


def _keeping(evaluator: Evaluator, kept: dict[str, np.ndarray]) -> Evaluator:
    """The evaluator, whose summary also puts the arrays of all examples into `kept`."""

    def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
        kept.update(arrays)
        return evaluator.summarise(arrays)

    return Evaluator(evaluator.data, evaluator.predict, summarise, evaluator.every)


def _marked_crops(evaluator: Evaluator, numbers: Collection[int]) -> dict[int, np.ndarray]:
    """The crops (S,S,3) of some examples of an evaluator with their true landmarks, by number."""
    found, count = {}, 0
    for batch in evaluator.data():
        for index in np.flatnonzero(batch["mask"]):
            if count in numbers:
                image, landmarks = (jnp.asarray(batch[name][index])[None] for name in ("image", "landmarks"))
                truth = image.shape[1] * landmarks
                found[count] = np.asarray(landmark_metrics.mark_landmarks(image, truth, truth)[0])
            count += 1
    return found


CROSS_DOMAIN = Protocol(
    systems=("pipnet",),
    tree=TREE,
    published="the numbers of the paper's cross-domain table (Jin et al., IJCV 2021, NME in %) are not included here: "
    "they could not be verified",
    run=run,
)
