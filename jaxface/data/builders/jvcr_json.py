"""The annotation files of HongwenZhang/JVCR-3Dlandmark: 300wLP_anno_tr.json and aflw2000_3D_anno_vd.json.

A file is a list of {"img_paths", "landmarks" (68,3), "objpos" [x, y], "scale_provided", "isValidation"}; the layout is
inferred from the original's loader, datasets/fa68pt3D.py. Faces with isValidation form the split test.
"""

import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, image_index, points3d
from jaxface.data.faces import float_tensor
from jaxface.errors import UserError

KEYS = ("img_paths", "landmarks", "objpos", "scale_provided", "isValidation")
TREE = "*.json of the original's annotations, and the images in images, or in 300wLP/images and aflw2000/images"
FOLDERS = ("images", "300wLP/images", "aflw2000/images", ".")


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "jvcr_json"."""
    return JvcrJson(data_dir=data_dir)


class JvcrJson(tfds.core.GeneratorBasedBuilder):
    """Images with 68 3D points and the original's squares (centre and scale)."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"objpos": float_tensor(2), "scale_provided": float_tensor(), "valid": points3d.valid_feature(68)}
        return points3d.info(self, __doc__, 68, **features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        splits = {"train": [], "test": []}
        for path in points3d.find_files(root, "*.json"):
            for item in _read_items(path):
                splits["test" if item["isValidation"] else "train"].append(item)
        return {name: self._generate_examples(root, items) for name, items in splits.items() if items}

    def _generate_examples(self, root: pathlib.Path, items: list[dict[str, Any]]) -> points3d.Examples:
        for number, item in enumerate(items):
            example = {
                "image": points3d.read_image(_image_path(root, item["img_paths"])),
                "name": item["img_paths"],
                **points3d.annotation(np.array(item["landmarks"], np.float64), item["img_paths"]),
                "objpos": np.float32(item["objpos"]),
                "scale_provided": np.float32(item["scale_provided"]),
            }
            yield f"{number:06d}", example


def _read_items(path: pathlib.Path) -> list[dict[str, Any]]:
    """The annotations of a file. Raises UserError, which names the item, if one is malformed."""
    try:
        items = json.loads(annotations.read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    for number, item in enumerate(items if isinstance(items, list) else [None]):
        missing = [key for key in KEYS if not isinstance(item, dict) or key not in item]
        if missing:
            raise UserError(f"{path}, item {number}: has no {', '.join(missing)}")
        if np.shape(item["landmarks"]) != (68, 3):
            raise UserError(f"{path}, item {number}: landmarks are {np.shape(item['landmarks'])}; expected (68, 3)")
    return items


def _image_path(root: pathlib.Path, name: str) -> pathlib.Path:
    """The image of an item. Raises UserError if it is missing, or in several of FOLDERS."""
    clean = image_index.normalise(name)
    paths = [root / folder / clean for folder in FOLDERS if (root / folder / clean).is_file()]
    if len(paths) != 1:
        raise UserError(f"{root}: image {name} is {'missing' if not paths else 'in several folders; keep one of them'}")
    return paths[0]
