"""The annotation files of HongwenZhang/JVCR-3Dlandmark: 300wLP_anno_tr.json and aflw2000_3D_anno_vd.json.

A file is a list of {"img_paths", "landmarks" (68,3), "objpos" [x, y], "scale_provided", "isValidation"}; the layout is
inferred from the original's loader, datasets/fa68pt3D.py. Faces with isValidation form the split test.
"""

import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, image_index, points3d
from jaxface.data.entries import Entry, leave_out, read_each
from jaxface.data.faces import float_tensor
from jaxface.errors import UserError

KEYS = ("img_paths", "landmarks", "objpos", "scale_provided", "isValidation")
SHAPES = {"landmarks": (68, 3), "objpos": (2,), "scale_provided": (), "isValidation": ()}
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
            items, problems = _read_items(path)
            leave_out(self.info, problems)
            for item in items:
                splits["test" if item["isValidation"] else "train"].append(item)
        if not any(splits.values()):
            reasons = "".join(f"; {name}: {reason}" for name, reason in list(self.info.metadata["failed"].items())[:1])
            raise UserError(f"{root}: has no usable annotation{reasons}")
        return {name: self._generate_examples(root, items) for name, items in splits.items() if items}

    def _generate_examples(self, root: pathlib.Path, items: list[dict[str, Any]]) -> points3d.Examples:
        entries = (Entry(item["img_paths"], functools.partial(_example, root, item)) for item in items)
        examples = read_each(entries, self.info)
        yield from ((f"{number:06d}", example) for number, (_, example) in enumerate(examples))


def _example(root: pathlib.Path, item: dict[str, Any]) -> dict[str, Any]:
    return {
        "image": points3d.read_image(_image_path(root, item["img_paths"])),
        "name": item["img_paths"],
        **points3d.annotation(np.array(item["landmarks"], np.float64), item["img_paths"]),
        "objpos": np.float32(item["objpos"]),
        "scale_provided": np.float32(item["scale_provided"]),
    }


def _read_items(path: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The annotations of a file, and the reasons by "FILE, item N" of those that are malformed.

    Raises UserError if it is not a JSON list.
    """
    try:
        content = json.loads(annotations.read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, list):
        raise UserError(f"{path}: not a JSON list; copy it again")
    items, problems = [], {}
    for number, item in enumerate(content):
        problem = _problem(item)
        if problem:
            problems[f"{path.name}, item {number}"] = problem
        else:
            items.append(item)
    return items, problems


def _problem(item: Any) -> str:
    """What is wrong with an annotation; "" if nothing is."""
    missing = [key for key in KEYS if not isinstance(item, dict) or key not in item]
    if missing:
        return f"has no {', '.join(missing)}"
    for key, shape in SHAPES.items():
        try:
            found = np.asarray(item[key], np.float64).shape
        except (ValueError, TypeError):
            found = None
        if found != shape:
            return f"{key} are {'not numbers' if found is None else found}; expected {shape}"
    return "" if isinstance(item["img_paths"], str) else "img_paths is not a path"


def _image_path(root: pathlib.Path, name: str) -> pathlib.Path:
    """The image of an item. Raises UserError if it is missing, or in several of FOLDERS."""
    clean = image_index.normalise(name)
    paths = [root / folder / clean for folder in FOLDERS if os.path.isfile(root / folder / clean)]
    if len(paths) != 1:
        raise UserError(f"{root}: image {name} is {'missing' if not paths else 'in several folders; keep one of them'}")
    return paths[0]
