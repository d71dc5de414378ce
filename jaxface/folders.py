"""Files in, files out: pictures and clips of a folder to JSON and overlays. One bad file costs that file only."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import flax.errors
import numpy as np

from jaxface import overlay, photo, video
from jaxface.errors import UserError

VIDEOS = frozenset(".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg".split())
OVERLAYS = ("_overlay.png", "_overlay.mp4")
RECORDS = (".json", ".jsonl")
# What an earlier run left beside the pictures it read: <stem>, the number of a further face, what it shows.
RESULT = re.compile(r"(?P<stem>.+?)(?P<face>_\d+)?_(overlay|turntable|normals|depth)\.(png|mp4)")
NOT_TOLD = ("files", "layer")
DECIMALS = 3
NAMED = 5

Path = pathlib.Path
Predict = Callable[..., list[dict[str, Any]]]


@dataclasses.dataclass
class Summary:
    """What was done: how many of what, and by file name why it failed; `ignored`: what is neither picture nor video."""

    counts: Counter = dataclasses.field(default_factory=Counter)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in self.counts.items()]
        if self.failed:
            parts.append(_some("failed", [f"{name} ({reason})" for name, reason in self.failed.items()]))
        if self.ignored:
            parts.append(_some("ignored", self.ignored))
        return ", ".join(parts)


def _some(what: str, names: list[str]) -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return f"{len(names)} {what}: {', '.join(names[:NAMED] + more)}"


def read_boxes(path: str | os.PathLike, folder: Path) -> dict[str, np.ndarray]:
    """File name -> box (4,) float32 of a boxes.json: {"file name": [x0, y0, x1, y1]}; see `photo.detect_faces`.

    One file may serve several folders: names of no file in `folder` are left out. UserError: no such file, not JSON,
    not such an object, a malformed box, or not one name of a file in `folder`.
    """
    try:
        listed = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(listed, dict):
        raise UserError(f'{path} must be an object {{"file name": [x0, y0, x1, y1]}}')
    boxes = {}
    for name, value in listed.items():
        try:
            boxes[name] = photo.as_boxes(value).reshape(4)
        except ValueError as error:
            raise UserError(f"{path}, {name!r}: a box is four numbers x0 < x1 and y0 < y1, not {value}") from error
    here = {name: box for name, box in boxes.items() if (folder / name).is_file()}
    if boxes and not here:
        raise UserError(f"{path} names {next(iter(boxes))!r}, and no file of {folder} either")
    return here


def infer_files(
    predictor: Predict,
    source: str | os.PathLike,
    output: str | os.PathLike,
    boxes_path: str | os.PathLike | None,
    smooth: bool,
    options: dict[str, Any],
    on_failure: Callable[[str], None],
) -> Summary:
    """Writes <stem>.json and <stem>_overlay.png for every picture, .jsonl and .mp4 for every clip, into `output`.

    source: a file or a folder, whose files are taken in order of name, subfolders not. Two inputs of one stem keep
    their full names; an input is never overwritten. Clips are followed by `video.track`, smoothed where `smooth` says
    so. A face has box, extent (hairline to chin and side to side by its own landmarks), layout, points, sigma, what
    else the system adds, and in clips track, its number. Its `files` {ending: bytes} become <stem><ending>, those of a
    second face <stem>_2<ending>, of pictures only. `options` go to `predictor`; an option that it refuses ends the run
    before the first file, as a UserError. Any other failure costs its file and is told to `on_failure`.
    """
    source, output = Path(source), Path(output)
    files, ignored = _inputs(source, output)
    boxes = {} if boxes_path is None else read_boxes(boxes_path, source if source.is_dir() else source.parent)
    predict = functools.partial(predictor, **options)
    predict(np.zeros((1, 1, 3), np.uint8))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be made a folder: {error.strerror}") from error
    protected = {path.resolve() for path in files} | ({Path(boxes_path).resolve()} if boxes_path else set())
    summary = Summary(Counter(picture=0, face=0), {}, ignored)
    for path, target in output_names(files, output, protected).items():
        try:
            if protected & _outputs(target):
                raise UserError("its result would overwrite an input; choose another --output")
            if path.suffix.lower() in VIDEOS:
                done = _clip(predict, path, target, boxes.get(path.name), smooth)
            else:
                done = _picture(predict, path, target, boxes.get(path.name), protected)
            summary.counts.update(done)
        except (UserError, OSError) as error:
            _failed(summary, path, error, on_failure)
    return summary


def _inputs(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The files to work on, and the names of the others; results of an earlier run in the same folder are left out."""
    if not source.is_dir():
        if not source.is_file():
            raise UserError(f"{source}: there is no such file or folder")
        return [source], []
    there = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    if source.resolve() == output.resolve():
        there = [path for path in there if not _is_result(path)]
    files = [path for path in there if path.is_file() and path.suffix.lower() in photo.PICTURES | VIDEOS]
    if not files:
        raise UserError(f"there is no picture and no video in {source}")
    return files, [path.name for path in there if path not in files]


