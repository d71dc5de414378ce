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


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with its mean face, number of landmarks and flip map filled in where they are open.

    An empty `model.meanface` becomes that of the first training data set: the canonical face's for rendered heads, else
    "meanface" in the metadata of the prepared data set, whose "flip" replaces an empty `data.flip`. A `model.landmarks`
    of 0 becomes the number of points of the mean face. Raises UserError if there is no mean face.
    """
    config = config.copy_and_resolve_references()
    if not len(config.model.meanface):
        _set_meanface(config, config.data.datasets[0])
    config.model.landmarks = config.model.landmarks or len(config.model.meanface) // 2
    return config


def _set_meanface(config: ml_collections.ConfigDict, name: str) -> None:
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


def read(path: str) -> tuple[float, ...]:
    """The 2L numbers x y x y … of a mean face in crop units, from a text file of the original.

    Raises UserError if the file cannot be read or does not hold an even count of finite numbers.
    """
    try:
        numbers = tuple(float(word) for word in pathlib.Path(path).read_text(encoding="utf-8").split())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a text of numbers x y x y … ({error})") from error
    if not numbers or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise UserError(f"{path} has {len(numbers)} numbers; it must hold x and y of every landmark")
    return numbers


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
