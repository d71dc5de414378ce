"""Basel Face Models 2017 and 2019 (.h5), and the conversion of any Basel model to a `MorphableHead`.

Gerig et al., "Morphable Face Models - An Open Framework", FG 2018. The file is in millimetres, with x to the subject's
left, y up, z out of the face. Modes are orthonormal and stored with their variances. The mean of the expression model
is dropped, so that zero weights give the neutral face. The file names only a dozen points: the remaining landmarks are
those of the embedded head, transferred by a smooth warp through the named ones.
"""

import json
import os
import pathlib

import numpy as np
import scipy.interpolate
import scipy.spatial

from jaxface.array_files import FREE_BYTES, MAX_RATIO
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import landmarks
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead

# Landmark names of the file and the corresponding iBUG points.
NAMED = {
    "center.chin.tip": 8,
    "center.nose.tip": 30,
    "right.eye.corner_outer": 36,
    "right.eye.corner_inner": 39,
    "left.eye.corner_inner": 42,
    "left.eye.corner_outer": 45,
    "right.lips.corner": 48,
    "center.lips.upper.outer": 51,
    "left.lips.corner": 54,
    "center.lips.lower.outer": 57,
    "center.lips.upper.inner": 62,
    "center.lips.lower.inner": 66,
}
MIN_NAMED = 6
ENDINGS, HDF5_MAGIC = (".h5", ".hdf5"), b"\x89HDF"
# Plausible extents of a face or head in mm, and the largest colour of a file with colours in 0..1.
MIN_EXTENT_MM, MAX_EXTENT_MM = 50.0, 600.0
MAX_COLOR = 2.0
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, MemoryError)
LIDS = (slice(36, 42), slice(42, 48))
EMPTY_REGIONS = ("scalp", "neck", "ears", "lips", "eyeball_L", "eyeball_R", "iris_L", "iris_R", "mouth", "transparent")


def is_h5(path: str | os.PathLike) -> bool:
    """Whether a file has the name or, unless its name says .mat, the content of an HDF5 file."""
    path = pathlib.Path(path)
    if path.suffix.lower() in ENDINGS:
        return True
    if path.suffix.lower() == ".mat" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC


def load_h5(path: str | os.PathLike) -> MorphableHead:
    """Loads `model2017-1_*.h5` or `model2019_*.h5`. Needs h5py (extra `bfm`).

    Raises UserError if h5py, the file or a part of it is missing, if its parts do not fit together, or if it has values
    that are not finite.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an .h5 of the Basel Face Model 2017 or 2019")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: reading an .h5 model needs h5py; pip install 'jaxface[bfm]'") from error
    reader = _Reader(path)
    try:
        with h5py.File(path) as file:
            template, identity = reader.model(file, "shape")
            _, expression = reader.model(file, "expression")
            color, albedo = reader.model(file, "color")
            triangles = reader.array(file, "shape/representer/cells")
            named = reader.text(file, "metadata/landmarks/json")
    except UserError:
        raise
    except DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: not a Basel Face Model of 2017 or 2019 ({reason}); download it again") from error
    triangles = triangles.T if triangles.shape[0] == 3 else triangles
    for name, array in {"expression": expression, "color": albedo, "color mean": color}.items():
        if array.shape[-2:] != template.shape:
            raise UserError(
                f"{path}: the shape has {len(template)} vertices, the {name} model {array.shape[-2]}; download it again"
            )
    if triangles.shape[1:] != (3,) or not triangles.size or triangles.min() < 0 or triangles.max() >= len(template):
        raise UserError(
            f"{path}: shape/representer/cells is not a triangle list of {len(template)} vertices; download it again"
        )
    extent = float(np.ptp(template, axis=0).max())
    if not MIN_EXTENT_MM <= extent <= MAX_EXTENT_MM:
        raise UserError(f"{path}: the shape extends over {extent:.3g} mm, which is not a face; give the published file")
    if color.max() > MAX_COLOR:  # stored in 0..255
        color, albedo = color / 255, albedo / np.float32(255)
    points = _named_points(named, path)
    layout = landmarks.snap(_warp_landmarks(*points), template, np.ones(len(template), bool))
    triangles = triangles.astype(np.int32)
    return assemble(template, triangles, identity, expression, color, albedo, layout, path.stem)


class _Reader:
    """Reads the parts of a file. Raises UserError for a part that is missing or has values that are not finite."""

    def __init__(self, path: pathlib.Path):
        self._path, self._limit = path, FREE_BYTES + MAX_RATIO * path.stat().st_size

    def model(self, file, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean (V,3) and modes (K,V,3) per standard deviation of a part of the file."""
        mean, basis, variance = (self.array(file, f"{part}/model/{n}") for n in ("mean", "pcaBasis", "pcaVariance"))
        if basis.shape != (mean.size, variance.size) or mean.size % 3:
            raise UserError(
                f"{self._path}: {part}/model has a basis {basis.shape} for {mean.size} numbers; download it again"
            )
        modes = basis * np.sqrt(np.maximum(variance.reshape(-1), 0))
        return mean.reshape(-1, 3), np.float32(modes.T).reshape(modes.shape[1], -1, 3)

    def array(self, file, name: str) -> np.ndarray:
        """A numeric array."""
        stored = self._dataset(file, name)
        values = np.asarray(stored)
        if values.dtype.kind not in "iuf" or values.ndim == 0:
            raise UserError(f"{self._path}: {name} is not an array of numbers; download the model again")
        if not np.isfinite(values).all():
            raise UserError(f"{self._path}: {name} has values that are not finite; download the model again")
        return values

    def text(self, file, name: str) -> bytes | str:
        """A string, stored as a scalar or as the first of a list."""
        return np.asarray(self._dataset(file, name)).reshape(-1)[0]

    def _dataset(self, file, name: str):
        if name not in file or not hasattr(file[name], "shape"):
            raise UserError(
                f"{self._path}: not a Basel Face Model of 2017 or 2019 with expressions ({name} is missing); "
                "give the published .h5 file"
            )
        stored = file[name]
        if stored.size * stored.dtype.itemsize > self._limit:
            raise UserError(f"{self._path}: {name} {stored.shape} is far larger than the file; download it again")
        return stored


