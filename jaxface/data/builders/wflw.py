"""WFLW (Wu et al., CVPR 2018): 98 landmarks, six attributes, from the lists and images as they are released.

Splits: train, test and its six subsets, by the lists in list_98pt_test. PIPNet's crop is the given box, enlarged 1.2
times. Variant `68` is that of its cross-domain protocol: 68 points computed from the 98 (lib/preprocess_gssl.py), and
the top of the crop moved down instead of up. Coordinates are taken as 0-based, as in the lists.
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry, leave_out
from jaxface.errors import UserError
from jaxface.layouts import wflw_to_ibug

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
LIST = "list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
SUBSET_LIST = "list_98pt_test/list_98pt_test_{}.txt"
# Words of a line: landmarks, box, attributes, image.
FIELDS = 2 * 98 + 4 + len(ATTRIBUTES) + 1
# (number from 0, words) of a line.
Row = tuple[int, list[str]]
SCALE = 1.2
COUNTS = {"": 98, "68": 68}
VARIANTS = tuple(COUNTS)
TREE = (
    "WFLW_images/ and WFLW_annotations/ with list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt "
    "and list_98pt_test/list_98pt_test_{largepose,expression,illumination,makeup,occlusion,blur}.txt"
)


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "wflw" or "wflw/68"."""
    return Wflw(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class Wflw(tfds.core.GeneratorBasedBuilder):
    """WFLW: 98 landmarks on faces in the wild, with six attributes."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    @property
    def _count(self) -> int:
        return COUNTS[self.builder_config.name if self.builder_config else ""]

    def _info(self) -> tfds.core.DatasetInfo:
        attributes = {name: tfds.features.Scalar(np.bool_) for name in ATTRIBUTES}
        return faces.info(self, str(self._count), self._count, attributes)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, "WFLW_annotations")
        lists = {split: self._rows(root, LIST.format(split)) for split in ("train", "test")}
        test_rows = {_key(row): (number, row) for number, row in lists["test"]}
        for subset in SUBSETS:
            path = SUBSET_LIST.format(subset)
            rows = [row for _, row in self._rows(root, path)]
            unlisted = [row[-1] for row in rows if _key(row) not in test_rows]
            problem = f"{path} lists a face of it that is not in the test list; copy the lists again"
            leave_out(self.info, dict.fromkeys(unlisted, problem))
            lists[f"test_{subset}"] = [test_rows[_key(row)] for row in rows if _key(row) in test_rows]
        return {split: self._generate_examples(root, split, rows) for split, rows in lists.items()}

    def _generate_examples(self, root: pathlib.Path, split: str, rows: list[Row]) -> Iterator:
        # A photo can show several faces: the row number makes the name unique.
        entries = (
            Entry(name := f"{row[-1]}#{number}", functools.partial(self._face, root, name, row)) for number, row in rows
        )
        return faces.records(entries, self.info, self._count, meanface=split == "train")

    def _rows(self, root: pathlib.Path, name: str) -> list[Row]:
        """The rows of an annotation list; malformed ones are left out."""
        rows, problems = annotations.read_rows(root / "WFLW_annotations" / name, FIELDS)
        leave_out(self.info, problems)
        return rows

    def _face(self, root: pathlib.Path, name: str, row: list[str]) -> faces.AnnotatedFace:
        try:
            values = np.array(row[:-1], np.float64)
        except ValueError as error:
            raise UserError(f"WFLW, line of {row[-1]}: not only numbers ({error}); copy the lists again") from error
        image = faces.read_image(root / "WFLW_images" / row[-1])
        points, box = values[:196].reshape(98, 2), values[196:200]
        points = np.clip(points, 0, image.shape[1::-1])
        margin = (box[2:] - box[:2]) * (SCALE - 1) / 2
        upper_margin = margin * (1, -1) if self._count == 68 else margin
        crop = faces.clamp_crop(box[:2] - upper_margin, box[2:] + margin, image)
        crop_landmarks = crop.normalise(points)
        if self._count == 68:
            points, crop_landmarks = wflw_to_ibug(points), ibug_landmarks(crop_landmarks)
        attributes = dict(zip(ATTRIBUTES, values[200:] != 0, strict=True))
        return faces.AnnotatedFace(name, image, crop, box, points, crop_landmarks, attributes)


def ibug_landmarks(points: np.ndarray) -> np.ndarray:
    """68 landmarks (68,2) of 98 (98,2) with PIPNet's eye weights 0.666 and 0.333, which do not sum to 1."""
    converted = wflw_to_ibug(points)
    for target, source in ((36, 60), (42, 68)):
        for place, a, b in ((1, 1, 2), (2, 3, 2), (4, 5, 6), (5, 7, 6)):
            converted[target + place] = 0.666 * points[source + a] + 0.333 * points[source + b]
    return converted


def _key(row: list[str]) -> str:
    """The identity of a row across lists, as in PIPNet: the first coordinate and the image."""
    return f"{row[0]}_{row[-1]}"
