"""Label files of the user's own images: lists in text or CSV, `.pts`, dlib's XML, JSON of labelme and of COCO.

All readers give labels in pixels with pixel centres at integers; missing points are NaN. An entry that cannot be used
becomes a problem with its reason, and the others are read.
"""

import collections
import csv
import dataclasses
import json
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxface import photo
from jaxface.data import annotations
from jaxface.errors import UserError, shortened

# Formats. A file of the first three lists images; one of the others belongs to one image.
TEXT, DLIB, COCO, PTS, LABELME = "text files", "dlib XML files", "COCO files", ".pts files", "labelme files"
LISTS = (TEXT, DLIB, COCO)
LIST_SUFFIXES = (".txt", ".csv", ".tsv")
NAME_COLUMNS = {
    "image",
    "file",
    "filename",
    "image_name",
    "imagename",
    "image_path",
    "img",
    "name",
    "path",
    "file_name",
}
# A name that ends with the ending of an image, and the rest of the line.
NAMED_LINE = re.compile(
    rf"""^\s*(?P<name>["']?.*(?:{"|".join(map(re.escape, sorted(photo.IMAGE_SUFFIXES)))})["']?)(?P<rest>[\s,;].*)?$""",
    re.IGNORECASE,
)
# A column of coordinates: x0, x_0, left_eye_x, 0_y, v12.
COORDINATE_COLUMN = re.compile(r"^(?:(?P<first>[xyzv])[ _.\-]?(?P<number>\d+)|(?P<id>.+?)[ _.\-](?P<last>[xyzv]))$")


@dataclasses.dataclass(frozen=True)
class Label:
    """The landmarks of one face.

    Attributes:
        source: the label file.
        where: file and line or entry, for messages.
        image: the image's name as written in the file; "" for the image of the same name as the file.
        points: (L,2) px, NaN for missing points.
        size: (width, height) of the image as the file gives it, None if it does not.
        named: the points by name, where they have names; `order_named` turns them into `points`.
    """

    source: pathlib.Path
    where: str
    image: str
    points: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    size: tuple[int, int] | None = None
    named: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Labels:
    """The content of a label file: its format, labels, and the reasons of the entries that cannot be used."""

    form: str
    labels: list[Label] = dataclasses.field(default_factory=list)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)


def mark_missing(points: np.ndarray) -> np.ndarray:
    """Points (L,2) as written in a file with those that are marked as missing at NaN."""
    return np.where(annotations.missing(points)[:, None], np.nan, points)


def is_list(path: pathlib.Path) -> bool:
    """Whether a text file lists images; False for other text, such as a README. An empty file counts as a list."""
    if path.suffix.lower() not in LIST_SUFFIXES:
        return False
    try:
        lines = [line for line in annotations.read_text(path).splitlines() if line.strip()]
    except UserError:
        return False
    return not lines or _header(lines[0]) is not None or any(_is_entry(line) for line in lines)


