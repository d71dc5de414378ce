"""Videos and cameras to files, with a predictor that finds the same face in every frame."""

import json
import os
import signal

import numpy as np
import pytest

from jaxface import clips, folders, video
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks

BOX = np.array([10.0, 8, 50, 40])


def predictor(photo, boxes=None, **options):
    if photo.shape[0] == 1:
        return []
    layer = np.full((4, 4, 4), 255, np.uint8), (20, 20)
    paint = None if options.get("paint") is None else layer
    points = np.array([[20.0, 20], [40, 20], [30, 35]])
    fields = dict(box=BOX, extent=BOX, layout="custom", points=points, sigma=np.full(3, 0.5))
    return [FaceLandmarks(**fields, paint=paint)]


class Camera:
    """Stands for cv2.VideoCapture of a camera that gives `count` frames; the third one interrupts the process."""

    count, interrupts = 8, False

    def __init__(self, number):
        self.read_frames = 0

    def read(self):
        self.read_frames += 1
        if self.interrupts and self.read_frames == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if self.read_frames > self.count:
            return False, None
        return True, np.full((48, 64, 3), 90, np.uint8)

    def get(self, key):
        return 0.0

    def release(self):
        pass


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("interrupts", [False, True])
def test_a_camera_is_recorded_until_it_ends_or_ctrl_c(tmp_path, monkeypatch, interrupts, smooth):
    capture = video.cv2.VideoCapture
    opener = lambda source: Camera(source) if isinstance(source, int) else capture(source)  # noqa: E731
    monkeypatch.setattr(video.cv2, "VideoCapture", opener)
    monkeypatch.setattr(Camera, "interrupts", interrupts)
    handler, lines = signal.getsignal(signal.SIGINT), []
    counts = clips.infer_camera(predictor, 0, tmp_path, smooth, {}, lines.append)
    assert signal.getsignal(signal.SIGINT) is handler and any("Ctrl-C" in line for line in lines)
    monkeypatch.undo()
    entries = [json.loads(line) for line in (tmp_path / "camera_0.jsonl").read_text().splitlines()]
    assert len(entries) == counts["frame"] == (2 if interrupts else 7) and counts["video"] == 1
    assert entries[0]["image"] == "camera_0" and entries[0]["width"] == 64 and len(entries[1]["faces"]) == 1
    assert all(a["time"] <= b["time"] for a, b in zip(entries, entries[1:], strict=False))
    assert video.open_clip(tmp_path / "camera_0_overlay.mp4").width == 64
    with pytest.raises(UserError, match="--camera"):
        clips.infer_camera(predictor, 97, tmp_path, smooth, {}, lines.append)


def write_clip(path) -> None:
    with video.ClipWriter(path, 10.0, 64, 48) as writer:
        for _ in range(4):
            writer.write(np.full((48, 64, 3), 60, np.uint8))


def test_a_painted_clip_is_written_beside_the_overlay_and_again(tmp_path):
    write_clip(tmp_path / "a.mp4")
    for _ in range(2):
        options = {"paint": np.zeros((4, 4, 4), np.uint8)}
        summary = folders.infer_files(predictor, tmp_path / "a.mp4", tmp_path / "out", None, True, options, print)
        assert summary.counts["frame"] == 4 and not summary.failed
    frames = list(video.open_clip(tmp_path / "out" / "a_painted.mp4").frames())
    assert len(frames) == 4 and frames[0][21, 21].min() > 150 and abs(int(frames[0][40, 60, 0]) - 60) < 12


def test_a_texture_is_refused_for_videos_only(tmp_path):
    write_clip(tmp_path / "a.mp4")
    summary = folders.infer_files(
        predictor, tmp_path / "a.mp4", tmp_path / "out", None, False, {"texture": True}, print
    )
    assert "--texture takes photos" in summary.failed["a.mp4"]
