"""FLAME (Li et al., SIGGRAPH Asia 2017) as a `MorphableHead`, from the user's .pkl or .npz; none is shipped.

Frame: millimetres in the axes of `MorphableHead`, translated so that `head_space` gives FLAME's metres times 4, which
is NPHM's space. The vertex numbers below hold for all FLAME releases; the eyeballs come last. Statistical modes are
named `shapeNNN` and `expressionNNN`; their weights are standard deviations of either sign.
"""

import dataclasses
import pathlib

import numpy as np

from jaxface.errors import UserError
from jaxface.heads import flame_file, landmarks, paint
from jaxface.heads.head_space import ORIGIN_MM
from jaxface.heads.mirroring import mirror_map
from jaxface.heads.morphable import TRANSPARENT, MorphableHead

MM_PER_METRE = 1000.0
# Numbers of vertices: in total, of the skin, of each eyeball.
VERTICES, SKIN, EYEBALL = 5023, 3931, 546
# Number of shape modes, which precede the expression modes.
SHAPES = 300
# Index of the jaw joint, and its angle in `jawOpen` (20 degrees).
JAW = 2
OPEN_JAW_RAD = 0.35
REQUIRED = ("v_template", "shapedirs", "f")
# Number of joints, and entries of a rotation for each joint except the root: the pose correctives.
JOINTS, CORRECTIVES = 5, 36
# Fields with the expression modes in files that store them apart from the shape modes.
EXPRESSION_FIELDS = ("expressiondirs", "exprdirs")
# Plausible extent of the template in metres.
MIN_EXTENT_M, MAX_EXTENT_M = 0.1, 0.6

# NPHM's 39 anchors and its throat plane. Source: github.com/SimonGiebenhain/NPHM.
ANCHORS = (
    2712, 1579, 3485, 3756, 3430, 3659, 2711, 1575, 338, 27, 3631, 3832, 2437, 1175, 3092, 2057, 3422, 3649, 3162, 2143,
    617, 67, 3172, 2160, 2966, 1888, 1470, 2607, 1896, 2981, 3332, 3231, 3494, 3526, 3506, 3543, 3516, 3786, 3404,
)  # fmt: skip
THROAT = (3276, 3207, 3310)

# iBUG's 68 points. Source: NPHM, src/NPHM/data/manager.py.
LANDMARKS_68 = (
    2212, 3060, 3485, 3384, 3386, 3389, 3418, 3395, 3414, 3598, 3637, 3587, 3582, 3580, 3756, 2012, 730,
    1984, 3157, 335, 3705, 3684, 3851, 3863, 16, 2138, 571,
    3553, 3561, 3501, 3526, 2748, 2792, 3556, 1675, 1612,
    2437, 2383, 2494, 3632, 2278, 2296, 3833, 1343, 1034, 1175, 884, 829,
    2715, 2813, 2774, 3543, 1657, 1696, 1579, 1795, 1865, 3503, 2948, 2898,
    2845, 2785, 3533, 1668, 1730, 1669, 3509, 2786,
)  # fmt: skip

# Optional region file next to the model, and the names of its masks for the regions of a head.
MASKS_FILE = "FLAME_masks.pkl"
MASKS = {"face": "face", "scalp": "scalp", "lips": "lips", "neck": "neck"}


