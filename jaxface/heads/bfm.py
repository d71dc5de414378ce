"""The Basel Face Model 2009 with FaceWarehouse expressions, as Deep3DFaceReconstruction cuts it: its front face.

Read from a ready `BFM_model_front.mat`, or made from the licensed `01_MorphableModel.mat` (Paysan et al., AVSS 2009),
`Exp_Pca.bin` (Guo et al., PAMI 2019) and the index files of the repository, by the recipe of Deep3DFaceRecon_pytorch
(util/load_mats.py, transferBFM09). The 2017 and 2019 models are in `bfm_h5`. No file of the model ships.
"""

import dataclasses
import os
import pathlib

import numpy as np
import scipy.io
import scipy.spatial

from jaxface.errors import UserError
from jaxface.heads import bfm_h5, landmarks
from jaxface.heads.morphable import MorphableHead

READY = "BFM_model_front.mat"
SHAPES, EXPRESSIONS = "01_MorphableModel.mat", "Exp_Pca.bin"
DEVIATIONS, EXPRESSION_ROWS, FRONT_ROWS = "std_exp.txt", "BFM_exp_idx.mat", "BFM_front_idx.mat"
TOPOLOGY = "facemodel_info.mat"
IDENTITIES, EXPRESSION_MODES, ALBEDOS = 80, 64, 80
MODES = {"idBase": IDENTITIES, "exBase": EXPRESSION_MODES, "texBase": ALBEDOS}
INDICES = ("tri", "tri_mask2", "keypoints", "frontmask2_idx")
# Micrometres to decimetres, the unit of the front face.
PER_DM = 1e5
MM_PER_DM = 100.0


@dataclasses.dataclass(frozen=True)
class FrontFace:
    """The front face as its file has it; V vertices, T triangles, all indices from 0. Frame: x image right, y up.

    mean (V,3) dm, albedo_mean (V,3) RGB in 0..255; identity (80,V,3) and expression (64,V,3) dm and albedo (80,V,3),
    all per standard deviation; triangles (T,3); keypoints (68,), iBUG's order; front (F,): the vertices of the crop;
    crop_triangles (C,3): indices into `front`, not into the vertices; skin (V,) bool.
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
    """The head of a Basel Face Model file (.mat, .h5) or folder, in millimetres and the frame of `MorphableHead`.

    The 2009 front face has no scalp, neck, ears or eyeballs: all of it is `face`. UserError as in `read_front`.
    """
    if str(path).endswith(".h5"):
        return bfm_h5.load_h5(path)
    front = read_front(path)
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
    """The front face of a `BFM_model_front.mat` or of a folder that holds it, or what it is made from.

    Any number of vertices. Raises UserError, in one line: what file is missing or unreadable, which field it lacks,
    has with another size, with numbers that are not finite, or with an index outside its list.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / READY if (path / READY).is_file() else path
    elif not path.is_file():
        raise UserError(f"no Basel Face Model at {path}: give {READY}, an .h5 of 2017 or 2019, or the folder BFM")
    if path.is_dir():
        return _checked(_transferred(path), path)
    if path.name == SHAPES:
        raise UserError(f"{path} has no expressions: give the folder with {EXPRESSIONS} and the index files beside it")
    fields = ("meanshape", "meantex", *MODES, *INDICES, "skinmask")
    return _checked(_fields(path, fields), path)


