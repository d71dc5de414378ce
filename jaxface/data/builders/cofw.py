"""COFW (Burgos-Artizzu et al., ICCV 2013): 29 landmarks with occlusion flags, from its MATLAB 7.3 files.

Variant `68` is that of PIPNet's cross-domain protocol: the test faces with 68 landmarks (Ghiasi and Fowlkes, 2015) and
the training faces without landmarks (NaN), crops enlarged 1.3 times (lib/preprocess_gssl.py). Otherwise the crop is the
given box (lib/preprocess.py). The files are 1-based: 1 is subtracted from landmarks and boxes in pixels, but, as in
PIPNet, not from its crop and the landmarks in crop units.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator

import cv2
import h5py
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry
from jaxface.errors import UserError

# File and suffix of the variables of each split.
FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
SCALES = {"": 1.0, "68": 1.3}
COUNTS = {"": 29, "68": 68}
VARIANTS = tuple(COUNTS)
BOXES_68 = "cofw68_test_bboxes.mat"
# The folder of 68 landmarks, in PIPNet's tree and as its authors release it.
POINTS_68 = ("cofw68_test_annotations", "test_annotations")
TREE = "COFW_train_color.mat and COFW_test_color.mat (color version, MATLAB 7.3)"
TREE_68 = f"{TREE}, {BOXES_68} and {POINTS_68[0]}/1_points.mat, 2_points.mat, …"


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "cofw" or "cofw/68"."""
    return Cofw(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class Cofw(tfds.core.GeneratorBasedBuilder):
    """COFW: 29 landmarks on occluded faces, or 68 of the test faces."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """The files expected in `manual_dir`."""
        return TREE_68 if self._variant else TREE

    @property
    def _variant(self) -> str:
        return self.builder_config.name if self.builder_config else ""

    def _info(self) -> tfds.core.DatasetInfo:
        count = COUNTS[self._variant]
        visible = {} if self._variant else {"visible": tfds.features.Tensor(shape=(29,), dtype=np.bool_)}
        return faces.info(self, str(count), count, visible)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = dl_manager.manual_dir
        paths = {split: faces.find_root(folder, name) / name for split, (name, _) in FILES.items()}
        # PIPNet's tree keeps the files of the 68 landmarks in a separate folder.
        root_68 = faces.find_root(folder, BOXES_68) if self._variant else None
        return {split: self._generate_examples(path, split, root_68) for split, path in paths.items()}

    def _generate_examples(self, path: pathlib.Path, split: str, root_68: pathlib.Path | None) -> Iterator:
        meanface = split == "train" and not self._variant
        return faces.records(self._entries(path, split, root_68), self.info, COUNTS[self._variant], meanface)

    def _entries(
        self, path: pathlib.Path, split: str, root_68: pathlib.Path | None
    ) -> Iterator[Entry[faces.AnnotatedFace]]:
        suffix = FILES[split][1]
        arrays = annotations.read_mat(path, f"bboxes{suffix}", f"phis{suffix}")
        boxes, shapes = arrays[f"bboxes{suffix}"], arrays[f"phis{suffix}"]
        if root_68 and split == "test":
            boxes = annotations.read_mat(root_68 / BOXES_68, "bboxes")["bboxes"]
        points_68 = None if root_68 is None or split != "test" else functools.partial(_points_68, root_68)
        with h5py.File(path) as file:
            images = f"Is{suffix}"
            if images not in file or file[images].size != len(boxes):
                raise UserError(f"{path}: {images} does not hold one image for each of {len(boxes)} boxes")
            for i, reference in enumerate(file[images][()].ravel()):
                name = f"{path.name}#{i + 1}"
                image = functools.partial(_image, file, reference)
                yield Entry(name, functools.partial(self._face, name, image, boxes[i], shapes[i], points_68, i))

    def _face(
        self,
        name: str,
        read_image: Callable[[], np.ndarray],
        box: np.ndarray,
        shape: np.ndarray,
        points_68: Callable[[int], np.ndarray] | None,
        i: int,
    ) -> faces.AnnotatedFace:
        image = read_image()
        low, size = box[:2].astype(np.float64), box[2:].astype(np.float64)
        margin = size * (SCALES[self._variant] - 1) / 2
        high = low + size - 1
        crop = faces.clamp_crop(low - margin, high + margin, image)
        points, attributes = shape[:58].reshape(2, 29).T, {"visible": shape[58:] == 0}
        if self._variant:
            points, attributes = None if points_68 is None else points_68(i), {}
        labels = {} if points is None else {"landmarks": points - 1, "crop_landmarks": crop.normalise(points)}
        box = np.concatenate([low, high]) - 1
        return faces.AnnotatedFace(name, image, crop, box, **labels, attributes=attributes)


def _points_68(folder: pathlib.Path, i: int) -> np.ndarray:
    """The landmarks (68,2) of test face i, 1-based."""
    folders = [folder / name for name in POINTS_68 if (folder / name).is_dir()]
    if not folders:
        raise UserError(f"{folder / POINTS_68[0]}: missing")
    return annotations.read_mat(folders[0] / f"{i + 1}_points.mat", "Points")["Points"].astype(np.float64)


def _image(file: h5py.File, reference: h5py.Reference) -> np.ndarray:
    """An image (H,W,3) uint8 BGR of a cell array; some are grey in the file."""
    try:
        image = np.asarray(file[reference][()]).T
    except Exception as error:  # h5py raises arbitrary exceptions on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the image is damaged ({reason}); download the file again") from error
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise UserError(f"the image is {image.dtype} {image.shape}; expected uint8 (H,W,3) or (H,W)")
    code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
    return cv2.cvtColor(np.ascontiguousarray(image), code)
