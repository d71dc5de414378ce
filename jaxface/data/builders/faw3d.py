"""3DFAW (Jeni et al., ECCV 2016 workshops): images with 66 3D points; see `jaxface.data.faw3d_files`."""

import functools
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from jaxface.data import faw3d_files, points3d
from jaxface.data.entries import Entry, leave_out, read_each
from jaxface.errors import UserError


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "faw3d"."""
    return Faw3d(data_dir=data_dir)


class Faw3d(tfds.core.GeneratorBasedBuilder):
    """3DFAW: 66 points."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = faw3d_files.TREE

    def _info(self) -> tfds.core.DatasetInfo:
        valid = points3d.valid_feature(faw3d_files.POINTS)
        return points3d.info(self, __doc__, faw3d_files.POINTS, valid=valid)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        splits = {}
        for split, patterns in faw3d_files.FOLDERS.items():
            splits[split], problems = faw3d_files.labelled_images(root, patterns)
            leave_out(self.info, problems)
        if not any(splits.values()):
            raise UserError(f"{root}: has no labelled image")
        return {name: self._generate_examples(root, pairs) for name, pairs in splits.items() if pairs}

    def _generate_examples(
        self, root: pathlib.Path, pairs: list[tuple[pathlib.Path, pathlib.Path]]
    ) -> points3d.Examples:
        names = {path.relative_to(root).as_posix(): (path, label) for path, label in pairs}
        entries = (Entry(name, functools.partial(_example, name, *files)) for name, files in names.items())
        return read_each(entries, self.info)


def _example(name: str, path: pathlib.Path, label: pathlib.Path) -> dict[str, Any]:
    points = points3d.annotation(faw3d_files.read_points(label), label)
    return {"image": points3d.read_image(path), "name": name, **points}