def _fields(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of a MATLAB file. UserError where it is missing, no such file, or lacks a field."""
    if not path.is_file():
        raise UserError(f"{path.name} is missing in {path.parent}")
    try:
        found = scipy.io.loadmat(path, variable_names=names)
    except NotImplementedError as error:
        raise UserError(f"{path} is a MATLAB 7.3 file; save it again in MATLAB with the option '-v7'") from error
    except Exception as error:  # scipy lets whatever its parser meets in a damaged file through
        raise UserError(f"{path} cannot be read as a MATLAB file ({type(error).__name__}: {error})") from error
    missing = [name for name in names if name not in found]
    if missing:
        held = ", ".join(name for name, *_ in scipy.io.whosmat(path))
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {held or 'nothing'}")
    wrong = [name for name in names if not np.issubdtype(found[name].dtype, np.number)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} holds no numbers")
    return {name: found[name] for name in names}


def _read_expressions(path: pathlib.Path, vertices: int) -> np.ndarray:
    """The components (3V,d) of Exp_Pca.bin: int32 d, a mean that is not used, then d vectors; little-endian."""
    if not path.is_file():
        raise UserError(f"{path.name} is missing in {path.parent}; it comes with Guo et al.'s CoarseData")
    data = path.read_bytes()
    count = int(np.frombuffer(data[:4], "<i4")[0]) if len(data) >= 4 else 0
    expected = 4 + 12 * vertices * (1 + count)
    if count < 1 or len(data) != expected:
        raise UserError(f"{path} has {len(data)} bytes; {count} components of {vertices} vertices make {expected}")
    return np.frombuffer(data, "<f4", offset=4)[3 * vertices :].reshape(count, -1).T


def _numbers(path: pathlib.Path) -> np.ndarray:
    try:
        return np.loadtxt(path).reshape(-1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or holds no numbers ({error})") from error


def _rows(path: pathlib.Path, name: str, count: int) -> np.ndarray:
    """An index list of a file, from 0, checked against the list it points into."""
    index = _fields(path, (name,))[name].reshape(-1).astype(np.int64) - 1
    if len(index) == 0 or index.min() < 0 or index.max() >= count:
        raise UserError(f"{path}: {name} points outside its list of {count} vertices")
    return index


def _transferred(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The fields of `BFM_model_front.mat`, made from the parts in `folder`."""
    names = ("shapePC", "shapeEV", "shapeMU", "texPC", "texEV", "texMU")
    model = _fields(folder / SHAPES, names)
    for modes, deviations in (("shapePC", "shapeEV"), ("texPC", "texEV")):
        if model[modes].ndim != 2 or model[modes].shape[1] != model[deviations].size:
            raise UserError(f"{folder / SHAPES}: {modes} {model[modes].shape} does not fit {deviations}")
    in_shapes = _rows(folder / EXPRESSION_ROWS, "trimIndex", len(model["shapeMU"]) // 3)
    front = _rows(folder / FRONT_ROWS, "idx", len(in_shapes))
    expressions = _read_expressions(folder / EXPRESSIONS, len(in_shapes))
    deviations = _numbers(folder / DEVIATIONS)
    if len(deviations) != expressions.shape[1]:
        raise UserError(f"{folder / DEVIATIONS} has {len(deviations)} numbers for {expressions.shape[1]} expressions")

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


def _checked(fields: dict[str, np.ndarray], path: pathlib.Path) -> FrontFace:
    """The face of the original's fields. UserError names the first that does not fit the others."""

    def refuse(name: str, reason: str) -> None:
        raise UserError(f"{path}: {name} {reason}")

    vertices, rest = divmod(fields["meanshape"].size, 3)
    if rest or vertices == 0:
        refuse("meanshape", f"has {fields['meanshape'].size} numbers, which is not three a vertex")
    shapes = {"meantex": (3 * vertices,), "skinmask": (vertices,), "keypoints": (68,), "tri": (-1, 3)}
    shapes |= {"tri_mask2": (-1, 3), "frontmask2_idx": (-1,)}
    shapes |= {name: (3 * vertices, count) for name, count in MODES.items()}
    found = {"meanshape": fields["meanshape"].reshape(-1)}
    for name, shape in shapes.items():
        value = np.asarray(fields[name])
        value = value.reshape(-1) if len(shape) == 1 else value
        if value.ndim != len(shape) or any(w not in (-1, n) for n, w in zip(value.shape, shape, strict=True)):
            refuse(name, f"has shape {fields[name].shape}; {vertices} vertices ask for {shape}".replace("-1", "any"))
        found[name] = value
    for name, value in found.items():
        if not np.isfinite(value).all():
            refuse(name, "holds numbers that are not finite")
    limits = dict.fromkeys(INDICES, vertices) | {"tri_mask2": len(found["frontmask2_idx"])}
    for name, limit in limits.items():
        if found[name].size == 0 or found[name].min() < 1 or found[name].max() > limit:
            refuse(name, f"must hold indices from 1 to {limit}")

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
