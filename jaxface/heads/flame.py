"""FLAME (Li et al., SIGGRAPH Asia 2017) as a `MorphableHead`, from the user's own .pkl or .npz; none is shipped.

Frame: millimetres in the house's axes, moved so that `head_space` gives FLAME's metres times 4, NPHM's own space.
The eyeballs' vertices come last in every FLAME mesh; the vertex numbers below hold for all of its releases.
"""

import dataclasses
import pathlib

import numpy as np

from jaxface.errors import UserError
from jaxface.heads import flame_file, paint
from jaxface.heads.head_space import ORIGIN_MM
from jaxface.heads.mirroring import mirror_map
from jaxface.heads.morphable import TRANSPARENT, MorphableHead

MM_PER_METRE = 1000.0
VERTICES, SKIN, EYEBALL = 5023, 3931, 546
SHAPES = 300
JAW = 2
OPEN_JAW_RAD = 0.35
NEEDED = ("v_template", "shapedirs", "f")

# The 39 anchors of NPHM, its throat plane: github.com/SimonGiebenhain/NPHM (spec of its data set).
ANCHORS = (
    2712, 1579, 3485, 3756, 3430, 3659, 2711, 1575, 338, 27, 3631, 3832, 2437, 1175, 3092, 2057, 3422, 3649, 3162, 2143,
    617, 67, 3172, 2160, 2966, 1888, 1470, 2607, 1896, 2981, 3332, 3231, 3494, 3526, 3506, 3543, 3516, 3786, 3404,
)  # fmt: skip
THROAT = (3276, 3207, 3310)

# Names of FLAME_masks.pkl for the regions of a head.
MASKS = {"face": "face", "scalp": "scalp", "lips": "lips", "neck": "neck"}


@dataclasses.dataclass(frozen=True)
class Flame:
    """The head, and what turns its jaw: `skinning` (V,) the jaw's share of each vertex, `joint_weights` (V,) the mean
    of the template that is its joint, `correctives` (V,3,9) mm per entry of R - I."""

    head: MorphableHead
    skinning: np.ndarray
    joint_weights: np.ndarray
    correctives: np.ndarray

    def open_jaw(self, vertices: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Vertices (V,3) mm with the jaw turned by `rotation` (3,3), linear blend skinning with its correctives."""
        joint = self.joint_weights @ vertices
        corrected = vertices + self.correctives @ (rotation - np.eye(3)).ravel()
        turned = (corrected - joint) @ rotation.T + joint
        return corrected + self.skinning[:, None] * (turned - corrected)


def load_flame(path: str | pathlib.Path, masks: str = "", points_68: str = "") -> Flame:
    """FLAME with its shape modes as identity, and `jawOpen` (a turn of 20 degrees, made linear) and its own modes as
    expressions, per standard deviation.

    `masks` is the official FLAME_masks.pkl; without it face, neck and scalp are told by height and depth, and lips and
    ears are empty. `points_68` is an .npy of the vertex numbers (68,) of the iBUG points; without it there is no
    layout. UserError for a file that is not FLAME's.
    """
    arrays = flame_file.read(path)
    missing = [name for name in NEEDED if name not in arrays]
    if missing or arrays["v_template"].shape != (VERTICES, 3):
        raise UserError(f"{path} is no FLAME model: {'no ' + ', '.join(missing) if missing else 'another mesh'}")
    template = (MM_PER_METRE * arrays["v_template"] + ORIGIN_MM).astype(np.float32)
    modes = np.moveaxis(MM_PER_METRE * arrays["shapedirs"], 2, 0).astype(np.float32)
    regions = _regions(template, flame_file.read(masks) if masks else {})
    layouts = _landmarks(points_68) if points_68 else {}
    head = MorphableHead(
        template=template,
        triangles=arrays["f"].astype(np.int32),
        identity=modes[:SHAPES],
        expression=modes[SHAPES:],
        albedo_mean=np.broadcast_to(paint.SKIN.astype(np.float32), template.shape),
        albedo=np.zeros((0, VERTICES, 3), np.float32),
        mirror=mirror_map(template, _halves()),
        landmarks=layouts,
        regions=regions,
        name="flame",
        identity_names=tuple(f"shape{i:03d}" for i in range(len(modes[:SHAPES]))),
        expression_names=tuple(f"expression{i:03d}" for i in range(len(modes[SHAPES:]))),
        albedo_names=(),
    )
    return _with_jaw(head, arrays)


def _with_jaw(head: MorphableHead, arrays: dict[str, np.ndarray]) -> Flame:
    absent = [name for name in ("weights", "J_regressor", "posedirs") if name not in arrays]
    if absent:
        raise UserError(f"this FLAME model has no {', '.join(absent)}, which turn its jaw; take the published file")
    # Correctives of the neck's rotation come first, nine numbers a joint.
    correctives = MM_PER_METRE * arrays["posedirs"][:, :, 9 * (JAW - 1) : 9 * JAW]
    flame = Flame(head, arrays["weights"][:, JAW], arrays["J_regressor"][JAW], correctives)
    sin, cos = np.sin(OPEN_JAW_RAD), np.cos(OPEN_JAW_RAD)
    turned = flame.open_jaw(head.template, np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]))
    opened = (turned - head.template).astype(np.float32)
    names = ("jawOpen", *head.expression_names)
    head = head.replace(expression=np.concatenate([opened[None], head.expression]), expression_names=names)
    return dataclasses.replace(flame, head=head)


def _halves() -> list[tuple[tuple[int, int], tuple[int, int]]]:
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
    regions |= {name: np.isin(index, masks[own]) for name, own in MASKS.items() if own in masks}
    if "left_ear" in masks:
        regions["ears"] = np.isin(index, np.concatenate([masks["left_ear"], masks["right_ear"]]))
    return regions


def _landmarks(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        index = np.load(path, allow_pickle=False).ravel()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an .npy of 68 vertex numbers: {error}") from error
    if index.shape != (68,) or index.dtype.kind not in "iu" or not (0 <= index.min() and index.max() < VERTICES):
        raise UserError(f"{path} does not hold 68 vertex numbers below {VERTICES}")
    weights = np.tile(np.float32([1, 0, 0]), (68, 1))
    return {"68": (np.repeat(index[:, None], 3, axis=1).astype(np.int32), weights)}
