"""Drawing points from one scan of the NPHM data set, as a job for a process of its own or another machine.

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
# Records that a scan's surface, and a pair of scans, are good for.
RECORDS = {"surface": 24, "pairs": 4, "observation": 1}
FACE_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Job:
    """One scan to draw from: into `kept`, an .npz; `part` is "surface", "pairs" (with the neutral scan) or
    "observation" (with its surface); `points` of a record."""

    folder: str
    subject: int
    neutral: int
    expression: int
    part: str
    points: int
    kept: str

    @property
    def records(self) -> int:
        """How many records the job's points are for."""
        return RECORDS[self.part]


def draw(job: Job) -> str:
    """Does a job unless it is done already, and returns its file; whole files only are ever seen under its name.

    UserError names the scan that cannot be read or has no surface.
    """
    kept = pathlib.Path(job.kept)
    if kept.is_file():
        return job.kept
    scan = nphm_scans.scan_folder(pathlib.Path(job.folder), job.subject, job.expression)
    try:
        arrays = _drawn(job, scan)
    except (UserError, ValueError) as error:
        raise UserError(f"{scan}: {error}") from error
    unfinished = kept.with_suffix(f".{uuid.uuid4().hex}.npz")  # processes of two machines may have one number
    np.savez(unfinished, **arrays)
    unfinished.rename(kept)
    return job.kept


def beam_pipeline(options: Sequence[str]) -> Any:
    """An empty Apache Beam pipeline with Beam's own `options`, such as "--runner=DirectRunner".

    UserError where Beam is not installed or refuses them.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("--beam_options needs Apache Beam: pip install 'jaxface[beam]'") from error
    try:
        return apache_beam.Pipeline(options=PipelineOptions(list(options)))
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--beam_options: Apache Beam refuses {' '.join(options)}: {reason}") from error


def draw_with_beam(jobs: Iterable[Job], pipeline: Any) -> None:
    """Does jobs in a pipeline. Every worker has jaxface and sees the jobs' folders under the same names.

    A job that cannot be done is left: `draw` says why.
    """
    import apache_beam as beam

    with pipeline:
        # Without the shuffle a runner may give all jobs to one worker.
        pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(_attempt)


def _attempt(job: Job) -> None:
    """Beam would try a failed job again and again, and say why in a traceback."""
    with contextlib.suppress(UserError):
        draw(job)


def _drawn(job: Job, scan: pathlib.Path) -> dict[str, np.ndarray]:
    root, seed = pathlib.Path(job.folder), (SEED, job.subject, job.expression)
    neutral = nphm_scans.scan_folder(root, job.subject, job.neutral)
    mask, anchors = nphm_scans.face_mask(root), nphm_scans.anchors(neutral)
    if job.part == "pairs":
        count = job.records * (job.points // 2)
        return {"anchors": anchors, **nphm_scans.pairs(neutral, scan, mask, count, seed)}
    face = job.records * round(FACE_SHARE * job.points)
    made = {"anchors": anchors, **nphm_scans.surface(scan, mask, face, job.records * job.points - face, seed)}
    if job.part == "observation":
        made["observation"] = nphm_scans.observation(root, job.subject, job.expression, seed)
    return made