def _is_entry(line: str) -> bool:
    """Whether a line begins with the name of an image, followed by nothing or by numbers."""
    match = NAMED_LINE.match(line)
    if match is None:
        words = line.split()
        return len(words) > 4 and all(map(_is_number, words[1:]))
    rest = re.split(r"[\s,;]+", (match["rest"] or "").strip(" \t\r,;"))
    return rest == [""] or _is_number(rest[0])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_list(path: pathlib.Path) -> Labels:
    """A text file with one face a line: NAME x0 y0 x1 y1 …, or NAME x0 y0 v0 …; or CSV with a header line.

    The words are separated by blanks, tabs, commas or semicolons. Names may contain blanks. Raises UserError if the
    file is empty or not a text.
    """
    lines = [(n, line) for n, line in enumerate(annotations.read_text(path).splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: the file is empty; copy it again")
    header = _header(lines[0][1])
    if header is not None:
        return _read_table(path, header, lines[1:])
    result, rows = Labels(TEXT), []
    for number, line in lines:
        where = f"{path.name}, line {number}"
        name, words = _split_entry(line)
        try:
            values = np.array(words, np.float64)
        except ValueError as error:
            result.problems[where] = f"not NAME and pairs of numbers ({error})"
            continue
        if not len(values):
            result.problems[where] = _without_landmarks(name)
            continue
        rows.append((where, name, values))
    as_triples = _are_triples([values for _, _, values in rows])
    for where, name, values in rows:
        if not as_triples and len(values) % 2:
            result.problems[where] = f"not NAME and pairs of numbers ({len(values)} numbers)"
            continue
        points = annotations.drop_flagged(values.reshape(-1, 3)) if as_triples else values.reshape(-1, 2)
        result.labels.append(Label(path, where, name, mark_missing(points)))
    return result


def _without_landmarks(name: str) -> str:
    """Why a line is not a label: `name` has no landmarks after it, or comes after them as in WFLW's lists."""
    *others, _ = name.split() or [""]
    if len(others) > 1 and all(map(_is_number, others)):
        return "the name of the image comes last; put it first, and after it only the landmarks"
    return f"{shortened(name)} has no landmarks"


def _split_entry(line: str) -> tuple[str, list[str]]:
    """Name and numbers of a line."""
    match = NAMED_LINE.match(line)
    if match is not None:
        name, rest = match["name"], match["rest"] or ""
    else:
        name, *others = re.split(r"[\s,;]+", line.strip(), maxsplit=1)
        rest = others[0] if others else ""
    words = [word for word in re.split(r"[\s,;]+", rest) if word]
    return name, words


def _are_triples(rows: Sequence[np.ndarray]) -> bool:
    """Whether all rows are x y v triples: every third number is 0, 1 or 2, and not all of them 0."""
    if not rows or any(len(row) % 3 for row in rows):
        return False
    flags = np.concatenate([row[2::3] for row in rows])
    return bool(np.isin(flags, (0, 1, 2)).all() and flags.any())


@dataclasses.dataclass(frozen=True)
class _Header:
    """Columns of a table: of the name, and of x, y and flag (-1: none) of each point (L,3)."""

    delimiter: str
    name: int
    points: np.ndarray


def _header(line: str) -> _Header | None:
    """The columns of a header line, None if the line is not one."""
    delimiter = next((mark for mark in "\t;," if mark in line), None)
    if delimiter is None or NAMED_LINE.match(line):
        return None
    names = [name.strip().strip("\"'").lower() for name in next(csv.reader([line], delimiter=delimiter))]
    columns: dict[str, dict[str, int]] = {}
    for index, name in enumerate(names):
        match = COORDINATE_COLUMN.match(name)
        if match is not None:
            columns.setdefault(match["number"] or match["id"], {})[match["first"] or match["last"]] = index
    points = [(axes["x"], axes["y"], axes.get("v", -1)) for axes in columns.values() if {"x", "y"} <= axes.keys()]
    named = [index for index, name in enumerate(names) if name in NAME_COLUMNS]
    if not points:
        return None
    return _Header(delimiter, named[0] if named else 0, np.array(points))


def _read_table(path: pathlib.Path, header: _Header, lines: Sequence[tuple[int, str]]) -> Labels:
    """The rows of a table with a header; an empty cell is a missing point."""
    result = Labels(TEXT)
    for number, line in lines:
        where = f"{path.name}, line {number}"
        cells = next(csv.reader([line], delimiter=header.delimiter))
        if len(cells) <= max(header.points.max(), header.name):
            result.problems[where] = f"{len(cells)} values; the header has more columns"
            continue
        try:
            numbers = [
                float(cell) if cell.strip() else np.nan for cell in np.array(cells)[header.points[:, :2]].ravel()
            ]
            flags = [float(cells[i] or 0) if i >= 0 else 1.0 for i in header.points[:, 2]]
        except ValueError as error:
            result.problems[where] = f"not only numbers ({error})"
            continue
        points = np.where(np.array(flags)[:, None] == 0, np.nan, np.reshape(numbers, (-1, 2)))
        result.labels.append(Label(path, where, cells[header.name], mark_missing(points)))
    return result


def read_pts(path: pathlib.Path) -> Labels:
    """A `.pts` file, which is 1-based: its landmarks belong to the image of the same name."""
    try:
        points = annotations.read_pts(path)
    except UserError as error:
        return Labels(PTS, problems={path.name: str(error).removeprefix(f"{path}: ")})
    return Labels(PTS, [Label(path, path.name, "", mark_missing(points) - 1)])


def read_dlib(path: pathlib.Path) -> Labels | None:
    """dlib's XML: `<image file><box><part name x y/>…`; parts in order of their names. None for another XML file.

    Raises UserError if the file is damaged.
    """
    text = annotations.read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path}: contains a document type, which dlib does not write; remove it")
    try:
        # The text is decoded: the encoding that the file declares no longer applies.
        tree = xml.etree.ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL))
    except (xml.etree.ElementTree.ParseError, RecursionError) as error:
        raise UserError(f"{path}: not a readable XML file ({error}); export it again") from error
    if tree.find(".//image/box") is None:
        return None
    result = Labels(DLIB)
    for image in tree.iter("image"):
        name = image.get("file", "")
        boxes = [box for box in image.findall("box") if box.get("ignore") != "1"]
        for number, box in enumerate(boxes, start=1):
            where = f"{path.name}, {name}" + (f", box {number}" if number > 1 else "")
            try:
                parts = {part.get("name", ""): (float(part.get("x", "")), float(part.get("y", ""))) for part in box}
            except ValueError as error:
                result.problems[where] = f"a part has no numbers x and y ({error})"
                continue
            if parts:
                result.labels.append(Label(path, where, name, named=parts))
            else:
                result.problems[where] = "the box has no parts"
    return result


