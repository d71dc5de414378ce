"""The Basel Face Models of 2017 and 2019 (.h5), and what turns any Basel model into a `MorphableHead`.

Gerig et al., "Morphable Face Models - An Open Framework", FG 2018. The file is in millimetres, with x to the subject's
left, y up, z out of the face; its modes are orthonormal, beside their variances; its expressions have a mean, which is
left out here so that no expression is the neutral face. It names a dozen points only: the other landmarks are those of
the embedded head, brought over by a smooth warp through the named ones.
"""

import json
import os
import pathlib

import numpy as np
import scipy.interpolate
import scipy.spatial

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import landmarks
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural import procedural_head

# Names of the file and the number of the iBUG point at the same place.
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
FEWEST_NAMED = 6
LIDS = (slice(36, 42), slice(42, 48))
NOWHERE = ("scalp", "neck", "ears", "lips", "eyeball_L", "eyeball_R", "iris_L", "iris_R", "mouth", "transparent")


def load_h5(path: str | os.PathLike) -> MorphableHead:
    """The head of `model2017-1_*.h5` or `model2019_*.h5`. UserError names what is missing or does not fit.

    Needs h5py: the extra `bfm`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no Basel Face Model at {path}")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError("an .h5 model needs h5py; install the extra: pip install 'jaxface[bfm]'") from error
    try:
        with h5py.File(path) as file:
            template, identity = _model(file, "shape")
            _, expression = _model(file, "expression")
            color, albedo = _model(file, "color")
            triangles = np.asarray(file["shape/representer/cells"]).astype(np.int32)
            named = np.asarray(file["metadata/landmarks/json"]).reshape(-1)[0]
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is not a Basel Face Model of 2017 or 2019: {str(error).strip(chr(34))}") from error
    triangles = triangles.T if triangles.shape[0] == 3 else triangles
    for name, array in {"expression": expression, "color": albedo, "color mean": color}.items():
        if array.shape[-2:] != template.shape:
            raise UserError(f"{path}: the shape has {len(template)} vertices, the {name} model {array.shape[-2]}")
    if triangles.shape[1:] != (3,) or triangles.min() < 0 or triangles.max() >= len(template):
        raise UserError(f"{path}: shape/representer/cells is no list of triangles of {len(template)} vertices")
    points = _named_points(named, path)
    layout = landmarks.snap(_warped(*points), template, np.ones(len(template), bool))
    return assemble(template, triangles, identity, expression, color, albedo, layout, path.stem)


def _model(file, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V,3) and modes (K,V,3) per standard deviation of a part of the file."""
    model = file[f"{part}/model"]
    modes = np.asarray(model["pcaBasis"]) * np.sqrt(np.asarray(model["pcaVariance"]))
    return np.asarray(model["mean"]).reshape(-1, 3), np.float32(modes.T).reshape(modes.shape[1], -1, 3)


def _named_points(text: bytes | str, path: pathlib.Path) -> tuple[list[int], np.ndarray]:
    """iBUG numbers and places (N,3) of the points that the file names."""
    try:
        known = {entry["id"]: entry["coordinates"] for entry in json.loads(text)}
        numbers = [number for name, number in NAMED.items() if name in known]
        places = np.array([known[name] for name in NAMED if name in known], np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: metadata/landmarks/json is not a list of named points") from error
    if len(numbers) < FEWEST_NAMED:
        raise UserError(f"{path} names {len(numbers)} of the points {', '.join(NAMED)}; {FEWEST_NAMED} are needed")
    return numbers, places


def _warped(numbers: list[int], places: np.ndarray) -> np.ndarray:
    """The 68 points of the embedded head moved so that points `numbers` come to lie at `places`."""
    head = procedural_head()
    points = np.asarray(head.landmark_points(head.template, "68"), np.float64)
    scale, rotation, translation = alignment.similarity(points[numbers], places)
    points = scale * points @ rotation.T + translation
    moved = scipy.interpolate.RBFInterpolator(points[numbers], places - points[numbers], kernel="linear")
    return points + moved(points)


def assemble(template, triangles, identity, expression, albedo_mean, albedo, layout_68, name: str) -> MorphableHead:
    """A head of arrays (…,V,3) mm and sRGB in [0,1], moved so that its 68 points are where the embedded head's are.

    The model has no parts: everything is `face`. Its mirror map pairs vertices that are each other's nearest; others
    stay by themselves.
    """
    reference = procedural_head()
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
        regions={"face": everywhere, **{region: np.zeros(len(template), bool) for region in NOWHERE}},
        name=name,
        identity_names=tuple(f"identity{i:03d}" for i in range(len(identity))),
        expression_names=tuple(f"expression{i:03d}" for i in range(len(expression))),
        albedo_names=tuple(f"albedo{i:03d}" for i in range(len(albedo))),
    )
