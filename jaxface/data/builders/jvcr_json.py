"""The annotation files of HongwenZhang/JVCR-3Dlandmark: 300wLP_anno_tr.json and aflw2000_3D_anno_vd.json.

A file is a list of {"img_paths", "landmarks" (68,3), "objpos" [x, y], "scale_provided", "isValidation"}; the layout is
inferred from the original's loader, datasets/fa68pt3D.py. Faces with isValidation are the split test.
"""

import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import points3d
from jaxface.errors import UserError

KEYS = ("img_paths", "landmarks", "objpos", "scale_provided", "isValidation")
TREE = "*.json of the original's annotations, and the pictures in images, or in 300wLP/images and aflw2000/images"
FOLDERS = ("images", "300wLP/images", "aflw2000/images", ".")


def make(variant: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "jvcr_json". UserError for a variant."""
    if variant:
        raise UserError(f"jvcr_json has no variant {variant!r}")
    return JvcrJson(data_dir=data_dir)


class JvcrJson(tfds.core.GeneratorBasedBuilder):
    """Pictures with 68 3D points and the original's squares."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return points3d.info(self, __doc__, 68, objpos=points3d.floats(2), scale_provided=points3d.floats())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        items = [item for path in points3d.pictures_below(root, "*.json", TREE) for item in _items(path)]
        splits = {"train": [], "test": []}
        for item in items:
            splits["test" if item["isValidation"] else "train"].append(item)
        return {name: self._generate_examples(root, own) for name, own in splits.items() if own}

    def _generate_examples(self, root: pathlib.Path, items: list[dict[str, Any]]) -> points3d.Examples:
        for number, item in enumerate(items):
            yield (
                f"{number:06d}",
                {
                    "image": points3d.picture(_picture(root, item["img_paths"])),
                    "name": item["img_paths"],
                    "points_3d": np.float32(item["landmarks"]),
                    "objpos": np.float32(item["objpos"]),
                    "scale_provided": np.float32(item["scale_provided"]),
                },
            )


def _items(path: pathlib.Path) -> list[dict[str, Any]]:
    """The annotations of a file. UserError names the first that is not one."""
    try:
        items = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error})") from error
    for number, item in enumerate(items if isinstance(items, list) else [None]):
        missing = [key for key in KEYS if not isinstance(item, dict) or key not in item]
        if missing:
            raise UserError(f"{path}, item {number}: without {', '.join(missing)}; expected a list of annotations")
        if np.shape(item["landmarks"]) != (68, 3):
            raise UserError(f"{path}, item {number}: landmarks are {np.shape(item['landmarks'])}, not (68, 3)")
    return items


def _picture(root: pathlib.Path, name: str) -> pathlib.Path:
    found = [root / folder / name for folder in FOLDERS if (root / folder / name).is_file()]
    if not found:
        raise UserError(f"{name} is in none of the folders of {root}; expected {TREE}")
    return found[0]