def _is_result(path: Path) -> bool:
    """Whether a run before this one wrote it: a record lies beside it."""
    if not (match := RESULT.fullmatch(path.name)):
        return False
    stems = (match["stem"], match["stem"] + (match["face"] or ""))
    return any(path.with_name(stem + record).is_file() for stem in stems for record in RECORDS)


def _outputs(target: Path) -> set[Path]:
    return {_ending(target, ending).resolve() for ending in (*RECORDS, *OVERLAYS)}


def _ending(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def output_names(files: list[Path], output: Path, protected: set[Path]) -> dict[Path, Path]:
    """Where the results of each file go, without the endings: its stem, or its full name where the stem is not free."""
    names = {path: path.stem for path in files}
    while True:
        times = Counter(names.values())
        taken = [path for path, name in names.items() if times[name] > 1 or protected & _outputs(output / name)]
        taken = [path for path in taken if names[path] != path.name]
        if not taken:
            return {path: output / name for path, name in names.items()}
        names.update((path, path.name) for path in taken)


def infer_set(
    person: Callable[..., list[list[dict[str, Any]]]],
    source: str | os.PathLike,
    output: str | os.PathLike,
    boxes_path: str | os.PathLike | None,
    options: dict[str, Any],
    on_failure: Callable[[str], None],
) -> Summary:
    """As `infer_files`, of a folder whose pictures all show one person: `person(photos, boxes)` sees them together.

    A picture that cannot be read is left out, told to `on_failure`; clips are ignored. UserError also where `source` is
    not a folder or not one of its pictures can be read.
    """
    source, output = Path(source), Path(output)
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; --set takes one, with pictures of one person")
    files, ignored = _inputs(source, output)
    clips = [path for path in files if path.suffix.lower() in VIDEOS]
    files = [path for path in files if path not in clips]
    boxes = {} if boxes_path is None else read_boxes(boxes_path, source)
    summary = Summary(Counter(picture=0, face=0), {}, ignored + [path.name for path in clips])
    loaded = {}
    for path in files:
        try:
            loaded[path] = photo.load(path)
            if path.name in boxes:
                photo.check_boxes(boxes[path.name], loaded[path].width, loaded[path].height)
        except UserError as error:
            loaded.pop(path, None)
            _failed(summary, path, error, on_failure)
    if not loaded:
        raise UserError(f"not one picture in {source} can be read")
    found = person(list(loaded.values()), boxes=[boxes.get(path.name) for path in loaded], **options)
    output.mkdir(parents=True, exist_ok=True)
    protected = {path.resolve() for path in files} | ({Path(boxes_path).resolve()} if boxes_path else set())
    targets = output_names(list(loaded), output, protected)
    for (path, one), faces in zip(loaded.items(), found, strict=True):
        try:
            summary.counts.update(_tell(one, faces, path, targets[path], protected))
        except (UserError, OSError) as error:
            _failed(summary, path, error, on_failure)
    return summary


def _failed(summary: Summary, path: Path, error: Exception, on_failure: Callable[[str], None]) -> None:
    summary.failed[path.name] = str(error).removeprefix(f"{path.name}: ")
    on_failure(f"{path.name}: {summary.failed[path.name]}")


def _picture(predict: Predict, path: Path, target: Path, box: np.ndarray | None, protected: set[Path]) -> Counter:
    loaded = photo.load(path)
    return _tell(loaded, predict(loaded, boxes=box), path, target, protected)


def _tell(loaded: photo.Photo, faces: list[dict[str, Any]], path: Path, target: Path, protected: set[Path]) -> Counter:
    """Writes what was found in a picture."""
    _, png = cv2.imencode(".png", overlay.draw_overlay(loaded.pixels, faces, loaded.step)[..., ::-1])
    _write(_ending(target, OVERLAYS[0]), png.tobytes())
    for number, face in enumerate(faces, start=1):
        for ending, data in face.get("files", {}).items():
            own = _ending(target, f"_{number}{ending}" if number > 1 else ending)
            if own.resolve() in protected:
                raise UserError(f"{own.name} would overwrite an input; choose another --output")
            _write(own, data)
    record = {"image": path.name, "width": loaded.width, "height": loaded.height, "faces": _told(faces)}
    _write(_ending(target, RECORDS[0]), _line(record))
    return Counter(picture=1, face=len(faces))


def _clip(predict: Predict, path: Path, target: Path, box: np.ndarray | None, smooth: bool) -> Counter:
    clip = video.open_clip(path)
    if box is not None:
        photo.check_boxes(box, clip.width, clip.height)
    tracked = video.track(clip.frames(), predict, box)
    if smooth:
        tracked = video.smooth(tracked, clip.rate)
    partial, lines = _ending(target, ".partial.mp4"), []
    try:
        with video.ClipWriter(partial, clip.rate, clip.width, clip.height) as writer:
            for index, (frame, faces) in enumerate(tracked):
                writer.write(overlay.draw_overlay(frame, faces))
                when = {"frame": index, "time": round(index / clip.rate, DECIMALS)}
                size = {"width": clip.width, "height": clip.height}
                lines.append(_line({"image": path.name, **when, **size, "faces": _told(faces)}))
        partial.replace(_ending(target, OVERLAYS[1]))
    finally:
        partial.unlink(missing_ok=True)
    _write(_ending(target, RECORDS[1]), b"".join(lines))
    return Counter(video=1, frame=len(lines))


def _told(faces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of the faces goes into the record: all but what is drawn or has files of its own."""
    return plain([{name: value for name, value in face.items() if name not in NOT_TOLD} for face in faces])


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """Arrays as rounded lists, throughout dicts and lists: what JSON takes."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.floating):
        return np.asarray(value, np.float64).round(DECIMALS).tolist()
    return value


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def infer_arrays(
    raw: Callable[..., dict[str, np.ndarray]], source: str | os.PathLike, target: str | os.PathLike
) -> None:
    """The arrays of one .npz through `raw` into another. UserError: not such a file, arrays that do not fit."""
    try:
        with np.load(source, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or 'not an .npz file'}") from error
    except Exception as error:  # a damaged or foreign file fails in many ways
        raise UserError(f"{source} is not an .npz file of plain arrays ({error})") from error
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{source}: {name} has dtype {array.dtype}; arrays are float32, images in [0,1]")
    try:
        outputs = raw({name: array.astype(np.float32) for name, array in arrays.items()})
    except flax.errors.FlaxError as error:
        raise UserError(f"{source}: the arrays do not fit the network ({str(error).splitlines()[0]})") from error
    try:
        with open(f"{target}.partial", "wb") as file:
            np.savez(file, **outputs)
        os.replace(f"{target}.partial", target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
