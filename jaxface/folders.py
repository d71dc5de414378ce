"""Inference on files: photos and videos of a folder to JSON, overlays and meshes; .npz arrays to .npz arrays.

The only module that writes results of inference. A file that fails does not end the run.
"""

import dataclasses
import functools
import io
import os
import pathlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxface import (
    array_files,
    clips,
    detection,
    head_clips,
    json_files,
    outputs,
    overlay,
    photo,
    pipeline,
    video_damage,
)
from jaxface.data import landmark_files
from jaxface.errors import UserError, shortened
from jaxface.results import FaceLandmarks

VIDEO_SUFFIXES = frozenset(".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp .mts .m2ts .ts .flv .ogv".split())
# Of photos and videos.
OVERLAY_ENDINGS = ("_overlay.png", clips.OVERLAY_ENDING)
JSON_ENDINGS = (".json", clips.JSON_ENDING)
# Of all faces of a photo, with regions and with a painted map.
MASK_ENDING, PAINTED_ENDING = "_mask.png", "_painted.png"
# Marks the .npz files that `infer_arrays` writes.
ARRAYS_COMMENT = outputs.MARKS[0]
EXAMPLE_BOXES = '{"file name": [x0, y0, x1, y1]}'
# Photos that are processed together, and that are decoded ahead or written beside.
PHOTO_BATCH, FILES_AHEAD = 8, 4
# Maximum number of names that a summary lists.
MAX_LISTED = 5

Path = pathlib.Path
Predict = Callable[..., Any]
OnFailure = Callable[[str], None]


@dataclasses.dataclass
class Summary:
    """The outcome of a run.

    Attributes:
        counts: numbers of photos, faces, videos and frames.
        failed: reason by file name.
        ignored: names of files that are neither photos nor videos.
    """

    counts: Counter = dataclasses.field(default_factory=Counter)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        counts = Counter(self.counts)
        if not counts["photo"] and counts["video"]:
            del counts["photo"], counts["face"]
        parts = [f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in counts.items()]
        if self.failed:
            parts.append(_listed("failed", [f"{name} ({reason})" for name, reason in self.failed.items()]))
        if self.ignored:
            parts.append(_listed("ignored", self.ignored))
        return ", ".join(parts)


def _listed(label: str, names: list[str]) -> str:
    more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return f"{len(names)} {label}: {', '.join(names[:MAX_LISTED] + more)}"


def read_boxes(path: str | os.PathLike, folder: Path) -> dict[str, np.ndarray]:
    """Boxes (4,) float32 by file name from a boxes.json: {"file name": [x0, y0, x1, y1]}; see `detection`.

    Entries for files that are not in `folder` are ignored, so that several folders can share one file. Raises UserError
    if the file is missing or malformed, or if none of its entries is a file in `folder`.
    """
    entries = json_files.read(path, f"check --boxes, write {EXAMPLE_BOXES}")
    boxes = {}
    for name, value in entries.items():
        try:
            boxes[name] = detection.as_boxes(value).reshape(4)
        except ValueError as error:
            message = f"{path}: the box of {name!r} is {value}; give four numbers x0, y0, x1, y1 with x0 < x1, y0 < y1"
            raise UserError(message) from error
    files = {name: folder / name for name in boxes if os.path.isfile(folder / name)}
    in_folder = {path.name: boxes[name] for name, path in files.items() if path.parent.resolve() == folder.resolve()}
    if boxes and not in_folder:
        example = shortened(next(iter(boxes)))
        raise UserError(f"{path}: none of its names is a file in {folder}, for example {example!r}; use file names")
    return in_folder


