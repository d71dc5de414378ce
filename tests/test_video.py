import resource
import subprocess
import threading

import cv2
import numpy as np
import pytest

from jaxface import smoothing, video, video_damage
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks

SIZE = np.array([-20.0, -30, 20, 30])


def moving_face(index: int) -> np.ndarray:
    """The frame `index`: the face's centre is its brightest pixel."""
    frame = np.zeros((120, 200, 3), np.uint8)
    if index >= 0:
        frame[60, 40 + 5 * index] = 255
    return frame


def landmarks(points: np.ndarray, extent: np.ndarray, **fields) -> FaceLandmarks:
    return FaceLandmarks(
        points=points, extent=extent, **{"box": extent, "layout": "one", "sigma": np.ones(1), **fields}
    )


class Finder:
    """Predicts from the frame, with boxes only near them; counts how often it had to detect."""

    def __init__(self):
        self.detections = 0

    def __call__(self, frame, boxes):
        self.detections += boxes is None
        there = np.argwhere(frame[..., 0])[:, ::-1]
        if boxes is None:
            return [self.face(center, np.concatenate([center, center]) + 0.8 * SIZE, 1.0) for center in there]
        return [self.face(there[0] if len(there) else np.zeros(2), box, 1.0 if len(there) else 50.0) for box in boxes]

    def face(self, center, box, sigma):
        extent = np.concatenate([center, center]) + SIZE
        return landmarks(center[None], box=box, extent=extent, sigma=np.array([sigma]))


def test_a_face_is_followed_lost_and_found():
    find = Finder()
    frames = [moving_face(index) for index in (0, 1, 2, -1, 3, 4)]
    tracked = [faces for _, faces in video.track(frames, find)]
    assert [[face.track for face in faces] for faces in tracked] == [[0], [0], [0], [], [1], [1]]
    assert np.array_equal(tracked[1][0].box, tracked[0][0].extent)
    assert find.detections == 3


def test_a_given_box_is_followed_without_a_detector():
    find = Finder()
    tracked = [faces for _, faces in video.track([moving_face(i) for i in (0, -1, 1)], find, [20, 30, 60, 90])]
    assert find.detections == 0 and [len(faces) for faces in tracked] == [1, 1, 1]
    assert np.array_equal(tracked[2][0].box, tracked[1][0].box)


def test_a_track_has_one_identity():
    class Head:
        """Stands for a fitted head; its identity is a number."""

        def __init__(self, identity):
            self.coefficients = {"identity": np.array([identity])}

        def refit(self, identity):
            return Head(float(identity[0]))

        def draw(self):
            return np.zeros((1, 1, 4), np.uint8), (0, 0)

    def tracked(count):
        for index in range(count):
            yield moving_face(0), [landmarks(np.zeros((1, 2)), SIZE, track=0, head=Head(index % 2))] if index else []

    found = [faces[0].head.coefficients["identity"][0] for _, faces in video.share_identity(tracked(60)) if faces]
    assert len(found) == 59 and np.ptp(found) == 0 and abs(found[0] - 0.5) < 0.05
    without = [(moving_face(0), [landmarks(np.zeros((1, 2)), SIZE, track=0)])] * 3
    assert list(video.share_identity(without)) == without


def test_clips_come_back(tmp_path):
    with video.ClipWriter(tmp_path / "a.mp4", 10.0, 64, 48) as writer:
        for level in (40, 120, 200):
            writer.write(np.full((48, 64, 3), [level, 20, 90], np.uint8))
    clip = video.open_clip(tmp_path / "a.mp4")
    frames = list(clip.frames())
    assert (clip.rate, clip.width, clip.height, len(frames)) == (10.0, 64, 48, 3)
    assert np.abs(frames[1].mean((0, 1)) - [120, 20, 90]).max() < 6


def test_a_clip_may_begin_after_time_zero(tmp_path):
    """As frames of cameras and of cut files do."""
    with video.ClipWriter(tmp_path / "a.mp4", 10.0, 64, 48) as writer:
        for time in (0.5, 0.6, 0.8):
            writer.write(np.full((48, 64, 3), 90, np.uint8), time)
    assert len(list(video.open_clip(tmp_path / "a.mp4").frames())) == 4


