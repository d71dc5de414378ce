"""Sources of the mean face: the configuration, the prepared data set, or the canonical face for rendered heads."""

import pathlib

import ml_collections
import numpy as np

from jaxface import prepared_data
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical

RENDERED = "rendered_heads"


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with its mean face, number of landmarks and flip map filled in where they are empty.

    An empty `model.meanface` is taken from the first training data set: for rendered heads the canonical face,
    otherwise "meanface" of the metadata of the prepared data set. An empty `data.flip` is then replaced by "flip" of
    the metadata, if present. A `model.landmarks` of 0 becomes the number of points of the mean face, and then
    `model.neighbors` at most one less. Raises UserError if no mean face is available.
    """
    config = config.copy_and_resolve_references()
    if not len(config.model.meanface):
        _set_meanface(config, config.data.datasets[0])
    if not config.model.landmarks:
        config.model.landmarks = len(config.model.meanface) // 2
        config.model.neighbors = min(config.model.neighbors, max(config.model.landmarks - 1, 1))
    return config


def _set_meanface(config: ml_collections.ConfigDict, name: str) -> None:
    """Sets `model.meanface` and an empty `data.flip` of `config` from the data set `name`."""
    dataset, _ = prepared_data.parse_name(name, "train")
    prepared_data.check_known(dataset, config.data.dir)
    prepared = prepared_data.newest_version(dataset, config.data.dir) is not None
    metadata = prepared_data.read_metadata(dataset, config.data.dir) if prepared else {}
    meanface = metadata.get("meanface")
    if name.startswith(RENDERED):
        meanface = rendered_meanface().ravel().tolist()
    if not meanface:
        raise UserError(
            f"config.model.meanface is empty, and {config.data.dir} has no mean face of {dataset}; prepare it, set "
            "--config.data.dir, or convert with --meanface FILE"
        )
    config.model.meanface = tuple(meanface)
    config.data.flip = config.data.flip or tuple(metadata.get("flip", ()))


def read(path: str) -> tuple[float, ...]:
    """The 2L numbers x y x y … of a mean face in crop units, from a text file of the original.

    Raises UserError if the file cannot be read or does not hold an even count of finite numbers.
    """
    try:
        numbers = tuple(float(word) for word in pathlib.Path(path).read_text(encoding="utf-8").split())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the original's meanface.txt") from error
    except ValueError as error:
        raise UserError(f"{path}: not a text of numbers ({error}); list x y of every landmark") from error
    if not numbers or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise UserError(f"{path}: {len(numbers)} numbers, or some are not finite; list x y of every landmark")
    return numbers


def rendered_meanface() -> np.ndarray:
    """Frontal view (68,2) of the canonical face's landmarks, in units of the square crop of rendered heads (`data`)."""
    face = canonical.queries("dense")[:, :2] * [1, -1]
    points = canonical.queries("68")[:, :2] * [1, -1]
    center, side = alignment.square_crop(np.concatenate([face.min(0), face.max(0)]))
    return (points - center) / side + 0.5
