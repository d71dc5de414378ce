"""Sources of the mean face: the configuration, the prepared data set, or the canonical face for rendered heads."""

import json
import pathlib

import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical

METADATA_FILE = "metadata.json"
RENDERED = "rendered_heads"


def complete(config: ml_collections.ConfigDict) -> None:
    """Fills in what the first training set determines: the mean face, the number of landmarks and the flip map.

    An empty `config.model.meanface` is taken from the data set's metadata, or for rendered heads from the canonical
    face. If `config.model.landmarks` is 0, it becomes the number of points of the mean face. An empty
    `config.data.flip` is taken from the metadata, where a user's own landmark folder has one. Raises UserError if there
    is no mean face.
    """
    if not len(config.model.meanface):
        _fill(config, config.data.datasets[0])
    config.model.landmarks = config.model.landmarks or len(config.model.meanface) // 2


def _fill(config: ml_collections.ConfigDict, name: str) -> None:
    metadata = _metadata(pathlib.Path(config.data.dir) / name)
    meanface = metadata.get("meanface")
    if name.startswith(RENDERED):
        meanface = rendered_meanface().ravel().tolist()
    if not meanface:
        raise UserError(
            f"config.model.meanface is empty, and {name} is not prepared in {config.data.dir}; prepare it, set "
            "--config.data.dir, or convert with --meanface FILE"
        )
    config.model.meanface = tuple(meanface)
    config.data.flip = config.data.flip or tuple(metadata.get("flip", ()))


def _metadata(folder: pathlib.Path) -> dict:
    """Metadata of the newest version of a prepared data set; {} if there is none."""
    prepared = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = sorted(prepared, key=lambda path: [int(part) for part in path.name.split(".")])
    path = versions[-1] / METADATA_FILE if versions else None
    return json.loads(path.read_text()) if path is not None and path.is_file() else {}


def rendered_meanface() -> np.ndarray:
    """Frontal view (68,2) of the canonical face's landmarks, in units of the crop that `data` cuts around heads."""
    face = canonical.queries("dense")[:, :2] * [1, -1]
    points = canonical.queries("68")[:, :2] * [1, -1]
    center, side = alignment.square_crop(np.concatenate([face.min(0), face.max(0)]))
    return (points - center) / side + 0.5
