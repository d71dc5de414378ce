"""The public NPHM data set (Giebenhain et al., CVPR 2023) as records for training and evaluation.

It is distributed on request only; `manual_dir` is the unpacked folder, with face.npy of the official assets. Sampling
the scans takes hours: they are distributed to processes, or by Apache Beam to machines, and the sampled points are kept
in `nphm/drawn` of the data folder, so that an interrupted run continues; the folder may be deleted afterwards. The
user's own scans are read in the same layout (`launch.fit --register --training_set`). Splits: `train` and
`train_expressions`; `test` and `test_expressions` (the official validation people); and `observations`, a single-view
depth observation of each scan of the official test people (the published one if its file is in `single_view`) with its
surface.
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

from jaxface.data import head_records, nphm_scans, provenance
from jaxface.data.entries import Entry, read_each
from jaxface.data.nphm_jobs import Job, beam_pipeline, run_job, run_with_beam
from jaxface.errors import UserError
from jaxface.heads import head_space

# {official split: ours}.
SPLITS = {"train": "train", "validation": "test", "test": "observations"}
SAMPLES_FOLDER = "drawn"
# Hexadecimal digits of the fingerprint of the files, which names the folder of their points.
DIGEST = 16
MIN_POINTS = 100


def make(data_dir: str, size: int = 8000, beam_options: Sequence[str] = ()) -> tfds.core.DatasetBuilder:
    """The builder of "nphm".

    Args:
        data_dir: folder of prepared data sets.
        size: points per record.
        beam_options: options of an Apache Beam pipeline that samples the scans; none uses local processes.

    Raises:
        UserError: too few points, or options that Beam rejects.
    """
    if size < MIN_POINTS:
        raise UserError(f"--size {size}: too few points for a record; give at least {MIN_POINTS}")
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
            metadata=tfds.core.MetadataDict(failed={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir).absolute()
        people = nphm_scans.people(root)
        nphm_scans.face_mask(root)  # fails now rather than in hours
        data_dir = pathlib.Path(self.data_dir).parent.absolute()
        # Points of other or changed files are not taken for those of these.
        samples = data_dir / SAMPLES_FOLDER / str(provenance.fingerprint(root, data_dir)["sha256"])[:DIGEST]
        samples.mkdir(parents=True, exist_ok=True)
        jobs = {split: self._jobs(root, samples, split, people[split]) for split in people}
        pair_jobs = {split: [job for job in jobs[split] if job.part == "pairs"] for split in jobs}
        self.info.metadata.update(_metadata(root, people, pair_jobs))
        if self._pipeline is not None:
            run_with_beam(itertools.chain.from_iterable(jobs.values()), self._pipeline)
        splits = {}
        for official, split in SPLITS.items():
            surface_jobs = [job for job in jobs[official] if job.part != "pairs"]
            if surface_jobs:
                splits[split] = self._generate_examples(surface_jobs, list(people[official]))
            if pair_jobs[official]:
                splits[f"{split}_expressions"] = self._generate_examples(pair_jobs[official], list(people[official]))
        return splits

    def _jobs(self, root: pathlib.Path, samples: pathlib.Path, split: str, people: dict[int, int]) -> list[Job]:
        """The jobs of an official split with `people` {subject: expression of the neutral scan}."""
        points, jobs = self._points, []

        def job(subject: int, expression: int, part: str) -> Job:
            output = samples / f"{subject:03d}_{expression:03d}_{part}_{points}.npz"
            return Job(str(root), subject, people[subject], expression, part, points, str(output))

        for subject, neutral in people.items():
            scans = nphm_scans.expressions(root, subject)
            if split == "test":
                jobs += [job(subject, scan, "observation") for scan in scans]
            else:
                jobs.append(job(subject, neutral, "surface"))
                jobs += [job(subject, scan, "pairs") for scan in scans if scan != neutral]
        return jobs

    def _generate_examples(self, jobs: list[Job], subjects: list[int]) -> Iterator[tuple[str, dict]]:
        with _worker_processes() as pool:
            futures = {pool.submit(run_job, job): number for number, job in enumerate(jobs)}
            numbers = {_name(job): number for number, job in enumerate(jobs)}
            completed = concurrent.futures.as_completed(futures)
            entries = (Entry(_name(jobs[futures[future]]), future.result) for future in completed)
            for name, output in read_each(entries, self.info):
                number = numbers[name]
                yield from _records(output, jobs[number], subjects.index(jobs[number].subject), number)


def _name(job: Job) -> str:
    """A job in the list of failures."""
    return f"{job.subject:03d}/{job.expression:03d} ({job.part})"


def _metadata(root: pathlib.Path, people: dict[str, dict[int, int]], pair_jobs: dict[str, list[Job]]) -> dict:
    """The data set's metadata, with the mean anchors of the training people's neutral scans.

    A registration that cannot be read does not count; its jobs name it. Raises UserError if there is no other.
    """
    found, problem = [], ""
    for subject, expression in people["train"].items():
        folder = nphm_scans.scan_folder(root, subject, expression)
        try:
            found.append(nphm_scans.anchors(folder))
        except UserError as error:
            problem = f"{folder}: {error}"
    if not found:
        raise UserError(problem)
    mean_anchors = np.mean(found, 0)
    official = {"train": "train", "test": "validation"}
    subjects = {ours: len(people[theirs]) for ours, theirs in official.items()}
    scans = {ours: len(pair_jobs[theirs]) for ours, theirs in official.items()}
    return head_records.metadata(mean_anchors, subjects, scans, mm_per_unit=head_space.MM_PER_UNIT)


def _worker_processes() -> concurrent.futures.Executor:
    """Processes without TensorFlow, spawned because forks of a program with threads may hang."""
    return concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _records(path: str, job: Job, subject: int, scan: int) -> Iterator[tuple[str, dict]]:
    """The records of a job's output.

    Args:
        path: the output.
        job: the job.
        subject: number of the person within the split.
        scan: number of the scan within the split's pairs.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    shared = {"anchors": arrays.pop("anchors"), "observation": arrays.pop("observation", np.zeros((0, 3), np.float32))}
    shared |= {"subject": subject, "expression": job.expression, "scan": scan if job.part == "pairs" else 0}
    count = job.records
    for part in range(count):
        # Every n-th point: the order is random, and points off the face may be too few for equal blocks.
        values = {name: np.ascontiguousarray(array[part::count], np.float32) for name, array in arrays.items()}
        yield f"{job.subject:03d}_{job.expression:03d}_{part}", head_records.record(**shared, **values)