def read_json(path: pathlib.Path) -> Labels | None:
    """JSON of labelme (`shapes`) or of COCO (`images` and `annotations` with `keypoints`); None for other JSON files.

    Raises UserError if the file is not JSON.
    """
    try:
        content = json.loads(annotations.read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); export it again") from error
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("shapes"), list):
        return _guarded(LABELME, path, lambda: _labelme(path, content))
    if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        return _guarded(COCO, path, lambda: _coco(path, content))
    return None


def _guarded(form: str, path: pathlib.Path, read: Callable[[], Labels]) -> Labels:
    """The result of `read()`; a problem of the whole file if its entries have other types than the format's."""
    try:
        return read()
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return Labels(form, problems={path.name: f"malformed ({type(error).__name__}: {error})"})


def _labelme(path: pathlib.Path, content: Mapping[str, Any]) -> Labels:
    """The points of a labelme file; `group_id` tells the points of several faces apart."""
    groups: dict[Any, list[tuple[str, tuple[float, float]]]] = collections.defaultdict(list)
    for shape in content["shapes"]:
        if shape.get("shape_type", "point") == "point":
            (x, y), *_ = shape["points"]
            groups[shape.get("group_id")].append((str(shape.get("label", "")), (float(x), float(y))))
    if not groups:
        return Labels(LABELME, problems={path.name: "has no shape of the type point"})
    size = (content["imageWidth"], content["imageHeight"]) if content.get("imageWidth") else None
    result = Labels(LABELME)
    for points in groups.values():
        names = [name for name, _ in points]
        unique = len(set(names)) == len(names)
        named = dict(points) if unique else {str(number): point for number, (_, point) in enumerate(points)}
        image = str(content.get("imagePath") or "")
        result.labels.append(Label(path, path.name, image, size=size, named=named))
    return result


def _coco(path: pathlib.Path, content: Mapping[str, Any]) -> Labels:
    """The keypoints x, y, v of a COCO file; v = 0 marks a point as not annotated."""
    images = {image["id"]: image for image in content["images"]}
    result = Labels(COCO)
    for entry in content["annotations"]:
        where = f"{path.name}, annotation {entry.get('id')}"
        image = images.get(entry.get("image_id"))
        keypoints = np.array(entry.get("keypoints", []), np.float64)
        if image is None:
            result.problems[where] = f"its image_id {entry.get('image_id')} is not among the images"
        elif not keypoints.size or keypoints.ndim != 1 or len(keypoints) % 3:
            result.problems[where] = f"{image['file_name']}: keypoints must be a list x, y, v, …"
        else:
            triples = keypoints.reshape(-1, 3)
            points = np.where(triples[:, 2:] == 0, np.nan, triples[:, :2])
            size = (image["width"], image["height"]) if image.get("width") else None
            result.labels.append(Label(path, where, str(image["file_name"]), mark_missing(points), size))
    return result


def order_named(labels: Sequence[Label]) -> list[Label]:
    """Labels with the points that have names in one order: by number if all names are numbers, else by name.

    A name that a label lacks is a missing point.
    """
    names = {name for label in labels for name in label.named}
    order = sorted(names, key=int if all(name.isdecimal() for name in names) else None)
    ordered = []
    for label in labels:
        if label.named:
            points = np.array([label.named.get(name, (np.nan, np.nan)) for name in order], np.float64)
            label = dataclasses.replace(label, points=mark_missing(points), named={})
        ordered.append(label)
    return ordered


def read(path: pathlib.Path) -> Labels | None:
    """The content of a label file of any format; None for a file that is none, such as a README or an image.

    A damaged file is a problem of its own.
    """
    suffix = path.suffix.lower()
    reader = {".pts": read_pts, ".xml": read_dlib, ".json": read_json}.get(suffix)
    if reader is None:
        reader = read_list if is_list(path) else None
    try:
        return None if reader is None else reader(path)
    except UserError as error:
        form = {".xml": DLIB, ".json": LABELME}.get(suffix, TEXT)
        return Labels(form, problems={path.name: str(error).removeprefix(f"{path}: ")})
