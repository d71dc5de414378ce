"""Any folder of photos as a training set: the largest face of each photo, aligned, with landmarks and skin mask.

Without a variant an example is one photo; variant `sets` groups PER_SET photos of one person, a person being a folder.
The landmark detector and the alignment are arguments, because they belong to systems. A photo that cannot be used is
skipped and listed, with the reason, under `failed` in the data set's metadata.json.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface import photo
from jaxface.data import image_index, landmark_files
from jaxface.errors import UserError

VARIANTS = ("", "sets")
# The system that trains on this data set aligns its faces.
TOOLS = {"align": "jaxface.systems.deep3d.preprocessing.alignment:aligned_face"}
PER_SET = 5
# Every TEST_EVERY-th photo or person is for testing, up to a number of examples.
TEST_EVERY, MAX_TEST_EXAMPLES = 20, 500
MIN_SIZE = 32
# Folder of the original's layout whose image files are masks.
MASKS = "mask"

Example = dict[str, np.ndarray | str]
Detect = Callable[[photo.Photo, np.ndarray | None], np.ndarray | None]
Align = Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a photo becomes an example.

    Attributes:
        size: side of the square crops in pixels.
        detect: (photo, box (4,) px or None) -> landmarks (68,2) of a face in pixels of the full photo, or None.
        align: (pixels, landmarks, size) -> image (size,size,3) and skin (size,size) uint8, landmarks (68,2) and crop
            (5,) float32; raises UserError if the landmarks are not a face's.
    """

    size: int
    detect: Detect
    align: Align


def make(data_dir: str, variant: str, detect: Detect, align: Align, size: int = 224) -> tfds.core.DatasetBuilder:
    """The builder of "face_folder" or "face_folder/sets".

    Args:
        data_dir: folder of prepared data sets.
        variant: "" or "sets".
        detect: see `Settings`.
        align: see `Settings`.
        size: see `Settings`.

    Raises:
        UserError: `size` is too small.
    """
    if size < MIN_SIZE:
        raise UserError(f"--size {size}: too small for crops of faces; give at least {MIN_SIZE} px")
    config = tfds.core.BuilderConfig(name=variant) if variant else None
    return FaceFolder(Settings(size, detect, align), data_dir=data_dir, config=config)


class FaceFolder(tfds.core.GeneratorBasedBuilder):
    """`face_folder` and `face_folder/sets`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "a folder of photos, one subfolder per person; your own landmarks are read from NAME.pts next to them, "
        "landmarks/NAME.txt (68 lines, y up) or detections/NAME.txt (5 lines, y down)"
    )

    def __init__(self, settings: Settings, **options):
        self._settings, self._failed = settings, {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._settings.size
        count = PER_SET if self.builder_config else 1
        shape = (PER_SET,) if self.builder_config else ()
        features = {
            # The images of a set are stacked vertically.
            "image": tfds.features.Image(shape=(count * size, size, 3), encoding_format="jpeg"),
            "skin": tfds.features.Image(shape=(count * size, size, 1), encoding_format="png"),
            "landmarks": tfds.features.Tensor(shape=(*shape, 68, 2), dtype=np.float32),
            "crop": tfds.features.Tensor(shape=(*shape, 5), dtype=np.float32),
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            metadata=tfds.core.MetadataDict(failed=self._failed),
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        test_examples: list[tuple[str, Example]] = []
        return {
            "train": self._generate_examples(pathlib.Path(dl_manager.manual_dir), test_examples),
            "test": _iterate_later(test_examples),
        }

    def _generate_examples(self, folder: pathlib.Path, test_examples: list) -> Iterator[tuple[str, Example]]:
        """The training examples; fills `test_examples`. A single example is used for both.

        Raises UserError if no photo can be used.
        """
        count = 0
        for count, group in enumerate(self._groups(folder), start=1):
            if count % TEST_EVERY == 2 and len(test_examples) < MAX_TEST_EXAMPLES:
                test_examples.extend(group)
            else:
                yield from group
        if not count:
            name, reason = next(iter(self._failed.items()))
            raise UserError(
                f"{folder}: none of the {len(self._failed)} photos can be used; the first one, {name}: {reason}"
            )
        if count == 1:
            test_examples.extend(group[-1:])

    def _groups(self, folder: pathlib.Path) -> Iterator[list[tuple[str, Example]]]:
        """Examples that stay in one split: a single photo, or all sets of one person."""
        for person, paths in itertools.groupby(_photos(folder), key=lambda path: path.parent):
            faces = (face for path in paths if (face := self._face(path, folder)) is not None)
            if not self.builder_config:
                yield from ([(face["name"], face)] for face in faces)
                continue
            name, faces = str(person.relative_to(folder)), list(faces)
            if len(faces) > 1:
                yield [(f"{name} {number}", example) for number, example in enumerate(_sets(name, faces))]
            elif faces:
                self._failed[name] = "only one photo of this person can be used"

    def _face(self, path: pathlib.Path, folder: pathlib.Path) -> Example | None:
        """The example of a photo; None, with the reason recorded, if it cannot be used."""
        name = str(path.relative_to(folder))
        try:
            loaded = photo.load(path)
            points = landmark_files.read_landmarks(path, loaded.height, loaded.width)
            if points is None:
                points = self._settings.detect(loaded, landmark_files.read_box(path))
            if points is None:
                raise UserError("no face found")
            example = self._settings.align(loaded.pixels, loaded.to_pixels(points), self._settings.size)
        except UserError as error:
            self._failed[name] = str(error).removeprefix(f"{path.name}: ")
            return None
        return {**example, "skin": example["skin"][..., None], "name": name}


def _iterate_later(examples: list) -> Iterator[tuple[str, Example]]:
    """The examples of a list that is filled by the time the first one is requested."""
    yield from examples


def _photos(folder: pathlib.Path) -> list[pathlib.Path]:
    """All photos below a folder except hidden files and masks, grouped by folder. Raises UserError for none."""

    def is_photo(path: pathlib.Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.suffix.lower() in photo.IMAGE_SUFFIXES and MASKS not in parts and path.is_file()

    photos = [path for path in image_index.walk(folder) if is_photo(path)]
    if not photos:
        raise UserError(f"{folder}: has no photo")
    return sorted(photos, key=lambda path: (path.parent, path.name))


def _sets(name: str, faces: list[Example]) -> Iterator[Example]:
    """Sets of PER_SET faces of one person; the last one is completed with the person's first faces."""
    for start in range(0, len(faces), PER_SET):
        chosen = [faces[index % len(faces)] for index in range(start, start + PER_SET)]
        images = {key: np.concatenate([face[key] for face in chosen]) for key in ("image", "skin")}
        arrays = {key: np.stack([face[key] for face in chosen]) for key in ("landmarks", "crop")}
        yield {**images, **arrays, "name": name}