def _given_face(path: Path, boxes: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The box (4,) of a photo in boxes.json, or the five points (5,2) in detections/<stem>.txt next to it, or None."""
    return boxes[path.name] if path.name in boxes else landmark_files.read_five(path)


def infer_files(
    predictor: Predict,
    source: str | os.PathLike,
    output: str | os.PathLike,
    boxes_path: str | os.PathLike | None,
    smooth: bool,
    options: Mapping[str, Any],
    on_failure: OnFailure,
    reconstruct_clip: head_clips.Reconstruct | None = None,
) -> Summary:
    """Writes <stem>.json and <stem>_overlay.png for every photo, .jsonl and .mp4 for every video, into `output`.

    Inputs with the same stem keep their full names, as do those whose results would overwrite an input or a file that
    is not a result of jaxface. The JSON contains `FaceLandmarks.to_json` of each face and lists the other files of the
    photo. The `files` of a photo's first face become <stem><ending>, those of the second face <stem>_2<ending>.

    Args:
        predictor: `(photo, boxes=..., **options) -> faces`; for lists of photos and boxes it returns a list.
        source: a file, or a folder whose files are taken in order of name, without subfolders.
        output: the folder of the results.
        boxes_path: boxes.json or None; see `read_boxes`. A photo that it does not list is located by the five points in
            detections/<stem>.txt next to it, if there is such a file.
        smooth: smooth the points of videos over time.
        options: keyword arguments of `predictor`.
        on_failure: called with one line for each file that fails, and for damaged frames and lost sound of videos.
        reconstruct_clip: reconstructs the heads of a whole video (`head_clips`); None: each frame stands for itself.

    Raises:
        UserError: `source` has no photo or video, `output` cannot be created, or the predictor rejects the options.
    """
    source, output = Path(source), Path(output)
    files, ignored = _inputs(source)
    boxes = {} if boxes_path is None else read_boxes(boxes_path, source if source.is_dir() else source.parent)
    predict = functools.partial(predictor, **options)
    predict(np.zeros((1, 1, 3), np.uint8))  # rejects wrong options before anything is written
    writer = outputs.Writer(output, _with_boxes(files, boxes_path))
    writer.make_folder()
    summary = Summary(Counter(photo=0, face=0), {}, ignored)
    targets = output_names(files, writer)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    photos = [path for path in files if path not in videos]
    infer_video: Callable[..., Counter] = clips.infer_video
    if reconstruct_clip is not None:
        infer_video = functools.partial(head_clips.infer_video, reconstruct_clip=reconstruct_clip)
    _infer_photos(predict, photos, targets, boxes, writer, summary, on_failure)
    for path in videos:
        try:
            writer.check(_outputs(targets[path], path))
            with video_damage.reported(path, on_failure):
                counts = infer_video(
                    predict,
                    path=path,
                    target=targets[path],
                    box=boxes.get(path.name),
                    smooth=smooth,
                    writer=writer,
                    log=on_failure,
                )
            summary.counts.update(counts)
        except (UserError, OSError) as error:
            _record_failure(summary, path, error, on_failure)
    if silent := summary.counts.pop("silent", 0):
        on_failure(f"{silent} overlay{'' if silent == 1 else 's'} of videos without sound; install ffmpeg to keep it")
    return summary


def _infer_photos(
    predict: Predict,
    photos: Sequence[Path],
    targets: Mapping[Path, Path],
    boxes: Mapping[str, np.ndarray],
    writer: outputs.Writer,
    summary: Summary,
    on_failure: OnFailure,
) -> None:
    """Predicts photos in batches and writes their results; updates `summary`.

    The next photos are decoded and the last ones written at the same time.
    """

    def load(path: Path) -> photo.Photo:
        writer.check(_outputs(targets[path], path))
        loaded = photo.load(path)
        if path.name in boxes:
            detection.check_boxes(boxes[path.name], loaded.width, loaded.height)
        _given_face(path, boxes)  # a malformed detections file is this photo's failure
        return loaded

    def write(item: tuple[Path, photo.Photo, Sequence[FaceLandmarks]]) -> Counter:
        path, loaded, faces = item
        return write_result(loaded, faces, path, targets[path], writer)

    def predicted() -> Iterator[tuple[Path, photo.Photo, Sequence[FaceLandmarks]]]:
        for batch in pipeline.batches(pipeline.ahead(load, photos, FILES_AHEAD), PHOTO_BATCH):
            readable = [(path, future.result()) for path, future in batch if not future.exception()]
            for path, future in batch:
                if error := future.exception():
                    _record_failure(summary, path, error, on_failure)
            listed = [_given_face(path, boxes) for path, _ in readable]
            results = predict([one for _, one in readable], boxes=listed) if readable else []
            for (path, loaded), faces in zip(readable, results, strict=True):
                yield path, loaded, faces

    for (path, *_), future in pipeline.ahead(write, predicted(), FILES_AHEAD):
        if error := future.exception():
            _record_failure(summary, path, error, on_failure)
        else:
            summary.counts.update(future.result())


def infer_multiview(
    person: Callable[..., Sequence[Sequence[FaceLandmarks]]],
    source: str | os.PathLike,
    output: str | os.PathLike,
    boxes_path: str | os.PathLike | None,
    options: Mapping[str, Any],
    on_failure: OnFailure,
) -> Summary:
    """As `infer_files`, for a folder whose photos all show one person.

    A photo that cannot be read is skipped and reported; videos are ignored.

    Args:
        person: `(photos, boxes=..., **options) -> faces of each photo`.
        source: the folder.
        output: the folder of the results.
        boxes_path: boxes.json or None; see `read_boxes`.
        options: keyword arguments of `person`.
        on_failure: called with one line for each file that fails.

    Raises:
        UserError: as in `infer_files`; also if `source` is not a folder or none of its photos can be read.
    """
    source, output = Path(source), Path(output)
    if not source.is_dir():
        raise UserError(f"{source}: not a folder; --multiview takes a folder with photos of one person")
    files, ignored = _inputs(source)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    photos = [path for path in files if path not in videos]
    boxes = {} if boxes_path is None else read_boxes(boxes_path, source)
    summary = Summary(Counter(photo=0, face=0), {}, ignored + [path.name for path in videos])
    loaded = _load_photos(photos, boxes, summary, on_failure)
    if not loaded:
        raise UserError(f"{source}: none of its photos can be read; see the messages above")
    results = person(list(loaded.values()), boxes=[_given_face(path, boxes) for path in loaded], **options)
    writer = outputs.Writer(output, _with_boxes(photos, boxes_path))
    writer.make_folder()
    targets = output_names(list(loaded), writer)
    for (path, decoded), faces in zip(loaded.items(), results, strict=True):
        try:
            summary.counts.update(write_result(decoded, faces, path, targets[path], writer))
        except (UserError, OSError) as error:
            _record_failure(summary, path, error, on_failure)
    return summary


def _load_photos(
    paths: Sequence[Path], boxes: Mapping[str, np.ndarray], summary: Summary, on_failure: OnFailure
) -> dict[Path, photo.Photo]:
    """The photos that can be read and whose boxes lie in them; the others are recorded as failures."""
    photos = {}
    for path in paths:
        try:
            loaded = photo.load(path)
            if path.name in boxes:
                detection.check_boxes(boxes[path.name], loaded.width, loaded.height)
            _given_face(path, boxes)  # a malformed detections file is this photo's failure
            photos[path] = loaded
        except UserError as error:
            _record_failure(summary, path, error, on_failure)
    return photos


def _record_failure(summary: Summary, path: Path, error: BaseException, on_failure: OnFailure) -> None:
    """Reports a file that failed. Raises `error` if it is not the file's fault."""
    if not isinstance(error, UserError | OSError):
        raise error
    summary.failed[path.name] = str(error).removeprefix(f"{path.name}: ")
    on_failure(f"{path.name}: {summary.failed[path.name]}")


def _inputs(source: Path) -> tuple[list[Path], list[str]]:
    """The photos and videos, and the names of ignored files; outputs of an earlier run in `source` are in neither."""
    if not source.is_dir():
        if not source.is_file():
            raise UserError(f"{source}: there is no such file or folder; check --input")
        return [source], []
    written = outputs.previous_outputs(source)
    visible = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    entries = [path for path in visible if outputs.real(path) not in written]
    readable = photo.IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = [path for path in entries if path.is_file() and path.suffix.lower() in readable]
    if not files:
        other = f" but {entries[0].name!a}, which is neither" if entries else ""
        raise UserError(f"{source}: the folder contains no photo and no video{other}; check --input")
    return files, [path.name for path in entries if path not in files]


def _with_boxes(inputs: Sequence[Path], boxes_path: str | os.PathLike | None) -> list[Path]:
    """All files that a run reads."""
    return [*inputs, *([] if boxes_path is None else [Path(boxes_path)])]


def _outputs(target: Path, source: Path) -> list[Path]:
    """JSON and overlay of a photo or video for an output path without ending; see `output_names`."""
    kind = int(source.suffix.lower() in VIDEO_SUFFIXES)
    return [outputs.with_ending(target, endings[kind]) for endings in (JSON_ENDINGS, OVERLAY_ENDINGS)]


def output_names(files: list[Path], writer: outputs.Writer) -> dict[Path, Path]:
    """Output path of each file without ending: its stem, or its full name.

    The full name is taken where the stems of several files are equal or differ in upper and lower case only, or where
    a result would overwrite an input or a file that is not a result of jaxface.
    """
    names = {path: path.stem for path in files}
    while True:
        uses = Counter(name.casefold() for name in names.values())
        colliding = [
            path
            for path, name in names.items()
            if uses[name.casefold()] > 1 or not all(map(writer.may_write, _outputs(writer.folder / name, path)))
        ]
        colliding = [path for path in colliding if names[path] != path.name]
        if not colliding:
            return {path: writer.folder / name for path, name in names.items()}
        names.update((path, path.name) for path in colliding)


def write_result(
    loaded: photo.Photo, faces: Sequence[FaceLandmarks], path: Path, target: Path, writer: outputs.Writer
) -> Counter:
    """Writes the overlay, the files of the faces and the JSON of one photo.

    Args:
        loaded: the photo.
        faces: in pixels of the full photo.
        path: the input file.
        target: output path without ending; see `output_names`.
        writer: writes the files.

    Returns:
        The counts for the summary.

    Raises:
        UserError: a file would overwrite an input or a file that is not a result of jaxface; nothing is written.
        OSError: a file cannot be written.
    """
    face_files = {}
    for number, face in enumerate(faces, start=1):
        for ending in face.files:
            face_files[outputs.with_ending(target, f"_{number}{ending}" if number > 1 else ending)] = (face, ending)
    json_path, overlay_path = _outputs(target, path)
    shared = {outputs.with_ending(target, ending): encode for ending, encode in _shared_files(loaded, faces).items()}
    # The second face of a.jpg and the first one of a_2.jpg have the same names.
    writer.claim([json_path, overlay_path, *shared, *face_files])
    entry = {
        "image": path.name,
        "width": loaded.width,
        "height": loaded.height,
        "faces": serialised(faces),
        "files": [file.name for file in (overlay_path, *shared, *face_files)],
    }
    # First, so that the other files of an interrupted run are known as its results.
    writer.write(json_path, outputs.json_line(entry))
    writer.write(overlay_path, overlay.encode_png(overlay.draw_overlay(loaded.pixels, faces, loaded.step)))
    for file, encode in shared.items():
        writer.write(file, encode())
    for file, (face, ending) in face_files.items():
        writer.write(file, face.files[ending])
    return Counter(photo=1, face=len(faces))


def _shared_files(loaded: photo.Photo, faces: Sequence[FaceLandmarks]) -> dict[str, Callable[[], bytes]]:
    """Encoders by name ending of the files that show all faces of a photo."""
    encoders: dict[str, Callable[[], bytes]] = {}
    masks = [face.mask for face in faces if face.mask is not None]
    if masks:
        encoders[MASK_ENDING] = lambda: overlay.encode_png(functools.reduce(_first_label, masks))
    if any(face.paint is not None for face in faces):
        encoders[PAINTED_ENDING] = lambda: overlay.encode_png(overlay.draw_paint(loaded.pixels, faces))
    return encoders


def _first_label(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Labels (h,w) of two label images; where both have one, that of the first."""
    return np.where(labels > 0, labels, others)


def serialised(faces: Sequence[FaceLandmarks]) -> list[dict[str, Any]]:
    """The entry "faces" of the JSON output."""
    return [face.to_json() for face in faces]


def infer_arrays(
    raw: Callable[..., dict[str, np.ndarray]], source: str | os.PathLike, target: str | os.PathLike
) -> None:
    """Applies `raw` to the arrays of the .npz file `source` and writes its outputs to the .npz file `target`.

    Raises UserError if the file is not an .npz file, its arrays do not fit the network, or `target` cannot be written
    or is a file that is not such an output.
    """
    outputs.check_file(target, _is_array_output, [source])
    arrays = array_files.read_npz(source)
    if not arrays:
        raise UserError(f"{source}: it has no arrays of numbers; write it with numpy.savez")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{source}: {name} has dtype {array.dtype}; it must be float32, images in [0,1]")
    try:
        arrays = raw({name: array.astype(np.float32) for name, array in arrays.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = ARRAYS_COMMENT
    outputs.write_file(target, buffer.getvalue(), [source])


def _is_array_output(path: Path) -> bool:
    """Whether `infer_arrays` wrote the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == ARRAYS_COMMENT
    except (OSError, zipfile.BadZipFile):
        return False
