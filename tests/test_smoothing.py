import dataclasses

import numpy as np
import pytest

from jaxface import smoothing
from jaxface.results import FaceLandmarks, LayoutPoints

RATE, COUNT, SIDE = 30.0, 120, 100.0
SHAPE = np.random.default_rng(1).uniform(-0.5, 0.5, (68, 2)) * SIDE
BOX = np.array([0.0, 0, SIDE, SIDE])


def face(points: np.ndarray, **fields) -> FaceLandmarks:
    sigma = np.ones(len(points))
    return FaceLandmarks(
        **{"box": BOX, "extent": BOX, "layout": "68", "points": points, "sigma": sigma, "track": 0} | fields
    )


def motion(speed: float) -> np.ndarray:
    """Positions (COUNT,68,2) of a head that sways with a peak speed in face sizes per second, and nods and blinks."""
    time = np.arange(COUNT) / RATE
    amplitude = speed * SIDE / (2 * np.pi)
    center = amplitude * np.stack([np.sin(2 * np.pi * time), 0.5 * np.cos(2 * np.pi * time)], axis=-1)
    angle = 0.2 * min(speed, 1.0) * np.sin(2 * np.pi * 0.7 * time)
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)
    shape = np.repeat(SHAPE[None], COUNT, axis=0)
    closing = 0.06 * SIDE * np.exp(-0.5 * ((time - 2.0) / 0.08) ** 2)
    shape[:, 36:48, 1] += closing[:, None]
    return np.einsum("tij,tnj->tni", turn, shape) + center[:, None]


def smoothed(tracks: np.ndarray, **options) -> np.ndarray:
    frames = [(np.zeros((1, 1, 3), np.uint8), [face(points)]) for points in tracks]
    return np.stack([faces[0].points for _, faces in smoothing.smooth(frames, RATE, **options)])


@pytest.mark.parametrize("speed", [0.0, 0.3, 1.0, 3.0])
def test_jitter_falls_to_a_third_and_motion_does_not_lag(speed):
    truth = motion(speed)
    noisy = truth + np.random.default_rng(0).normal(0, 0.01 * SIDE, truth.shape)
    found = smoothed(noisy)

    def jitter(points):
        return np.diff(points - truth, 2, axis=0).std()

    def error(points):
        return np.linalg.norm(points - truth, axis=-1).mean()

    assert jitter(found) < jitter(noisy) / 3
    assert error(found) < 0.8 * error(noisy)
    blink = np.linalg.norm(found - truth, axis=-1)[55:66, 36:48].mean()
    assert blink < 1.1 * np.linalg.norm(noisy - truth, axis=-1)[55:66, 36:48].mean()


def test_without_noise_motion_is_kept_to_the_ends():
    truth = motion(1.0)
    assert np.linalg.norm(smoothed(truth) - truth, axis=-1).max() < 0.01 * SIDE


def test_a_camera_does_not_wait():
    frames = iter([(None, []), (np.zeros((1, 1, 3), np.uint8), [face(SHAPE)])])
    found = smoothing.smooth(frames, RATE, lookahead=False)
    assert next(found) == (None, []) and np.allclose(next(found)[1][0].points, SHAPE)
    truth = motion(0.3)
    noisy = truth + np.random.default_rng(0).normal(0, 0.01 * SIDE, truth.shape)
    late = smoothed(noisy, lookahead=False)
    assert np.diff(late - truth, 2, axis=0).std() < 0.7 * np.diff(noisy - truth, 2, axis=0).std()
    assert np.linalg.norm(late - truth, axis=-1).mean() < np.linalg.norm(noisy - truth, axis=-1).mean()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_tracks_and_few_points(count):
    for number in (1, 2, 3):
        frames = [(None, [face(SHAPE[:number] + index)]) for index in range(count)]
        for index, (_, faces) in enumerate(smoothing.smooth(frames, RATE)):
            assert np.allclose(faces[0].points, SHAPE[:number] + index, atol=0.6)


def test_faces_stay_apart_and_all_layouts_move_together():
    layouts = {"a": LayoutPoints(SHAPE[:4], np.ones(4)), "b": LayoutPoints(SHAPE[4:7], np.ones(3))}
    one = face(SHAPE[:4], layouts=layouts)
    other = face(SHAPE + 500, track=1, points_3d=np.concatenate([SHAPE + 500, SHAPE[:, :1]], axis=1))
    shaken = [dataclasses.replace(other, points=other.points + shift) for shift in (3, -3, 3, -3, 3)]
    found = list(smoothing.smooth([(None, [one, moved]) for moved in shaken], RATE))
    for _, (first, second) in found:
        assert np.allclose(first.points, SHAPE[:4]) and np.allclose(first.layouts["b"].points, SHAPE[4:7])
        assert np.abs(second.points - other.points).max() < 3.1
        assert np.array_equal(second.points_3d[:, :2], second.points) and np.array_equal(
            second.points_3d[:, 2], SHAPE[:, 0]
        )
    assert np.abs(found[2][1][1].points - other.points).max() < 2


def test_a_kernel_reproduces_parabolas():
    times = np.array([-0.3, -0.2, -0.1, 0.0, 0.15, 0.2])
    weights = smoothing.local_polynomial(times, 0.2)
    assert np.allclose([weights.sum(), weights @ times, weights @ times**2], [1, 0, 0], atol=1e-9)
    assert np.allclose(smoothing.local_polynomial(np.zeros(1), 0.1), [1])
