"""Drawing points from one scan of the NPHM data set, as a job for a process of its own; it loads no TensorFlow."""

import dataclasses
import os
import pathlib

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
    unfinished = kept.with_suffix(f".{os.getpid()}.npz")
    np.savez(unfinished, **arrays)
    unfinished.rename(kept)
    return job.kept


def _drawn(job: Job, scan: pathlib.Path) -> dict[str, np.ndarray]:
    root, seed = pathlib.Path(job.folder), (SEED, job.subject, job.expression)
    neutral = nphm_scans.scan_folder(root, job.subject, job.neutral)
    mask, anchors = nphm_scans.face_mask(root), nphm_scans.anchors(neutral)
    if job.part == "pairs":
        count = job.records * (job.points // 2)
        return {"anchors": anchors, **nphm_scans.pairs(neutral, scan, mask, count, seed)}
    face = job.records * round(FACE_SHARE * job.points)
    made = {"anchors": anchors, **nphm_scans.surface(scan, mask, face, job.records * job.points - face, seed)}
    return {**made, "observation": nphm_scans.observation(scan, seed)} if job.part == "observation" else made