def test_times_of_a_clip_are_kept_and_a_damaged_frame_does_not_end_it(tmp_path):
    with video.ClipWriter(tmp_path / "a.mp4", 10.0, 64, 48) as writer:
        for time, level in ((0.0, 40), (0.1, 120), (0.5, 200)):
            writer.write(np.full((48, 64, 3), level, np.uint8), time)
    levels = [frame.mean() for frame in video.open_clip(tmp_path / "a.mp4").frames()]
    assert len(levels) == 6 and np.abs(np.diff(levels[1:5])).max() < 6 and levels[5] > 190
    writer = cv2.VideoWriter(str(tmp_path / "b.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for level in (40, 80, 120, 160):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    data = bytearray((tmp_path / "b.avi").read_bytes())
    starts = [index for index in range(len(data)) if data[index : index + 3] == b"\xff\xd8\xff"]
    data[starts[1] : starts[1] + 200] = bytes(200)
    (tmp_path / "b.avi").write_bytes(data)
    frames = list(video.open_clip(tmp_path / "b.avi").timed_frames())
    assert np.allclose([time for time, _ in frames], [0, 0.1, 0.2, 0.3])
    assert [frame is None for _, frame in frames] == [False, True, False, False]


def test_a_clip_that_the_disk_cannot_hold_is_an_error(tmp_path):
    """With a limit on the size of files in place of a full disk; OpenCV itself says nothing."""
    frames = np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="a.mp4: the video cannot be written completely"):
            with video.ClipWriter(tmp_path / "a.mp4", 10.0, 128, 96) as writer:
                for frame in frames:
                    writer.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_damages_that_the_decoder_conceals_are_told(tmp_path):
    rng, lines = np.random.default_rng(0), []
    path = tmp_path / "a.mp4"
    with video.ClipWriter(path, 10.0, 128, 96) as writer:
        for _ in range(20):
            writer.write(rng.integers(0, 255, (96, 128, 3), np.uint8))
    with video_damage.reported(path, lines.append):
        pass
    assert not lines
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    path.write_bytes(data)
    assert all(frame is not None for _, frame in video.open_clip(path).timed_frames())
    with video_damage.reported(path, lines.append):
        pass
    (line,) = lines
    assert line.startswith("a.mp4: data near ") and "may be wrong" in line


def test_messages_at_the_opening_and_between_unreadable_frames_are_no_concealed_damage():
    message = b"[h264 @ 0x55a0] concealing 255 DC errors\n"
    assert video_damage.damaged_times(message + b"@\n@0\n@100.5\n" + message + b"@\n@200\n" + message) == []
    lines = b"@\n" + message + b"@0.000\n@500\n" + message + b"@900\n" + message * 2 + b"@1700\n@1800\n"
    assert video_damage.damaged_times(lines) == [0.0, 1.7]


def test_a_damaged_frame_has_no_faces_and_does_not_end_a_track():
    tracked = list(video.track([moving_face(0), None, moving_face(1)], Finder()))
    assert tracked[1][0] is None and [[face.track for face in faces] for _, faces in tracked] == [[0], [], [0]]
    assert [len(faces) for _, faces in smoothing.smooth(tracked, 10.0, [0.0, 0.1, 0.5])] == [1, 0, 1]


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with video.ClipWriter(tmp_path / "12:30.mp4", 10.0, 64, 48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert video.open_clip("12:30.mp4").width == 64


@pytest.mark.parametrize("data", [b"", b"no clip", None])
def test_a_file_that_is_not_a_video_is_one_line(tmp_path, data):
    if data is not None:
        (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(UserError, match="a.mp4"):
        video.open_clip(tmp_path / "a.mp4")


def test_a_missing_camera_is_one_line():
    with pytest.raises(UserError, match="--camera: camera 97 gives no image"):
        video.open_camera(97, threading.Event())


def test_the_overlay_keeps_the_sound(tmp_path, monkeypatch):
    """With the ffmpeg of the wheel imageio-ffmpeg, where it is installed."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg)
    source, overlay = tmp_path / "12:30 a.mp4", tmp_path / "overlay.mp4"
    picture, sound = (["-f", "lavfi", "-i", f"{name}=duration=1"] for name in ("testsrc", "sine"))
    subprocess.run([ffmpeg, "-loglevel", "error", *picture, *sound, f"file:{source}"], check=True)
    subprocess.run([ffmpeg, "-loglevel", "error", *picture, overlay], check=True)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert video.add_sound(overlay, source)
    described = subprocess.run([ffmpeg, "-i", overlay], capture_output=True, text=True).stderr
    assert "Audio: aac" in described and "Video: " in described
    assert video.add_sound(overlay, overlay)


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nexit 1\n"])
def test_without_a_working_ffmpeg_the_overlay_stays(tmp_path, monkeypatch, program):
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / "ffmpeg").write_text(program)
        (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    overlay = tmp_path / "overlay.mp4"
    overlay.write_bytes(b"clip")
    assert not video.add_sound(overlay, tmp_path / "source.mp4")
    assert overlay.read_bytes() == b"clip" and {path.name for path in tmp_path.iterdir()} == {"bin", "overlay.mp4"}