@dataclasses.dataclass(frozen=True)
class Flame:
    """FLAME head with its jaw joint.

    Attributes:
        head: the morphable head.
        skinning: (V,) blend-skinning weight of the jaw.
        joint_weights: (V,) regressor of the jaw joint from the vertices.
        correctives: (V,3,9) pose correctives, mm per entry of R - I.
    """

    head: MorphableHead
    skinning: np.ndarray
    joint_weights: np.ndarray
    correctives: np.ndarray

    def open_jaw(self, vertices: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Vertices (V,3) mm with the jaw rotated by `rotation` (3,3): linear blend skinning with pose correctives."""
        joint = self.joint_weights @ vertices
        corrected = vertices + self.correctives @ (rotation - np.eye(3)).ravel()
        rotated = (corrected - joint) @ rotation.T + joint
        return corrected + self.skinning[:, None] * (rotated - corrected)


def load_flame(path: str | pathlib.Path) -> Flame:
    """Loads FLAME. Identity modes are its shape modes; expressions are `jawOpen` and its expression modes.

    `jawOpen` is the linearised displacement of a jaw rotation by 20 degrees. Regions come from the official
    FLAME_masks.pkl if it lies next to the model; otherwise face, neck and scalp are separated by height and depth, and
    lips and ears are empty. Raises UserError if the file is not a FLAME model.
    """
    arrays = _validated(flame_file.read(path), path)
    template = (MM_PER_METRE * arrays["v_template"] + ORIGIN_MM).astype(np.float32)
    modes = np.moveaxis(MM_PER_METRE * arrays["shapedirs"], 2, 0).astype(np.float32)
    masks = pathlib.Path(path).with_name(MASKS_FILE)
    regions = _regions(template, flame_file.read(masks) if masks.is_file() else {})
    head = MorphableHead(
        template=template,
        triangles=arrays["f"].astype(np.int32),
        identity=modes[:SHAPES],
        expression=modes[SHAPES:],
        albedo_mean=np.broadcast_to(paint.SKIN.astype(np.float32), template.shape),
        albedo=np.zeros((0, VERTICES, 3), np.float32),
        mirror=mirror_map(template, _mirrored_parts()),
        landmarks=_landmarks(template, regions),
        regions=regions,
        name="flame",
        identity_names=tuple(f"shape{i:03d}" for i in range(len(modes[:SHAPES]))),
        expression_names=tuple(f"expression{i:03d}" for i in range(len(modes[SHAPES:]))),
        albedo_names=(),
    )
    return _with_jaw(head, arrays, path)


def _validated(arrays: dict[str, np.ndarray], path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The model's arrays in the shapes of the published file. Raises UserError naming the first that does not fit."""

    def refuse(reason: str) -> None:
        raise UserError(f"{path}: not a FLAME model ({reason}); give the published .pkl, or an .npz of its arrays")

    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        refuse(f"{', '.join(missing)} missing or not an array of numbers")
    if arrays["v_template"].shape != (VERTICES, 3):
        refuse(f"v_template is not {(VERTICES, 3)}")
    arrays = arrays | {"shapedirs": _modes(arrays)}
    modes = arrays["shapedirs"]
    if modes.ndim != 3 or modes.shape[:2] != (VERTICES, 3) or modes.shape[2] <= SHAPES:
        refuse(f"shapedirs {modes.shape} is not {(VERTICES, 3)} by {SHAPES} shape modes and further expression modes")
    if "posedirs" in arrays and arrays["posedirs"].ndim == 2:
        arrays["posedirs"] = _from_rows(arrays["posedirs"], CORRECTIVES)
    shapes = {"weights": (VERTICES, JOINTS), "J_regressor": (JOINTS, VERTICES), "posedirs": (VERTICES, 3, CORRECTIVES)}
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            refuse(f"{name} is {arrays[name].shape}, a model with a jaw has {shape}")
    for name in (*REQUIRED, *shapes):
        if name in arrays and not np.isfinite(arrays[name]).all():
            refuse(f"{name} has values that are not finite")
    extent = float(np.ptp(arrays["v_template"], axis=0).max())
    if not MIN_EXTENT_M <= extent <= MAX_EXTENT_M:
        refuse(f"v_template extends over {extent:.3g}; the file's unit is the metre")
    triangles = arrays["f"]
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.min() < 0 or triangles.max() >= VERTICES:
        refuse(f"f must be triangles of vertices from 0 to {VERTICES - 1}")
    return arrays


def _modes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Shape and expression modes (V,3,S+E), which some files store flat, (3V,S), or in two fields."""
    fields = [arrays["shapedirs"], *(arrays[name] for name in EXPRESSION_FIELDS if name in arrays)]
    fields = [field.reshape(VERTICES, 3, -1) if field.shape[:1] == (3 * VERTICES,) else field for field in fields]
    same = len({field.shape[:2] for field in fields}) == 1 and all(field.ndim == 3 for field in fields)
    return np.concatenate(fields, axis=2) if same else fields[0]


def _from_rows(values: np.ndarray, count: int) -> np.ndarray:
    """Modes (V,3,count) of a matrix (3V,count) or (count,3V); any other array is returned unchanged."""
    if values.shape == (count, 3 * VERTICES):
        values = values.T
    return values.reshape(VERTICES, 3, count) if values.shape == (3 * VERTICES, count) else values


def above_throat(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Mask (N,) bool of points (N,3) above the plane through three points (3,3), the vertices THROAT of a mesh."""
    return (points - plane[0]) @ np.cross(plane[1] - plane[0], plane[2] - plane[0]) > 0


def _with_jaw(head: MorphableHead, arrays: dict[str, np.ndarray], path: str | pathlib.Path) -> Flame:
    """Adds the jaw joint, and `jawOpen` as the first expression."""
    missing = [name for name in ("weights", "J_regressor", "posedirs") if name not in arrays]
    if missing:
        raise UserError(
            f"{path}: {', '.join(missing)} missing or not an array of numbers; the jaw needs it, use the published file"
        )
    # Nine pose correctives per joint, those of the neck first.
    correctives = MM_PER_METRE * arrays["posedirs"][:, :, 9 * (JAW - 1) : 9 * JAW]
    flame = Flame(head, arrays["weights"][:, JAW], arrays["J_regressor"][JAW], correctives)
    sin, cos = np.sin(OPEN_JAW_RAD), np.cos(OPEN_JAW_RAD)
    rotated = flame.open_jaw(head.template, np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]))
    opened = (rotated - head.template).astype(np.float32)
    names = ("jawOpen", *head.expression_names)
    head = head.replace(expression=np.concatenate([opened[None], head.expression]), expression_names=names)
    return dataclasses.replace(flame, head=head)


