"""Where a mean face comes from: the configuration, the prepared data set, or for rendered heads the canonical face."""

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
    """Fills config.model.meanface, where it is empty, with that of the first data set it is trained on.

    A prepared data set keeps it as "meanface" in the metadata beside it; rendered heads have the canonical face's.
    Where the configuration leaves the number of landmarks open (0), the mean face says it; where it has no flip map,
    that of the metadata is taken, which a folder of the user's own has. Raises UserError where there is no mean face.
    """
    if not len(config.model.meanface):
        _fill(config, config.data.datasets[0])
    config.model.landmarks = config.model.landmarks or len(config.model.meanface) // 2


def _fill(config: ml_collections.ConfigDict, name: str) -> None:
    metadata = _metadata(pathlib.Path(config.data.dir) / name)
    found = metadata.get("meanface")
    if name.startswith(RENDERED):
        found = rendered_meanface().ravel().tolist()
    if not found:
        raise UserError(
            f"there is no mean face: config.model.meanface is empty and {name} is not prepared in {config.data.dir}; "
            f"prepare it, set --config.data.dir, or convert with --meanface FILE"
        )
    config.model.meanface = tuple(found)
    config.data.flip = config.data.flip or tuple(metadata.get("flip", ()))


def _metadata(folder: pathlib.Path) -> dict:
    """What lies beside the newest version of a prepared data set; {} without any."""
    prepared = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = sorted(prepared, key=lambda path: [int(part) for part in path.name.split(".")])
    path = versions[-1] / METADATA_FILE if versions else None
    return json.loads(path.read_text()) if path is not None and path.is_file() else {}


def rendered_meanface() -> np.ndarray:
    """The canonical face's 68 points (68,2) seen from the front, in units of the crop that `data` cuts around heads."""
    face = canonical.queries("dense")[:, :2] * [1, -1]
    points = canonical.queries("68")[:, :2] * [1, -1]
    center, side = alignment.square_crop(np.concatenate([face.min(0), face.max(0)]))
    return (points - center) / side + 0.5
