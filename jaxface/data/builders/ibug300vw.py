"""300-VW (Shen et al., ICCV Workshops 2015): videos with 68 landmarks in every frame, from the folders as released.

Splits: train (every tenth frame), test (all frames of the 64 test videos in order, for measures of flicker) and its
parts test_1, test_2, test_3 by category (well lit, unconstrained light, arbitrary conditions). Splits without videos
are left out. The files are 1-based. PIPNet's crop is that of 300-W's common protocol, the bounding box of the landmarks
enlarged 1.1 times.
"""

import functools
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry, unusable
from jaxface.errors import UserError

CATEGORIES = {
    "test_1": "114 124 125 126 150 158 401 402 505 506 507 508 509 510 511 514 515 518 519 520 521 522 524 525 537 538 "
    "540 541 546 547 548",
    "test_2": "203 208 211 212 213 214 218 224 403 404 405 406 407 408 409 412 550 551 553",
    "test_3": "410 411 516 517 526 528 529 530 531 533 557 558 559 562",
}
TRAIN_EVERY = 10
SCALE = 1.1
VIDEO = "vid.avi"
TREE = "a folder NNN per video with vid.avi and annot/NNNNNN.pts, numbered by frame from 000001"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "300vw"."""
    return Ibug300vw(data_dir=data_dir)


class Ibug300vw(tfds.core.GeneratorBasedBuilder):
    """300-VW: 68 landmarks in video; `video` is the folder, `frame` the number of the frame from 1."""

    name = "300vw"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        attributes = {"video": tfds.features.Text(), "frame": tfds.features.Scalar(np.int32)}
        return faces.info(self, "68", 68, attributes)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        videos = sorted(path.parent for path in pathlib.Path(dl_manager.manual_dir).rglob(VIDEO))
        if not videos:
            raise UserError(f"{dl_manager.manual_dir}: has no {VIDEO}")
        categories = {split: numbers.split() for split, numbers in CATEGORIES.items()}
        tests = [number for numbers in categories.values() for number in numbers]
        splits = {"train": [path for path in videos if path.name not in tests]}
        splits["test"] = [path for path in videos if path.name in tests]
        splits |= {split: [path for path in videos if path.name in numbers] for split, numbers in categories.items()}
        return {split: self._generate_examples(split, paths) for split, paths in splits.items() if paths}

    def _generate_examples(self, split: str, videos: list[pathlib.Path]) -> Iterator:
        every = TRAIN_EVERY if split == "train" else 1
        entries = (entry for video in videos for entry in _frames(video, every))
        return faces.records(entries, self.info, 68, meanface=split == "train")


def _frames(folder: pathlib.Path, every: int) -> Iterator[Entry[faces.AnnotatedFace]]:
    """The annotated frames of a video in order, each `every`-th; those after the end of the video are one entry."""
    labels = {int(path.stem): path for path in (folder / "annot").glob("*.pts") if path.stem.isdigit()}
    if not labels:
        yield unusable(folder.name, f"{folder / 'annot'}: has no NNNNNN.pts")
        return
    capture = cv2.VideoCapture(str((folder / VIDEO).absolute()))
    try:
        for number in range(1, max(labels) + 1):
            if not capture.grab():
                reason = f"ends before frame {max(labels)}, which is annotated; copy it again"
                yield unusable(f"{folder.name}/{number:06d} and later", f"{folder / VIDEO}: {reason}")
                return
            if number in labels and (number - 1) % every == 0:
                image = capture.retrieve()[1]
                read = functools.partial(_face, folder.name, number, image, labels[number])
                yield Entry(f"{folder.name}/{number:06d}", read)
    finally:
        capture.release()


def _face(video: str, number: int, image: np.ndarray | None, label: pathlib.Path) -> faces.AnnotatedFace:
    if image is None:
        raise UserError(f"frame {number} of {VIDEO} cannot be decoded; copy the video again")
    points = annotations.read_pts(label, 68) - 1
    crop = faces.landmark_crop(points, SCALE, image)
    return faces.AnnotatedFace(
        f"{video}/{number:06d}",
        image,
        crop,
        faces.landmark_box(points),
        points,
        crop.normalise(points),
        {"video": video, "frame": number},
    )