def _mirrored_parts() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    first, second = (SKIN, SKIN + EYEBALL), (SKIN + EYEBALL, VERTICES)
    return [((0, SKIN), (0, SKIN)), (first, second)]


def _regions(template: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    index = np.arange(VERTICES)
    first = (index >= SKIN) & (index < SKIN + EYEBALL)
    second = index >= SKIN + EYEBALL
    left, right = (first, second) if template[first, 0].mean() > 0 else (second, first)
    nothing = np.zeros(VERTICES, bool)
    names = ("iris_L", "iris_R", "mouth", TRANSPARENT, "ears", "lips")
    regions = {**dict.fromkeys(names, nothing), "eyeball_L": left, "eyeball_R": right}
    eye, skin = template[left].mean(0), index < SKIN
    below, ahead = template[:, 1] < eye[1] - 115.0, template[:, 2] > eye[2] - 60.0
    above = template[:, 1] > eye[1] + 45.0
    regions |= {"neck": skin & below, "face": skin & ahead & ~below & ~above, "scalp": skin & ~below & (above | ~ahead)}
    regions |= {name: np.isin(index, masks[mask]) for name, mask in MASKS.items() if mask in masks}
    if "left_ear" in masks:
        regions["ears"] = np.isin(index, np.concatenate([masks["left_ear"], masks["right_ear"]]))
    return regions


def _landmarks(template: np.ndarray, regions: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layout 68, and layout 98 resampled from it and snapped to the nearest vertices."""
    eyeballs = (template[regions[name]] for name in ("eyeball_R", "eyeball_L"))
    pupils = np.stack([eyeball[eyeball[:, 2].argmax()] for eyeball in eyeballs])
    points = landmarks.wflw_from_ibug(template[list(LANDMARKS_68)], pupils)
    return {
        "68": landmarks.at_vertices(np.array(LANDMARKS_68)),
        "98": landmarks.snap(points, template, np.ones(VERTICES, bool)),
    }
