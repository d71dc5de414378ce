"""Videos of systems that reconstruct heads: one head for each face of the clip, and an animated mesh file of it.

The video is read twice: all predictions come first, then every frame is drawn with the heads of the whole clip.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxface import clips, interrupts, outputs, overlay, video
from jaxface.meshes import Mesh
from jaxface.results import DECIMALS, FaceReconstruction
from jaxface.system import ClipReconstruction

# Faces in fewer frames get no mesh file.
LEAST_FRAMES = 2
NO_MESH = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
Path = pathlib.Path
Predict = Callable[..., list[FaceReconstruction]]
Reconstruct = Callable[[Sequence[FaceReconstruction], Sequence[float], bool], ClipReconstruction]


@dataclasses.dataclass
class _Track:
    """One face of a clip: the frames in which it was found and its predictions there."""

    frames: list[int] = dataclasses.field(default_factory=list)
    faces: list[FaceReconstruction] = dataclasses.field(default_factory=list)


def infer_video(
    predict: Predict,
    reconstruct_clip: Reconstruct,
    path: Path,
    target: Path,
    box: np.ndarray | None,
    smooth: bool,
    writer: outputs.Writer,
    log: Callable[[str], None],
) -> Counter:
    """Writes the overlay video, the JSON lines and <target>.glb (<target>_2.glb of the second face) of a video.

    Damaged frames have lines without faces. The first line lists the mesh files under `files`.

    Args:
        predict: `(frame, boxes=...) -> faces`.
        reconstruct_clip: see `Predictor.reconstruct_clip`.
        path: the video.
        target: output path without ending.
        box: (4,) px of the face to follow, or None.
        smooth: smooth pose and expression over time.
        writer: writes the files.
        log: called with one line for each damaged frame, and if the file is truncated.

    Returns:
        The counts for the summary; `silent` is 1 if the sound is lost.

    Raises:
        UserError: the video cannot be read, or a file would overwrite one that is not a result.
        OSError: a file cannot be written.
    """
    clip = video.open_clip(path)
    times: list[float] = []
    tracks = _tracks(video.track(_frames(clip, path.name, times, log), predict, box))
    heads = {
        number: reconstruct_clip(track.faces, [times[frame] for frame in track.frames], smooth)
        for number, track in tracks.items()
    }
    endings = _endings(tracks)
    writer.check(outputs.with_ending(target, ending) for ending in endings.values())
    lines, files = [], {}
    partial = outputs.with_ending(target, ".partial.mp4")
    with interrupts.temporary(partial):
        with video.ClipWriter(partial, clip.rate, clip.width, clip.height) as clip_writer:
            for index, (_, frame) in zip(range(len(times)), clip.timed_frames(), strict=False):
                faces = [] if frame is None else list(_faces(tracks, heads, index, frame))
                if frame is not None:
                    clip_writer.write(overlay.draw_overlay(frame, faces), times[index])
                    for number in endings:
                        if tracks[number].frames[heads[number].reference] == index:
                            (files[number],) = heads[number].files(frame).values()
                lines.append(_line(path.name, index, times[index], clip, faces))
        lines[0]["files"] = sorted(target.name + endings[number] for number in files)
        counts = Counter(video=1, frame=len(lines), silent=int(not video.add_sound(partial, path)))
        writer.replace(partial, outputs.with_ending(target, clips.OVERLAY_ENDING))
    writer.write(outputs.with_ending(target, clips.JSON_ENDING), b"".join(map(outputs.json_line, lines)))
    for number, data in files.items():
        writer.write(outputs.with_ending(target, endings[number]), data)
    if clip.duration - times[-1] > max(1.0, clip.duration / 10):
        log(f"{path.name}: only {times[-1]:.1f} s of {clip.duration:.1f} s could be read; the file may be truncated")
    return counts


def _frames(clip: video.Clip, name: str, times: list[float], log: Callable[[str], None]) -> Iterator[np.ndarray | None]:
    """The frames of a clip; their times are appended to `times`."""
    for time, frame in clip.timed_frames():
        times.append(time)
        if frame is None:
            log(f"{name}: frame {len(times) - 1} at {time:.3f} s is damaged; its line has no faces")
        yield frame


def _tracks(tracked: Iterator[video.Tracked]) -> dict[int, _Track]:
    """The faces of all frames by the number of their track, without images, layers and meshes."""
    tracks: dict[int, _Track] = {}
    for index, (_, faces) in enumerate(tracked):
        for face in faces:
            track = tracks.setdefault(face.track, _Track())
            track.frames.append(index)
            track.faces.append(dataclasses.replace(face, layer=None, files={}, photo=None, mesh=NO_MESH))
    return tracks


def _endings(tracks: dict[int, _Track]) -> dict[int, str]:
    """Endings of the mesh files of the tracks that have one."""
    numbers = [number for number, track in tracks.items() if len(track.frames) >= LEAST_FRAMES]
    return {number: f"_{place}.glb" if place > 1 else ".glb" for place, number in enumerate(numbers, start=1)}


def _faces(
    tracks: dict[int, _Track], heads: dict[int, ClipReconstruction], index: int, frame: np.ndarray
) -> Iterator[FaceReconstruction]:
    """The faces of a frame, reconstructed with the heads of the clip."""
    for number, track in tracks.items():
        if index in track.frames:
            yield heads[number].frame(track.frames.index(index), frame)


def _line(name: str, index: int, time: float, clip: video.Clip, faces: Sequence[FaceReconstruction]) -> dict:
    """The JSON line of a frame."""
    return {
        "image": name,
        "frame": index,
        "time": round(time, DECIMALS),
        "width": clip.width,
        "height": clip.height,
        "faces": [face.to_json() for face in faces],
    }
