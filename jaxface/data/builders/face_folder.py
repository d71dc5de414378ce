"""Any folder of photographs as a training set: of every picture the largest face, aligned, with landmarks and skin.

Without a variant an example is one picture; variant `sets` puts PER_SET pictures of one person together, a person
being a folder. What finds landmarks and what aligns come from above, as arguments. A picture that cannot be used is
left out and named, with the reason, under `failed` in the data set's metadata.json.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface import photo
from jaxface.data import landmark_files
from jaxface.errors import UserError

PER_SET = 5
# Every so many-th picture or person is tested on, and at most so many.
TEST_EVERY, MOST_TESTED = 20, 500
SMALLEST = 32
# Folders of the original's layout that hold pictures which are none.
MASKS = "mask"

Example = dict[str, np.ndarray | str]
Detect = Callable[[photo.Photo, np.ndarray | None], np.ndarray | None]
Align = Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes an example of a picture.

    size: side of the square crops in pixels. detect(photo, box (4,) or None): the 68 points (68,2) of a face in pixels
    of the full picture, or None. align(pixels, points, size): a dict of image (size,size,3) and skin (size,size) uint8,
    landmarks (68,2) and crop (5,) float32; UserError where the points make no face.
    """

    size: int
    detect: Detect
    align: Align


def make(variant: str, data_dir: str, detect: Detect, align: Align, size: int = 224) -> tfds.core.DatasetBuilder:
    """The builder of single pictures (no variant) or of `sets`; see `Settings`. UserError: another variant, no size."""
    if variant not in ("", "sets"):
        raise UserError(f"face_folder has no variant {variant!r}; leave it out, or use sets")
    if size < SMALLEST:
        raise UserError(f"crops of faces need at least {SMALLEST} pixels, not {size}")
    config = tfds.core.BuilderConfig(name=variant) if variant else None
    return FaceFolder(Settings(size, detect, align), data_dir=data_dir, config=config)


class FaceFolder(tfds.core.GeneratorBasedBuilder):
    """`face_folder` and `face_folder/sets`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "a folder of photographs, one subfolder a person; points of your own lie beside them as NAME.pts, "
        "landmarks/NAME.txt (68 lines, y up) or detections/NAME.txt (5 lines, y down)"
    )

    def __init__(self, settings: Settings, **options):
        self._settings, self._failed = settings, {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._settings.size
        count = PER_SET if self.builder_config else 1
        shape = (PER_SET,) if self.builder_config else ()

        def floats(*rest: int) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=(*shape, *rest), dtype=np.float32)

        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            metadata=tfds.core.MetadataDict(failed=self._failed),
            features=tfds.features.FeaturesDict(
                {
                    # The pictures of a set stand one below the other.
                    "image": tfds.features.Image(shape=(count * size, size, 3), encoding_format="jpeg"),
                    "skin": tfds.features.Image(shape=(count * size, size, 1), encoding_format="png"),
                    "landmarks": floats(68, 2),
                    "crop": floats(5),
                    "name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        tested: list[tuple[str, Example]] = []
        return {"train": self._generate_examples(pathlib.Path(dl_manager.manual_dir), tested), "test": _given(tested)}

    def _generate_examples(self, folder: pathlib.Path, tested: list) -> Iterator[tuple[str, Example]]:
        """All examples but those that go to `tested`; a single one goes to both. UserError where there is none."""
        count = 0
        for count, group in enumerate(self._groups(folder), start=1):
            if count % TEST_EVERY == 2 and len(tested) < MOST_TESTED:
                tested.extend(group)
            else:
                yield from group
        if not count:
            raise UserError(_nothing_usable(folder, self._failed))
        if count == 1:
            tested.extend(group[-1:])

    def _groups(self, folder: pathlib.Path) -> Iterator[list[tuple[str, Example]]]:
        """Examples that are not to be parted: one picture, or all sets of one person."""
        for person, paths in itertools.groupby(_pictures(folder), key=lambda path: path.parent):
            faces = (face for path in paths if (face := self._face(path, folder)) is not None)
            if not self.builder_config:
                yield from ([(face["name"], face)] for face in faces)
                continue
            name, faces = str(person.relative_to(folder)), list(faces)
            if len(faces) > 1:
                yield [(f"{name} {number}", made) for number, made in enumerate(_sets(name, faces))]
            elif faces:
                self._failed[name] = "only one picture of this person can be used"

    def _face(self, path: pathlib.Path, folder: pathlib.Path) -> Example | None:
        """The example of a picture; None, with the reason noted, where there is none."""
        name = str(path.relative_to(folder))
        try:
            loaded = photo.load(path)
            points = landmark_files.read_landmarks(path, loaded.height, loaded.width)
            if points is None:
                points = self._settings.detect(loaded, landmark_files.read_box(path))
            if points is None:
                raise UserError("no face is found")
            made = self._settings.align(loaded.pixels, loaded.to_kept(points), self._settings.size)
        except UserError as error:
            self._failed[name] = str(error).removeprefix(f"{path.name}: ")
            return None
        return {**made, "skin": made["skin"][..., None], "name": name}


def _given(examples: list) -> Iterator[tuple[str, Example]]:
    """The examples of a list that is filled before they are asked for."""
    yield from examples


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Every picture below a folder but hidden ones and masks, those of one folder together. UserError: none."""

    def wanted(path: pathlib.Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.suffix.lower() in photo.IMAGE_SUFFIXES and not any(
            part.startswith(".") or part == MASKS for part in parts
        )

    found = [path for path in folder.rglob("*") if wanted(path) and path.is_file()]
    if not found:
        raise UserError(f"there is no picture in {folder}")
    return sorted(found, key=lambda path: (path.parent, path.name))


def _sets(name: str, faces: list[Example]) -> Iterator[Example]:
    """Sets of PER_SET faces of one person; the last one is filled up from the first faces."""
    for start in range(0, len(faces), PER_SET):
        chosen = [faces[index % len(faces)] for index in range(start, start + PER_SET)]
        stacked = {key: np.concatenate([face[key] for face in chosen]) for key in ("image", "skin")}
        yield {
            **stacked,
            **{key: np.stack([face[key] for face in chosen]) for key in ("landmarks", "crop")},
            "name": name,
        }


def _nothing_usable(folder: pathlib.Path, failed: dict[str, str]) -> str:
    name, reason = next(iter(failed.items()))
    return f"not one of the {len(failed)} pictures in {folder} can be used; the first of them: {name} ({reason})"