def _named_points(text: bytes | str, path: pathlib.Path) -> tuple[list[int], np.ndarray]:
    """(iBUG numbers, positions (N,3)) of the landmarks that the file names."""
    try:
        named = {entry["id"]: entry["coordinates"] for entry in json.loads(text)}
        numbers = [number for name, number in NAMED.items() if name in named]
        positions = np.array([named[name] for name in NAMED if name in named], np.float64)
        finite = np.isfinite(positions.reshape(len(numbers), 3)).all()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: metadata/landmarks/json is not a list of named landmarks; download it again"
        ) from error
    if not finite:
        raise UserError(f"{path}: metadata/landmarks/json has positions that are not finite; download the model again")
    if len(numbers) < MIN_NAMED:
        raise UserError(f"{path}: names {len(numbers)} of the landmarks {', '.join(NAMED)}; {MIN_NAMED} are needed")
    return numbers, positions


def _warp_landmarks(numbers: list[int], positions: np.ndarray) -> np.ndarray:
    """The 68 landmarks (68,3) of the embedded head, warped so that landmarks `numbers` map to `positions` (N,3)."""
    head = makehuman_head()
    points = np.asarray(head.landmark_points(head.template, "68"), np.float64)
    scale, rotation, translation = alignment.similarity(points[numbers], positions)
    points = scale * points @ rotation.T + translation
    displacement = scipy.interpolate.RBFInterpolator(points[numbers], positions - points[numbers], kernel="linear")
    return points + displacement(points)


def assemble(template, triangles, identity, expression, albedo_mean, albedo, layout_68, name: str) -> MorphableHead:
    """Builds a `MorphableHead` from arrays (…,V,3) in mm and sRGB in [0,1].

    The head is translated so that the centroid of its 68 landmarks coincides with that of the embedded head. All
    vertices are in the region `face`. The mirror map pairs vertices that are mutual nearest neighbours under x -> -x;
    other vertices map to themselves.
    """
    reference = makehuman_head()
    points = (template[layout_68[0]] * layout_68[1][..., None]).sum(1)
    offset = reference.landmark_points(reference.template, "68").mean(0) - points.mean(0)
    template, points = template + offset, points + offset
    near = scipy.spatial.cKDTree(template).query(template * [-1, 1, 1])[1]
    everywhere = np.ones(len(template), bool)
    pupils = np.stack([points[lids].mean(0) for lids in LIDS])
    return MorphableHead(
        template=template.astype(np.float32),
        triangles=np.asarray(triangles, np.int32),
        identity=np.asarray(identity, np.float32),
        expression=np.asarray(expression, np.float32),
        albedo_mean=np.asarray(albedo_mean, np.float32),
        albedo=np.asarray(albedo, np.float32),
        mirror=np.where(near[near] == np.arange(len(near)), near, np.arange(len(near))).astype(np.int32),
        landmarks={
            "68": layout_68,
            "98": landmarks.snap(landmarks.wflw_from_ibug(points, pupils), template, everywhere),
        },
        regions={"face": everywhere, **{region: np.zeros(len(template), bool) for region in EMPTY_REGIONS}},
        name=name,
        identity_names=tuple(f"identity{i:03d}" for i in range(len(identity))),
        expression_names=tuple(f"expression{i:03d}" for i in range(len(expression))),
        albedo_names=tuple(f"albedo{i:03d}" for i in range(len(albedo))),
    )
