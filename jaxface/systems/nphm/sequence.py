"""Fits a sequence of scans of one person, each frame starting from the result of the frame before.

The identity code comes from a few frames, which are fitted together as any scans of a person are. It is then kept, and
every frame is aligned rigidly to the head of the frame before, whose expression is the start of its own. Ours: the
official code fits every scan on its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry.alignment import Similarity
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.results import HeadFit
from jaxface.system import Tree
from jaxface.systems.nphm import scan_fit
from jaxface.systems.nphm.fitting import inversion, scans
from jaxface.systems.nphm.scan_fit import AlignedScan
from jaxface.systems.nphm.surface.head_model import HeadModel

# Number of frames, evenly spaced, from which the identity comes.
KEY_FRAMES = 4
# Steps for each further frame, relative to those of the key frames.
WARM_SHARE = 0.2
# If a frame is this far from the head of the frame before after alignment, it is aligned anew from any orientation.
LOST_MM = 8.0

OnFailure = Callable[[str, UserError], None]


class Frame(NamedTuple):
    """A frame of a sequence.

    Attributes:
        name: the frame in messages.
        points: (N,3), as from `scans.scan_points`.
        units, align_by: its unit and initial alignment, see `scan_fit.align`; for key frames only.
    """

    name: str
    points: np.ndarray
    units: str | None = None
    align_by: str = "auto"


def fit_sequence(
    head: HeadModel, config: ml_collections.ConfigDict, frames: Sequence[Frame], on_failure: OnFailure
) -> list[HeadFit | None]:
    """Fits the frames of one person.

    Args:
        head: the trained head.
        config: `config.fit`, as for `scan_fit.fit_people`.
        frames: in the order of time.
        on_failure: called with the name of a frame that cannot be fitted, and the error; its fit is None, and the next
            frame starts from the last one that was fitted.

    Returns:
        A fit for each frame. All have one identity code and one topology.

    Raises:
        UserError: a flag or file that holds for all frames is wrong.
    """
    failed: dict[int, UserError] = {}
    keys = _key_fits(head, config, frames, failed)
    fits: list[HeadFit | None] = [None] * len(frames)
    if keys:
        follower = _Follower(head, config, next(iter(keys.values())).identity)
        first = min(keys)
        for indices in (range(first, len(frames)), range(first - 1, -1, -1)):
            previous = fits[first] or keys[first]
            for index in indices:
                if index in failed:
                    continue
                try:
                    fits[index] = previous = follower.fit(previous, frames[index])
                except UserError as error:
                    failed[index] = error
    for index, frame in enumerate(frames):
        if fits[index] is None:
            nothing = UserError(f"{frame.name}: no key frame of its sequence could be fitted; see the other messages")
            on_failure(frame.name, failed.get(index, nothing))
    return fits


def _key_fits(
    head: HeadModel, config: ml_collections.ConfigDict, frames: Sequence[Frame], failed: dict[int, UserError]
) -> dict[int, HeadFit]:
    """The fits of the key frames by number; errors of frames that cannot be aligned or fitted go to `failed`."""
    indices = np.unique(np.linspace(0, len(frames) - 1, KEY_FRAMES).round().astype(int)).tolist()
    aligned: dict[int, AlignedScan] = {}
    for index in indices:
        frame = frames[index]
        # The frames of a sequence have one unit.
        unit = next((scan.unit for scan in aligned.values()), None) or frame.units
        try:
            aligned[index] = scan_fit.align(head, frame.points, frame.name, unit, frame.align_by)
        except UserError as error:
            if str(error).startswith("--"):  # a flag is wrong, for every frame
                raise
            failed[index] = error
    if not aligned:
        return {}
    by_name = {scan.name: index for index, scan in aligned.items()}
    (fits,) = scan_fit.fit_people(
        head, config, [list(aligned.values())], lambda name, error: failed.__setitem__(by_name[name], error)
    )
    return {index: fit for index, fit in zip(aligned, fits, strict=True) if fit is not None}


class _Follower:
    """Fits a frame from the fit of its neighbour in time."""

    def __init__(self, head: HeadModel, config: ml_collections.ConfigDict, identity: np.ndarray):
        self._head, self._identity = head, identity
        self._fitter = scan_fit.make_fitter(head, config)
        self._neutral = head.neutral_mesh(identity, config.resolution)
        self._steps = max(1, round(WARM_SHARE * config.steps))
        self._points_per_scan, self._face_share = max(config.points // KEY_FRAMES, 1), config.face_share

    def fit(self, previous: HeadFit, frame: Frame) -> HeadFit:
        """The fit of `frame`.

        Raises UserError if its size is not that of a head or no point of it converges to the model's surface.
        """
        similarity = self._align(previous, frame)
        cloud = np.float32(similarity(frame.points))
        start = inversion.FitVariables(self._identity, previous.expression[None], np.zeros((1, 6), np.float32))
        weighted = scans.with_face_share(cloud, self._head.mean_anchors, self._face_share)
        # Clouds of one size: the optimisation is compiled once.
        padded, count = (
            np.resize(weighted, (1, scans.MOST_REPEATS * scans.MAX_POINTS, 3)),
            np.array([len(weighted)], np.int32),
        )
        counts = self._steps, self._points_per_scan
        with jax.default_matmul_precision("highest"):
            variables = jax.device_get(_optimise(self._fitter, *counts, self._head.params, padded, count, start))
        scan = AlignedScan(frame.name, frame.points, similarity, previous.unit)
        return scan_fit.head_fit(self._head, self._fitter, self._neutral, variables, 0, cloud, scan)

    def _align(self, previous: HeadFit, frame: Frame) -> Similarity:
        """The rigid alignment of a frame to the head of the frame before. Raises UserError for an implausible size."""
        if previous.unit is not None:
            scans.infer_unit(frame.points, frame.name, previous.unit)
        posed = dataclasses.replace(previous.mesh, vertices=previous.similarity(previous.mesh.vertices))
        similarity, error = scans.follow(frame.points, previous.similarity, posed)
        if MM_PER_UNIT * error < LOST_MM or previous.unit is None:
            return similarity
        start = scans.align(frame.points, previous.unit, posed.vertices)
        anew, error_anew = scans.follow(frame.points, start, posed)
        return anew if error_anew < error else similarity


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _optimise(
    fitter: inversion.Fitter,
    steps: int,
    points_per_scan: int,
    params: Tree,
    points: jax.Array,
    counts: jax.Array,
    start: inversion.FitVariables,
) -> inversion.FitVariables:
    """The variables of `Fitter.fit` after a warm start, compiled."""
    return fitter.fit(params, points, counts, jax.random.key(0), steps, points_per_scan, start)[0]
