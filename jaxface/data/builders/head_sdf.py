"""Surfaces and correspondences of generated heads, to learn neural head models from with no gated file: a TFDS set.

Variants `procedural` (embedded head) and `ict` (ICT-FaceKit in `manual_dir`). Splits `train` and `test` hold surface
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
from jaxface.errors import UserError
from jaxface.geometry import sampling
from jaxface.heads import head_space, sources
from jaxface.heads.closed import ClosedHead, close

SEED = 20230618
ICT_FILE = "ict_facekit.npz"
# Heads with named expressions, whose weights can be drawn one by one; statistical modes need a law of their own.
VARIANTS = ("procedural", "ict")
# People of the test splits are numbered from here, so that more people to train on do not become them.
FIRST_TEST_PERSON = 1_000_000
RECORDS_PER_PERSON = 4
EXPRESSIONS = {"train": 12, "test": 6}
# Of a record's points the part that lies on face, ears and what fills eyes and mouth.
FACE_SHARE = 0.75
# Pairs lie on the face, a few elsewhere; off the surface by up to a few of these, along its normal.
FACE_PAIRS = 0.9
OFFSETS = (0.01, 0.002)
# People that may be made before they are written.
AHEAD = 16

Records = Callable[[ClosedHead, str, int], list[dict]]


@dataclasses.dataclass
class HeadSdfConfig(tfds.core.BuilderConfig):
    """`people` to train on, a twentieth (at least 2) to test on; `points` of a record."""

    people: int = 400
    points: int = 8000

    def count(self, split: str) -> int:
        """People in "train" or "test"."""
        return self.people if split == "train" else max(2, self.people // 20)


def make(variant: str, data_dir: str, examples: int = 400, size: int = 8000) -> tfds.core.DatasetBuilder:
    """The builder of a variant, "procedural" where none is named: `examples` people, records of `size` points.

    UserError for values that make no data set.
    """
    variant = variant or "procedural"
    if variant not in VARIANTS:
        raise UserError(f"head_sdf has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    if examples < 1 or size < 100:
        raise UserError(f"head_sdf needs at least 1 person and 100 points a record, not {examples} and {size}")
    return HeadSdf(data_dir=data_dir, config=HeadSdfConfig(name=variant, people=examples, points=size))


def surface_record(
    closed: ClosedHead, vertices: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """`count` surface points with interpolated normals of a scan (W,3) in units, split into face and the rest."""
    normals = sampling.vertex_normals(vertices, closed.triangles)
    shares = {"face": (closed.face, round(FACE_SHARE * count)), "nonface": (~closed.face, count)}
    record, drawn = {}, 0
    for part, (own, until) in shares.items():
        triangles = closed.triangles[own]
        points = sampling.sample(vertices, triangles, until - drawn, rng)
        drawn = until
        record[f"{part}_points"] = points.on(vertices, triangles)
        record[f"{part}_normals"] = sampling.unit(points.on(normals, triangles))
    return record


def pair_record(
    closed: ClosedHead, neutral: np.ndarray, posed: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """`count` corresponding points near two scans (W,3) of a person, half of them drawn on either scan's surface."""
    on_face, triangles = round(FACE_PAIRS * count), closed.triangles
    parts = [(triangles[closed.face], on_face), (triangles[~closed.face], count - on_face)]
    return sampling.pairs(neutral, posed, parts, OFFSETS, rng)._asdict()


class HeadSdf(tfds.core.GeneratorBasedBuilder):
    """`head_sdf/procedural` and `head_sdf/ict`."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str | None:
        """What has to lie in `manual_dir`, None for the embedded head."""
        if self.builder_config.name == "procedural":
            return None
        return f"ICT-FaceKit (MIT), the contents of its FaceXModel folder, or {ICT_FILE}"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{head_records.__doc__}",
            features=head_records.features(),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        closed = close(sources.load_head(self.builder_config.name, self._head_path(dl_manager)))
        people = {split: self.builder_config.count(split) for split in EXPRESSIONS}
        anchors = head_space.anchors(closed.head, SEED, range(people["train"]))
        scans = {split: count * EXPRESSIONS[split] for split, count in people.items()}
        self.info.metadata.update(
            head_records.metadata(
                anchors.mean(0),
                people,
                scans,
                mm_per_unit=head_space.MM_PER_UNIT,
                origin_mm=head_space.ORIGIN_MM.tolist(),
            )
        )
        made = {}
        for split in people:
            made[split] = self._generate_examples(closed, split, self._surfaces)
            made[f"{split}_expressions"] = self._generate_examples(closed, split, self._pairs)
        return made

    def _head_path(self, dl_manager: tfds.download.DownloadManager) -> str:
        if self.builder_config.name == "procedural":
            return ""
        folder = str(dl_manager.manual_dir)
        packed = os.path.join(folder, ICT_FILE)
        return packed if os.path.exists(packed) else folder

    def _generate_examples(self, closed: ClosedHead, split: str, records: Records) -> Iterator[tuple[int, dict]]:
        person_records = functools.partial(records, closed, split)
        people = range(self.builder_config.count(split))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            made = (pool.map(person_records, people[i : i + AHEAD]) for i in range(0, len(people), AHEAD))
            yield from enumerate(itertools.chain.from_iterable(itertools.chain.from_iterable(made)))

    def _surfaces(self, closed: ClosedHead, split: str, number: int) -> list[dict]:
        """All records of a person's neutral scan."""
        person, points = _person(split, number), self.builder_config.points
        (vertices,) = head_space.scans(closed, SEED, person, [0])
        anchors = head_space.anchors(closed.head, SEED, [person])[0]
        drawn = (surface_record(closed, vertices, points, _rng(person, 0, i)) for i in range(RECORDS_PER_PERSON))
        return [head_records.record(subject=number, anchors=anchors, **one) for one in drawn]

    def _pairs(self, closed: ClosedHead, split: str, number: int) -> list[dict]:
        """A record for each of a person's expressions, of half as many pairs as a surface has points."""
        person, count, points = _person(split, number), EXPRESSIONS[split], self.builder_config.points // 2
        anchors = head_space.anchors(closed.head, SEED, [person])[0]
        neutral, *posed = head_space.scans(closed, SEED, person, range(count + 1))
        made = []
        for index, vertices in enumerate(posed):
            pairs = pair_record(closed, neutral, vertices, points, _rng(person, 1, index))
            numbers = {"subject": number, "expression": index, "scan": number * count + index}
            made.append(head_records.record(anchors=anchors, **numbers, **pairs))
        return made


def _person(split: str, number: int) -> int:
    return number + FIRST_TEST_PERSON * (split == "test")


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.default_rng((SEED, *numbers))
