"""Sampling points from one scan of the NPHM data set, as a job for a separate process or another machine.

It loads no TensorFlow.
"""

import contextlib
import dataclasses
import pathlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxface.data import nphm_scans
from jaxface.errors import UserError

SEED = 20230618
# Number of records that the points of one scan are divided into.
RECORDS = {"surface": 24, "pairs": 4, "observation": 1}
# Share of a record's surface points on the face.
FACE_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Job:
    """One scan to sample.

    Attributes:
        folder: the data set.
        subject: number of the person.
        neutral: number of the person's neutral scan.
        expression: number of the scan.
        part: "surface", "pairs" (with the neutral scan) or "observation" (with the scan's surface).
        points: points per record.
        output: the .npz that is written.
    """

    folder: str
    subject: int
    neutral: int
    expression: int
    part: str
    points: int
    output: str

    @property
    def records(self) -> int:
        """Number of records that the job's points are divided into."""
        return RECORDS[self.part]


def run_job(job: Job) -> str:
    """Runs a job unless its output exists, and returns the output's path; the output appears only when complete.

    Raises UserError naming a scan that cannot be read or has no surface.
    """
    output = pathlib.Path(job.output)
    if output.is_file():
        return job.output
    scan = nphm_scans.scan_folder(pathlib.Path(job.folder), job.subject, job.expression)
    try:
        arrays = _sample(job, scan)
    except (UserError, ValueError) as error:
        raise UserError(str(error) if str(scan) in str(error) else f"{scan}: {error}") from error
    # A process number would not be unique: several machines may write into this folder.
    unfinished = output.with_suffix(f".{uuid.uuid4().hex}.npz")
    np.savez(unfinished, **arrays)
    unfinished.rename(output)
    return job.output


def beam_pipeline(options: Sequence[str]) -> Any:
    """An empty Apache Beam pipeline with Beam's own `options`, such as "--runner=DirectRunner".

    Raises UserError if Beam is not installed or rejects them.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("--beam_options: Apache Beam is not installed; pip install 'jaxface[beam]'") from error
    try:
        return apache_beam.Pipeline(options=PipelineOptions(list(options)))
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--beam_options: Apache Beam rejects {' '.join(options)} ({reason}); correct them") from error


def run_with_beam(jobs: Iterable[Job], pipeline: Any) -> None:
    """Runs jobs in a pipeline whose workers have jaxface and see the jobs' folders under the same paths.

    Failed jobs are skipped; `run_job` reports the reason later.
    """
    import apache_beam as beam

    with pipeline:
        # Without the shuffle a runner may fuse the steps and give all jobs to one worker.
        pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(_attempt)


def _attempt(job: Job) -> None:
    """`run_job` without its UserError: Beam would retry the job and then print a traceback."""
    with contextlib.suppress(UserError):
        run_job(job)


def _sample(job: Job, scan: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a job's output."""
    root, seed = pathlib.Path(job.folder), (SEED, job.subject, job.expression)
    neutral = nphm_scans.scan_folder(root, job.subject, job.neutral)
    mask, anchors = nphm_scans.face_mask(root), nphm_scans.anchors(neutral)
    if job.part == "pairs":
        count = job.records * (job.points // 2)
        return {"anchors": anchors, **nphm_scans.pairs(neutral, scan, mask, count, seed)}
    face = job.records * round(FACE_SHARE * job.points)
    surface = nphm_scans.surface(scan, mask, face, job.records * job.points - face, seed)
    arrays = {"anchors": anchors, **surface}
    if job.part == "observation":
        arrays["observation"] = nphm_scans.observation(root, job.subject, job.expression, seed)
    return arrays
