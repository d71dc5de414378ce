"""Smoothing of tracked landmarks over time: the pose of the face lightly, its shape in the face's own frame strongly.

A face's points are a similarity of the shape in its first frame, the pose, plus residuals in the frame of that shape.
Both are smoothed by local polynomials (Savitzky and Golay, 1964) with Gaussian weights over the frames before and
after, which, unlike a recursive filter, do not lag behind motion. Where the shape itself moves, a shorter kernel is
used: the rule of the intersection of confidence intervals (Goldenshluger and Nemirovski, 1997) for two bandwidths.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxface.results import FaceLandmarks
from jaxface.video import Tracked

# Standard deviations of the Gaussian kernels in seconds, and the smallest in frames.
POSE_S, SHAPE_S, MIN_FRAMES = 0.07, 0.25, 1.4
DEGREE = 2
# A window reaches so many standard deviations of the longer kernel to both sides, and at most so many frames.
REACH, MAX_REACH_FRAMES = 2.0, 24
# Difference of the two estimates of a point's residual, in its standard deviations without motion, from which the
# shorter kernel starts to count; at twice this difference it counts alone.
CONFIDENCE = 2.5
# Median of the length of a complex Gaussian sample over its root mean square.
MEDIAN_PER_RMS = math.sqrt(math.log(2))


@dataclasses.dataclass(eq=False)
class _Track:
    """The frames of one face: times (s) and points (N,) as complex numbers, in the window; and the first shape (N,)."""

    reference: np.ndarray
    times: collections.deque[float] = dataclasses.field(default_factory=collections.deque)
    points: collections.deque[np.ndarray] = dataclasses.field(default_factory=collections.deque)

    def at(self, time: float, pose_s: float, shape_s: float) -> np.ndarray:
        """The smoothed points (N,) complex at a time of the track."""
        times, points = np.array(self.times) - time, np.stack(self.points)
        center = points.mean(axis=1)
        spread = float((np.abs(self.reference) ** 2).sum())
        turn = points @ self.reference.conj() / spread if spread > 0 else np.ones(len(points), complex)
        turn = np.where(np.abs(turn) > 0, turn, 1)
        residual = (points - center[:, None]) / turn[:, None] - self.reference
        short = local_polynomial(times, pose_s)
        shape = self.reference + _adaptive(residual, short, local_polynomial(times, shape_s))
        return (short @ turn) * shape + short @ center

    def forget(self, before: float) -> None:
        """Drops the frames before a time."""
        while self.times and self.times[0] < before:
            self.times.popleft()
            self.points.popleft()


def local_polynomial(times: np.ndarray, deviation: float) -> np.ndarray:
    """Weights (n,) of samples at times (n,) in the local polynomial regression at time 0, with a Gaussian kernel.

    Their sum is 1. Few samples lower the degree of the polynomial.
    """
    kernel = np.exp(-0.5 * (times / deviation) ** 2)
    near = int((kernel > 0.01).sum())
    degree = min(DEGREE, max(near - 2, 0))
    design = (times[:, None] / deviation) ** np.arange(degree + 1)
    weighted = design * kernel[:, None]
    return weighted @ np.linalg.solve(weighted.T @ design, np.eye(degree + 1)[0])


def _adaptive(residual: np.ndarray, short: np.ndarray, long: np.ndarray) -> np.ndarray:
    """The residual (N,) by the weights `long` (n,), or where a point moves, those of `short`; `residual` is (n,N)."""
    smooth, quick = long @ residual, short @ residual
    if len(residual) < 4:
        return quick
    second = residual[2:] - 2 * residual[1:-1] + residual[:-2]
    noise = np.median(np.abs(second), axis=0) / MEDIAN_PER_RMS / math.sqrt(6)
    deviation = noise * np.linalg.norm(short - long)
    excess = np.abs(quick - smooth) / np.maximum(CONFIDENCE * deviation, 1e-12) - 1
    return smooth + np.clip(excess, 0, 1) * (quick - smooth)


def smooth(
    tracked: Iterable[Tracked], rate: float, times: Sequence[float] = (), lookahead: bool = True
) -> Iterator[Tracked]:
    """Yields the frames and faces of `video.track` with smoothed points.

    Args:
        tracked: frames and faces.
        rate: frames per second.
        times: seconds, of the frames so far, in a list that grows with `tracked`; without it they follow from `rate`.
        lookahead: whether frames wait for those after them. False for a camera: past frames alone reduce the jitter
            less, and not at all in fast motion.
    """
    pose_s, shape_s = (max(value, MIN_FRAMES / rate) for value in (POSE_S, SHAPE_S))
    reach = min(math.ceil(REACH * shape_s * rate), MAX_REACH_FRAMES)
    tracks: dict[int | None, _Track] = {}
    waiting: collections.deque[tuple[float, Tracked]] = collections.deque()

    def smoothed(time: float, item: Tracked) -> Tracked:
        frame, faces = item
        found = [_with_points(face, tracks[face.track].at(time, pose_s, shape_s)) for face in faces]
        for number, track in list(tracks.items()):
            track.forget(time - reach / rate)
            if not track.times:
                del tracks[number]
        return frame, found

    for index, (frame, faces) in enumerate(tracked):
        time = times[index] if index < len(times) else index / rate
        for face in faces:
            points = _points(face)
            track = tracks.setdefault(face.track, _Track(points - points.mean()))
            track.times.append(time)
            track.points.append(points)
        waiting.append((time, (frame, faces)))
        if len(waiting) > (reach if lookahead else 0):
            yield smoothed(*waiting.popleft())
    while waiting:
        yield smoothed(*waiting.popleft())


def _points(face: FaceLandmarks) -> np.ndarray:
    """All points (N,) of a face, of every layout, as complex numbers."""
    parts = [one.points for one in face.layouts.values()] or [face.points]
    points = np.concatenate(parts).astype(np.float64)
    return points[:, 0] + 1j * points[:, 1]


def _with_points(face: FaceLandmarks, smoothed: np.ndarray) -> FaceLandmarks:
    """The face with other points, in the order of `_points`."""
    points = np.stack([smoothed.real, smoothed.imag], axis=-1)
    if not face.layouts:
        points_3d = face.points_3d
        if points_3d is not None:
            points_3d = np.concatenate([points, np.asarray(points_3d)[:, 2:]], axis=1)
        return dataclasses.replace(face, points=points, points_3d=points_3d)
    parts = np.split(points, np.cumsum([len(one.points) for one in face.layouts.values()])[:-1])
    layouts = {
        name: dataclasses.replace(one, points=part)
        for (name, one), part in zip(face.layouts.items(), parts, strict=True)
    }
    return dataclasses.replace(face, points=parts[0], layouts=layouts)
