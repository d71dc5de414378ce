"""Basel Face Model 2009 with FaceWarehouse expressions, cropped to the front face as in Deep3DFaceReconstruction.

Read from `BFM_model_front.mat`, or built from the licensed `01_MorphableModel.mat` (Paysan et al., AVSS 2009),
`Exp_Pca.bin` (Guo et al., PAMI 2019) and the index files of the repository, following Deep3DFaceRecon_pytorch
(util/load_mats.py, transferBFM09). The 2017 and 2019 models are read by `bfm_h5`. No file of the model is shipped.
"""

import dataclasses
import os
import pathlib

import numpy as np

from jaxface import array_files
from jaxface.errors import UserError
from jaxface.heads import bfm_h5, landmarks
from jaxface.heads.morphable import MorphableHead

# File names: the front face, and the files from which it is built.
READY = "BFM_model_front.mat"
SHAPES, EXPRESSIONS = "01_MorphableModel.mat", "Exp_Pca.bin"
DEVIATIONS, EXPRESSION_ROWS, FRONT_ROWS = "std_exp.txt", "BFM_exp_idx.mat", "BFM_front_idx.mat"
TOPOLOGY = "facemodel_info.mat"
# Numbers of modes, and the fields of BFM_model_front.mat with modes and with indices.
IDENTITIES, EXPRESSION_MODES, ALBEDOS = 80, 64, 80
MODES = {"idBase": IDENTITIES, "exBase": EXPRESSION_MODES, "texBase": ALBEDOS}
INDICES = ("tri", "tri_mask2", "keypoints", "frontmask2_idx")
# Micrometres to decimetres, the unit of the front face.
PER_DM = 1e5
MM_PER_DM = 100.0
# What a file with other contents is to be replaced by.
REMEDY = f"give {READY} of Deep3DFaceRecon_pytorch, or the folder of its source files"
# Plausible extents of a face in dm.
MIN_EXTENT_DM, MAX_EXTENT_DM = 0.5, 6.0


@dataclasses.dataclass(frozen=True)
class FrontFace:
    """Arrays of `BFM_model_front.mat` with zero-based indices. Frame: x to the image's right, y up; V vertices.

    Attributes:
        mean: (V,3) dm.
        albedo_mean: (V,3) RGB in 0..255.
        identity: (80,V,3) dm per standard deviation.
        expression: (64,V,3) dm per standard deviation.
        albedo: (80,V,3) per standard deviation.
        triangles: (T,3).
        keypoints: (68,) vertices in iBUG order.
        front: (F,) vertices of the region of the photometric loss (`frontmask2_idx`).
        crop_triangles: (C,3) triangles of that region, indices into `front`, not into the vertices.
        skin: (V,) bool.
    """

    mean: np.ndarray
    albedo_mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    albedo: np.ndarray
    triangles: np.ndarray
    keypoints: np.ndarray
    front: np.ndarray
    crop_triangles: np.ndarray
    skin: np.ndarray


def load_bfm(path: str | os.PathLike) -> MorphableHead:
    """Loads a Basel Face Model file (.mat, .h5) or folder as a `MorphableHead`.

    The 2009 front face has no scalp, neck, ears or eyeballs: all vertices are in the region `face`. Raises UserError as
    `read_front` does.
    """
    if bfm_h5.is_h5(path):
        return bfm_h5.load_h5(path)
    return from_front(read_front(path))


def from_front(front: FrontFace) -> MorphableHead:
    """The front face as a head."""
    template = MM_PER_DM * front.mean.astype(np.float64)
    return bfm_h5.assemble(
        template,
        front.triangles,
        MM_PER_DM * front.identity,
        MM_PER_DM * front.expression,
        front.albedo_mean / 255,
        front.albedo / 255,
        landmarks.at_vertices(front.keypoints),
        "bfm2009",
    )


