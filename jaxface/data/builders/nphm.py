"""The public data set of NPHM (Giebenhain et al., CVPR 2023) as records for training and evaluation.

It is given out on request only; `manual_dir` is the folder as it comes, with face.npy of the official assets. Drawing
points takes hours: scans are shared out to processes, or by Apache Beam to machines, and what is drawn is kept in
`nphm/drawn` of the data folder, so that a run that was stopped goes on where it was; the folder may be deleted
afterwards. Splits `train` and `train_expressions`, `test` and `test_expressions` (the official validation people), and
`observations`: what one depth camera sees of each scan of the official test people (as published, where these files are
in `single_view`), with their surface.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import head_records, nphm_scans
from jaxface.data.nphm_jobs import Job, beam_pipeline, draw, draw_with_beam
from jaxface.errors import UserError
from jaxface.heads import head_space

SPLITS = {"train": "train", "validation": "test", "test": "observations"}


def make(variant: str, data_dir: str, size: int = 8000, beam_options: Sequence[str] = ()) -> tfds.core.DatasetBuilder:
    """The builder; records have `size` points, drawn by an Apache Beam pipeline where `beam_options` are given.

    UserError for a variant, of which there are none, for too few points and for options that Beam refuses.
    """
    if variant:
        raise UserError(f"nphm has no variant {variant!r}; name the data set nphm alone")
    if size < 100:
        raise UserError(f"records need at least 100 points, not {size}")
    pipeline = beam_pipeline(beam_options) if beam_options else None
    return Nphm(points=size, pipeline=pipeline, data_dir=data_dir)


class Nphm(tfds.core.GeneratorBasedBuilder):
    """`nphm`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = nphm_scans.TREE

    def __init__(self, points: int = 8000, pipeline: Any = None, **options):
        self._points, self._pipeline = points, pipeline
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        observation = tfds.features.Tensor(shape=(None, 3), dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{__doc__}\n{head_records.__doc__}",
            features=head_records.features(observation=observation),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir).absolute()
        people, kept = nphm_scans.people(root), pathlib.Path(self.data_dir).parent.absolute() / "drawn"
        nphm_scans.face_mask(root)
        kept.mkdir(parents=True, exist_ok=True)
        jobs = {split: self._jobs(root, kept, split, people[split]) for split in people}
        mean = np.mean([nphm_scans.anchors(nphm_scans.scan_folder(root, *one)) for one in people["train"].items()], 0)
        posed = {name: [job for job in jobs[name] if job.part == "pairs"] for name in jobs}
        named = {"train": "train", "test": "validation"}
        self.info.metadata.update(
            head_records.metadata(
                mean,
                {ours: len(people[theirs]) for ours, theirs in named.items()},
                {ours: len(posed[theirs]) for ours, theirs in named.items()},
                mm_per_unit=head_space.MM_PER_UNIT,
            )
        )
        if self._pipeline is not None:
            draw_with_beam(itertools.chain.from_iterable(jobs.values()), self._pipeline)
        made = {}
        for split, ours in SPLITS.items():
            surfaces = [job for job in jobs[split] if job.part != "pairs"]
            if surfaces:
                made[ours] = self._generate_examples(surfaces, list(people[split]))
            if posed[split]:
                made[f"{ours}_expressions"] = self._generate_examples(posed[split], list(people[split]))
        return made

    def _jobs(self, root: pathlib.Path, kept: pathlib.Path, split: str, people: dict[int, int]) -> list[Job]:
        points, made = self._points, []

        def job(subject: int, expression: int, part: str) -> Job:
            name = f"{subject:03d}_{expression:03d}_{part}_{points}.npz"
            return Job(str(root), subject, people[subject], expression, part, points, str(kept / name))

        for subject, neutral in people.items():
            scans = nphm_scans.expressions(root, subject)
            if split == "test":
                made += [job(subject, scan, "observation") for scan in scans]
            else:
                made.append(job(subject, neutral, "surface"))
                made += [job(subject, scan, "pairs") for scan in scans if scan != neutral]
        return made

    def _generate_examples(self, jobs: list[Job], subjects: list[int]) -> Iterator[tuple[str, dict]]:
        with _workers() as pool:
            done = {pool.submit(draw, job): number for number, job in enumerate(jobs)}
            for future in concurrent.futures.as_completed(done):
                number = done[future]
                yield from _records(future.result(), jobs[number], subjects.index(jobs[number].subject), number)


def _workers() -> concurrent.futures.Executor:
    """Processes that load no TensorFlow: started anew, as forks of a program with threads may hang."""
    return concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _records(path: str, job: Job, subject: int, scan: int) -> Iterator[tuple[str, dict]]:
    """The records of what was drawn from one scan."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    numbers = {"subject": subject, "expression": job.expression, "scan": scan if job.part == "pairs" else 0}
    about = {"anchors": arrays.pop("anchors"), "observation": arrays.pop("observation", np.zeros((0, 3), np.float32))}
    count = job.records
    for part in range(count):
        # Every n-th point: the draws are in random order, but points off the face may be few.
        values = {name: np.ascontiguousarray(array[part::count], np.float32) for name, array in arrays.items()}
        yield f"{job.subject:03d}_{job.expression:03d}_{part}", head_records.record(**about, **numbers, **values)
