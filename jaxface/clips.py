"""Inference on videos and cameras: a JSON line per frame and an overlay video."""

import contextlib
import functools
import os
import pathlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxface import detection, interrupts, outputs, overlay, smoothing, video
from jaxface.errors import UserError
from jaxface.results import DECIMALS

JSON_ENDING, OVERLAY_ENDING, PAINTED_ENDING = ".jsonl", "_overlay.mp4", "_painted.mp4"

Path = pathlib.Path
Predict = Callable[..., Any]
Draw = Callable[..., np.ndarray]
Log = Callable[[str], None]


def infer_video(
    predict: functools.partial,
    path: Path,
    target: Path,
    box: np.ndarray | None,
    smooth: bool,
    writer: outputs.Writer,
    log: Log,
) -> Counter:
    """Writes the overlay video and the JSON lines of one video; damaged frames have lines without faces.

    Args:
        predict: `(frame, boxes=...) -> faces`, bound to its options.
        path: the video.
        target: output path without ending.
        box: (4,) px of the face to follow, or None.
        smooth: smooth the points over time.
        writer: writes the files.
        log: called with one line for each damaged frame, and if the file is truncated.

    Returns:
        The counts for the summary; `silent` is 1 if the sound is lost.

    Raises:
        UserError: the video cannot be read, or an option is for photos only.
        OSError: a file cannot be written.
    """
    clip = video.open_clip(path)
    if box is not None:
        detection.check_boxes(box, clip.width, clip.height)
    counts, last = _write_clip(predict, clip, path.name, target, box, smooth, writer, log, path)
    if clip.duration - last > max(1.0, clip.duration / 10):
        log(f"{path.name}: only {last:.1f} s of {clip.duration:.1f} s could be read; the file may be truncated")
    return counts


def infer_camera(
    predictor: Predict,
    number: int,
    output: str | os.PathLike,
    smooth: bool,
    options: Mapping[str, Any],
    log: Log,
) -> Counter:
    """As `folders.infer_files` for the frames of a camera, until Ctrl-C: camera_0.jsonl and camera_0_overlay.mp4.

    Args:
        predictor, output, options: see `folders.infer_files`.
        number: of the camera, from 0.
        smooth: smooth the points over time, by past frames only.
        log: called with lines about what happens.

    Returns:
        Numbers of videos and frames.

    Raises:
        UserError: there is no such camera, `output` cannot be created, or the predictor rejects the options.
    """
    predict = functools.partial(predictor, **options)
    predict(np.zeros((1, 1, 3), np.uint8))  # rejects wrong options before anything is written
    stop = threading.Event()
    camera = video.open_camera(number, stop)
    writer = outputs.Writer(output)
    writer.make_folder()
    target = writer.folder / camera.path
    writer.check(outputs.with_ending(target, ending) for ending in (JSON_ENDING, OVERLAY_ENDING, PAINTED_ENDING))
    log("recording; Ctrl-C ends it")
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        counts, _ = _write_clip(predict, camera, camera.path, target, None, smooth, writer, log, None)
    finally:
        signal.signal(signal.SIGINT, before)
    counts.pop("silent")
    return counts


def _write_clip(
    predict: functools.partial,
    clip: video.Clip | video.Camera,
    name: str,
    target: Path,
    box: np.ndarray | None,
    smooth: bool,
    writer: outputs.Writer,
    log: Log,
    source: Path | None,
) -> tuple[Counter, float]:
    """Writes the JSON lines, the overlay and, with a painted map, the painted video of a clip.

    Args:
        predict: `(frame, boxes=...) -> faces`, bound to its options.
        clip: the clip or camera.
        name: its name in the JSON lines and messages.
        target: output path without ending.
        box: the face to follow, or None.
        smooth: smooth the points over time.
        writer: writes the files.
        log: called with lines about damaged frames.
        source: the file with the sound of the clip, None for a camera.

    Returns:
        The counts for the summary, and the time of the last frame in seconds.
    """
    if predict.keywords.get("texture"):
        raise UserError(f"{name}: --texture takes photos, not videos; leave it out")
    times: list[float] = []
    drawers: dict[str, Draw] = {OVERLAY_ENDING: overlay.draw_overlay}
    if predict.keywords.get("paint") is not None:
        drawers[PAINTED_ENDING] = overlay.draw_paint
    partial = {ending: outputs.with_ending(target, f".partial{ending}") for ending in drawers}
    lines, silent = [], 0
    with interrupts.temporary(*partial.values()):
        with contextlib.ExitStack() as stack:
            writers = {}
            for ending, path in partial.items():
                opened = video.ClipWriter(path, clip.rate, clip.width, clip.height)
                writers[ending] = stack.enter_context(opened)
            for index, (frame, faces) in enumerate(_tracked(predict, clip, name, box, smooth, log, times)):
                if frame is not None:
                    for ending, clip_writer in writers.items():
                        clip_writer.write(drawers[ending](frame, faces), times[index])
                entry = {"image": name, "frame": index, "time": round(times[index], DECIMALS)}
                entry |= {"width": clip.width, "height": clip.height, "faces": [face.to_json() for face in faces]}
                lines.append(outputs.json_line(entry))
        if not lines:
            raise UserError(f"{name}: no frame could be read; check the camera")
        for ending, path in partial.items():
            if source is not None:
                silent |= int(not video.add_sound(path, source))
            writer.replace(path, outputs.with_ending(target, ending))
    writer.write(outputs.with_ending(target, JSON_ENDING), b"".join(lines))
    return Counter(video=1, frame=len(lines), silent=silent), times[-1]


def _tracked(
    predict: Predict,
    clip: video.Clip | video.Camera,
    name: str,
    box: np.ndarray | None,
    smooth: bool,
    log: Log,
    times: list[float],
) -> Iterator[video.Tracked]:
    """The frames of a clip with their tracked faces; their times are appended to `times`. Arguments: `_write_clip`."""

    def frames() -> Iterator[np.ndarray | None]:
        for time, frame in clip.timed_frames():
            times.append(time)
            if frame is None:
                log(f"{name}: frame {len(times) - 1} at {time:.3f} s is damaged; its line has no faces")
            yield frame

    tracked = video.share_identity(video.track(frames(), predict, box))
    return smoothing.smooth(tracked, clip.rate, times, isinstance(clip, video.Clip)) if smooth else tracked