def read_front(path: str | os.PathLike) -> FrontFace:
    """Reads the front face from `BFM_model_front.mat`, or from a folder with that file or with its source files.

    Any number of vertices is accepted. Raises UserError if a file is missing or unreadable, or if a field is missing,
    has an inconsistent shape, non-finite values or indices out of range.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / READY if (path / READY).is_file() else path
    elif not path.is_file():
        raise UserError(
            f"{path}: no such file or folder; give {READY}, an .h5 of the 2017 or 2019 model, or the folder BFM"
        )
    if path.is_dir():
        try:
            return _validate(_build_front(path), path)
        except (ValueError, IndexError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: its files do not fit together ({error}); download them again") from error
    if path.name == SHAPES:
        raise UserError(
            f"{path}: contains no expressions; give the folder with {EXPRESSIONS} and the index files instead"
        )
    fields = ("meanshape", "meantex", *MODES, *INDICES, "skinmask")
    return _validate(_fields(path, fields), path)


def _fields(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numeric arrays of a MATLAB file. Raises UserError if the file or a field is missing."""
    if not path.is_file():
        raise UserError(f"{path}: file is missing; check the path")
    found = array_files.read_mat(path, names)
    missing = [name for name in names if name not in found]
    if missing:
        held = ", ".join(array_files.mat_names(path))
        raise UserError(f"{path}: {', '.join(missing)} missing, it contains {held or 'nothing'}; {REMEDY}")
    wrong = [name for name in names if not np.issubdtype(found[name].dtype, np.number)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is not numeric; download it again")
    return {name: found[name] for name in names}


def _read_expressions(path: pathlib.Path, vertices: int) -> np.ndarray:
    """Components (3V,d) of Exp_Pca.bin: little-endian int32 d, an unused mean, then d vectors of float32."""
    if not path.is_file():
        raise UserError(f"{path}: file is missing; it is part of Guo et al.'s CoarseData")
    data = path.read_bytes()
    count = int(np.frombuffer(data[:4], "<i4")[0]) if len(data) >= 4 else 0
    expected = 4 + 12 * vertices * (1 + count)
    if count < 1 or len(data) != expected:
        raise UserError(
            f"{path}: {len(data)} bytes, but {count} components of {vertices} vertices need {expected}; copy it again"
        )
    return np.frombuffer(data, "<f4", offset=4)[3 * vertices :].reshape(count, -1).T


def _numbers(path: pathlib.Path) -> np.ndarray:
    try:
        return np.loadtxt(path).reshape(-1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or not a list of numbers ({error}); copy it again") from error


def _rows(path: pathlib.Path, name: str, count: int) -> np.ndarray:
    """Zero-based index list of a file. Raises UserError if an index is not below `count`."""
    index = _fields(path, (name,))[name].reshape(-1).astype(np.int64) - 1
    if len(index) == 0 or index.min() < 0 or index.max() >= count:
        raise UserError(f"{path}: {name} has indices out of range for {count} vertices; download it again")
    return index


def _build_front(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Builds the fields of `BFM_model_front.mat` from the source files in `folder`."""
    names = ("shapePC", "shapeEV", "shapeMU", "texPC", "texEV", "texMU")
    model = _fields(folder / SHAPES, names)
    for basis, scale in (("shapePC", "shapeEV"), ("texPC", "texEV")):
        if model[basis].ndim != 2 or model[basis].shape[1] != model[scale].size:
            raise UserError(f"{folder / SHAPES}: {basis} {model[basis].shape} does not fit {scale}; download it again")
    in_shapes = _rows(folder / EXPRESSION_ROWS, "trimIndex", len(model["shapeMU"]) // 3)
    front = _rows(folder / FRONT_ROWS, "idx", len(in_shapes))
    expressions = _read_expressions(folder / EXPRESSIONS, len(in_shapes))
    deviations = _numbers(folder / DEVIATIONS)
    if len(deviations) != expressions.shape[1]:
        raise UserError(
            f"{folder / DEVIATIONS}: {len(deviations)} numbers for {expressions.shape[1]} expressions; copy it again"
        )

    def cut(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return values.reshape(-1, 3, values.shape[-1])[rows].reshape(3 * len(rows), -1)

    def modes(values: np.ndarray, scale: np.ndarray, count: int, rows: np.ndarray) -> np.ndarray:
        return cut(values[:, :count] * scale.reshape(-1)[:count], rows)

    shape_rows = in_shapes[front]
    return {
        "meanshape": cut(model["shapeMU"].reshape(-1, 1), shape_rows) / PER_DM,
        "meantex": cut(model["texMU"].reshape(-1, 1), shape_rows),
        "idBase": modes(model["shapePC"], model["shapeEV"], IDENTITIES, shape_rows) / PER_DM,
        "exBase": modes(expressions, deviations, EXPRESSION_MODES, front) / PER_DM,
        "texBase": modes(model["texPC"], model["texEV"], ALBEDOS, shape_rows),
        **_fields(folder / TOPOLOGY, (*INDICES, "skinmask")),
    }


def _validate(fields: dict[str, np.ndarray], path: pathlib.Path) -> FrontFace:
    """Validates the fields of the original file. Raises UserError naming the first inconsistent one."""

    def refuse(name: str, reason: str) -> None:
        raise UserError(f"{path}: {name} {reason}; {REMEDY}")

    vertices, rest = divmod(fields["meanshape"].size, 3)
    if rest or vertices == 0:
        refuse("meanshape", f"has {fields['meanshape'].size} numbers, which is not a multiple of 3")
    shapes = {"meantex": (3 * vertices,), "skinmask": (vertices,), "keypoints": (68,), "tri": (-1, 3)}
    shapes |= {"tri_mask2": (-1, 3), "frontmask2_idx": (-1,)}
    shapes |= {name: (3 * vertices, count) for name, count in MODES.items()}
    found = {"meanshape": fields["meanshape"].reshape(-1)}
    for name, shape in shapes.items():
        value = np.asarray(fields[name])
        value = value.reshape(-1) if len(shape) == 1 else value
        if value.ndim != len(shape) or any(w not in (-1, n) for n, w in zip(value.shape, shape, strict=True)):
            refuse(name, f"has shape {fields[name].shape}; {vertices} vertices need {shape}".replace("-1", "any"))
        found[name] = value
    for name, value in found.items():
        if not np.isfinite(value).all():
            refuse(name, "has values that are not finite")
    extent = float(np.ptp(found["meanshape"].reshape(-1, 3), axis=0).max())
    if not MIN_EXTENT_DM <= extent <= MAX_EXTENT_DM:
        refuse("meanshape", f"extends over {extent:.3g}; the file's unit is dm, in which a face has 1 to 3")
    limits = dict.fromkeys(INDICES, vertices) | {"tri_mask2": len(found["frontmask2_idx"])}
    for name, limit in limits.items():
        if found[name].size == 0 or found[name].min() < 1 or found[name].max() > limit:
            refuse(name, f"must contain indices from 1 to {limit}")

    def modes(name: str) -> np.ndarray:
        return np.ascontiguousarray(found[name].T, np.float32).reshape(-1, vertices, 3)

    def indices(name: str) -> np.ndarray:
        return found[name].astype(np.int32) - 1

    return FrontFace(
        mean=found["meanshape"].reshape(-1, 3).astype(np.float32),
        albedo_mean=found["meantex"].reshape(-1, 3).astype(np.float32),
        identity=modes("idBase"),
        expression=modes("exBase"),
        albedo=modes("texBase"),
        triangles=indices("tri"),
        keypoints=indices("keypoints"),
        front=indices("frontmask2_idx"),
        crop_triangles=indices("tri_mask2"),
        skin=found["skinmask"] > 0,
    )
