"""The images below a folder, found by the names that label files give them.

A name leads to an image by its path, never by its base name alone: of two images `anna/00.jpg` and `bob/00.jpg` the
name `bob/00.jpg` means the second, and `00.jpg` neither.
"""

import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator

from jaxface import photo
from jaxface.errors import UserError


def walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files below a folder in order of name; links to folders are followed once.

    Hidden files and folders and what archives from macOS leave (`._NAME`, `__MACOSX`) are left out.
    """
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _is_visible(name))
        yield from (pathlib.Path(folder) / name for name in sorted(files) if _is_visible(name))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def normalise(name: str) -> str:
    """A name in a label file as a relative path: `/` between folders, composed characters (NFC), no `.` parts."""
    text = unicodedata.normalize("NFC", name.strip().strip("\"'").replace("\\", "/"))
    return os.path.normpath(re.sub(r"^[A-Za-z]:/", "/", text)) if text else ""


class ImageIndex:
    """The images below a folder.

    Attributes:
        root: the folder.
        paths: the images by their normalised paths relative to it.
        alike: the names of images that have the same normalised path.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        images = [path for path in walk(root) if path.suffix.lower() in photo.IMAGE_SUFFIXES]
        self.paths: dict[str, pathlib.Path] = {}
        self.alike: dict[str, list[str]] = {}
        for path in images:
            name = normalise(path.relative_to(root).as_posix())
            first = self.paths.setdefault(name, path)
            if first is not path:
                self.alike.setdefault(name, [first.name]).append(path.name)
        self._by_ending: dict[str, list[str]] = {}
        for path in self.paths:
            parts = path.casefold().split("/")
            for start in range(len(parts)):
                self._by_ending.setdefault("/".join(parts[start:]), []).append(path)

    def find(self, name: str, source: pathlib.Path) -> pathlib.Path:
        """The image that a label file names.

        Tried in this order: relative to the label file, relative to the folder, an absolute path, and then the image
        whose path ends with the name or with whose path the name ends, in upper or lower case.

        Args:
            name: the name in the label file.
            source: the label file.

        Raises:
            UserError: there is no such image, or several.
        """
        clean = normalise(name)
        for folder in (source.parent, self.root):
            relative = normalise(os.path.relpath(folder / clean, self.root))
            if relative in self.paths:
                return self._image(relative)
        # Unlike pathlib, os.path takes a name that is too long or has a null character for that of no file.
        if clean and os.path.isfile(clean):
            return pathlib.Path(clean)
        endings = self._by_ending.get(clean.casefold().strip("/"), [])
        if not endings:
            parts = clean.casefold().split("/")
            tails = ["/".join(parts[start:]) for start in range(1, len(parts))]
            lowered = {path.casefold(): path for path in self.paths}
            endings = [lowered[tail] for tail in tails if tail in lowered][:1]
        return self._only(name, endings)

    def beside(self, source: pathlib.Path) -> pathlib.Path:
        """The image of a label file of its own, NAME.pts: the image NAME in its folder, or in a parallel folder.

        Folders are parallel if their paths differ in one part (`labels/anna` and `images/anna`).

        Raises:
            UserError: there is no such image, or several.
        """
        label = normalise(source.relative_to(self.root).with_suffix("").as_posix()).casefold()
        *folders, stem = label.split("/")
        same, parallel = [], []
        for path in self.paths:
            *image_folders, image = path.casefold().split("/")
            if os.path.splitext(image)[0] != stem:
                continue
            if image_folders == folders:
                same.append(path)
            elif _are_parallel(folders, image_folders):
                parallel.append(path)
        return self._only(source.stem, same or parallel)

    def _only(self, name: str, paths: list[str]) -> pathlib.Path:
        if len(paths) > 1:
            raise UserError(f"{name} may be {' or '.join(sorted(paths)[:2])}; write its path from the folder")
        if not paths:
            raise UserError("missing")
        return self._image(paths[0])

    def _image(self, path: str) -> pathlib.Path:
        """The image of a normalised path. Raises UserError if it may be several."""
        if path in self.alike:
            first, second, *_ = self.alike[path]
            raise UserError(f"may be {first!a} or {second!a}, which differ in blanks, quotes or accents; rename one")
        return self.paths[path]


def _are_parallel(a: list[str], b: list[str]) -> bool:
    """Whether two lists of folders are equal but for one part, which one of them may lack."""
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b, strict=True)) == 1
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return len(longer) == len(shorter) + 1 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
