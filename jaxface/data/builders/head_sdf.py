"""Surfaces and correspondences of generated heads, to train neural head models without any gated file.

Variants `makehuman` (embedded head) and `ict` (ICT-FaceKit in `manual_dir`). Splits `train` and `test` hold surface
points of the neutral, open-mouthed scans of different people; `train_expressions` and `test_expressions` pairs of
points of one person's neutral and posed scan. Every record is a pure function of (seed, split, person, number).
Positions are in units of `jaxface.heads.head_space`. Sampling after Giebenhain et al., CVPR 2023, and
github.com/SimonGiebenhain/NPHM, scripts/data_processing.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import head_records
from jaxface.data.builders import rendered_heads
from jaxface.errors import UserError
from jaxface.geometry import sampling
from jaxface.heads import head_space
from jaxface.heads.closed import ClosedHead, close

SEED = 20230618
# Variants are heads with named expressions, whose weights can be sampled independently.
VARIANTS = ("", rendered_heads.EMBEDDED, "ict")
# Test people are numbered from here, so that more training people never overlap with them.
FIRST_TEST_PERSON = 1_000_000
RECORDS_PER_PERSON = 4
EXPRESSIONS = {"train": 12, "test": 6}
MIN_POINTS = 100
# Fraction of a record's surface points on the face, the ears and the fillings of eyes and mouth.
FACE_SHARE = 0.75
# Fraction of the pairs on the face; standard deviations of their offsets along the normal, in units.
FACE_PAIRS = 0.9
OFFSETS = (0.01, 0.002)
# People whose records are made ahead of writing.
AHEAD = 16

Records = Callable[[ClosedHead, str, int], list[dict]]


@dataclasses.dataclass
class HeadSdfConfig(tfds.core.BuilderConfig):
    """Size of a data set.

    Attributes:
        people: number of training people; a twentieth of it, at least 2, for testing.
        points: points per record.
    """

    people: int = 400
    points: int = 8000

    def count(self, split: str) -> int:
        """Number of people in "train" or "test"."""
        return self.people if split == "train" else max(2, self.people // 20)


def make(data_dir: str, variant: str, examples: int = 400, size: int = 8000) -> tfds.core.DatasetBuilder:
    """The builder of a variant.

    Args:
        data_dir: folder of prepared data sets.
        variant: one of VARIANTS; "" is the embedded head.
        examples: number of training people.
        size: points per record.

    Raises:
        UserError: fewer than one person, or too few points.
    """
    if examples < 1 or size < MIN_POINTS:
        raise UserError(
            f"--examples {examples} --size {size}: too few; give at least 1 person and {MIN_POINTS} points per record"
        )
    config = HeadSdfConfig(name=variant or rendered_heads.EMBEDDED, people=examples, points=size)
    return HeadSdf(data_dir=data_dir, config=config)


def surface_record(
    closed: ClosedHead, vertices: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Surface points of a scan with interpolated normals.

    Args:
        closed: the head's closed mesh.
        vertices: (W,3) the scan in units.
        count: number of points on face and rest together.
        rng: source of the sampling.

    Returns:
        face_points, face_normals, nonface_points, nonface_normals (n,3).
    """
    normals = sampling.vertex_normals(vertices, closed.triangles)
    face_count = round(FACE_SHARE * count)
    parts = {"face": (closed.face, face_count), "nonface": (~closed.face, count - face_count)}
    record = {}
    for part, (inside, part_count) in parts.items():
        triangles = closed.triangles[inside]
        points = sampling.sample(vertices, triangles, part_count, rng)
        record[f"{part}_points"] = points.on(vertices, triangles)
        record[f"{part}_normals"] = sampling.unit(points.on(normals, triangles))
    return record


def pair_record(
    closed: ClosedHead, neutral: np.ndarray, posed: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Corresponding points near two scans of a person, half of them sampled on either scan's surface.

    Args:
        closed: the head's closed mesh.
        neutral: (W,3) the neutral scan in units.
        posed: (W,3) the scan with an expression.
        count: number of pairs.
        rng: source of the sampling.

    Returns:
        neutral, posed (count,3).
    """
    on_face, triangles = round(FACE_PAIRS * count), closed.triangles
    parts = [(triangles[closed.face], on_face), (triangles[~closed.face], count - on_face)]
    return sampling.pairs(neutral, posed, parts, OFFSETS, rng)._asdict()


class HeadSdf(tfds.core.GeneratorBasedBuilder):
    """`head_sdf/makehuman` and `head_sdf/ict`."""

    # 1.1.0: lids and lips of a scan do not cross, opposite face units exclude each other.
    # 1.2.0: anchors at the new places of landmarks.
    VERSION = tfds.core.Version("1.2.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str | None:
        """The files expected in `manual_dir`; None for the embedded head."""
        return rendered_heads.ict_files(self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{head_records.__doc__}",
            features=head_records.features(),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        closed = close(rendered_heads.load_head(self.builder_config.name, dl_manager))
        people = {split: self.builder_config.count(split) for split in EXPRESSIONS}
        anchors = head_space.anchors(closed.head, SEED, range(people["train"]))
        scans = {split: count * EXPRESSIONS[split] for split, count in people.items()}
        metadata = head_records.metadata(
            anchors.mean(0),
            people,
            scans,
            mm_per_unit=head_space.MM_PER_UNIT,
            origin_mm=head_space.ORIGIN_MM.tolist(),
        )
        self.info.metadata.update(metadata)
        splits = {}
        for split in people:
            splits[split] = self._generate_examples(closed, split, self._surfaces)
            splits[f"{split}_expressions"] = self._generate_examples(closed, split, self._pairs)
        return splits

    def _generate_examples(self, closed: ClosedHead, split: str, records: Records) -> Iterator[tuple[int, dict]]:
        person_records = functools.partial(records, closed, split)
        people = range(self.builder_config.count(split))
        number = itertools.count()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(people), AHEAD):
                for person in pool.map(person_records, people[start : start + AHEAD]):
                    yield from ((next(number), record) for record in person)

    def _surfaces(self, closed: ClosedHead, split: str, number: int) -> list[dict]:
        """All records of a person's neutral scan."""
        person, points = _person(split, number), self.builder_config.points
        (vertices,) = head_space.scans(closed, SEED, person, [0])
        anchors = head_space.anchors(closed.head, SEED, [person])[0]
        records = []
        for index in range(RECORDS_PER_PERSON):
            surface = surface_record(closed, vertices, points, _rng(person, 0, index))
            records.append(head_records.record(subject=number, anchors=anchors, **surface))
        return records

    def _pairs(self, closed: ClosedHead, split: str, number: int) -> list[dict]:
        """A record for each of a person's expressions, with half as many pairs as a surface record has points."""
        person, count, pairs = _person(split, number), EXPRESSIONS[split], self.builder_config.points // 2
        anchors = head_space.anchors(closed.head, SEED, [person])[0]
        neutral, *posed = head_space.scans(closed, SEED, person, range(count + 1))
        records = []
        for index, vertices in enumerate(posed):
            points = pair_record(closed, neutral, vertices, pairs, _rng(person, 1, index))
            numbers = {"subject": number, "expression": index, "scan": number * count + index}
            records.append(head_records.record(anchors=anchors, **numbers, **points))
        return records


def _person(split: str, number: int) -> int:
    """The person's number in the generator of heads, which differs between splits."""
    return number + FIRST_TEST_PERSON * (split == "test")


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.default_rng((SEED, *numbers))
