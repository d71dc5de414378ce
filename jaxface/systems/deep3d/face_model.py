"""The face that Deep3D regresses: a Basel front face exactly as its file has it, or any `MorphableHead`.

Here, and only here, heads change unit: Deep3D works in decimetres with the origin at the mean vertex. Axes are those of
heads: x image right, y up, z to the viewer.
"""

import functools

import flax.struct
import jax
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import mesh
from jaxface.heads import sources
from jaxface.heads.bfm import FrontFace, read_front
from jaxface.heads.morphable import MorphableHead

MM_PER_DM = 100.0
# What one unit of an expression coefficient means on a head whose weights run from 0 to 1: their usual spread.
EXPRESSION_DEVIATION = 0.25
CROPS = ("tf", "pytorch", "visible")
NOT_SKIN = ("lips", "mouth", "eyeball_L", "eyeball_R", "brows_L", "brows_R", "nostrils", "scalp", "ears", "neck")
SEEN_INSIDE = ("face", "lips", "mouth", "eyeball_L", "eyeball_R", "lids", "socket", "nostrils")

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class FaceModel:
    """A linear face in decimetres, a pytree of arrays. V vertices, T triangles; I, E, A modes.

    mean (V,3), its mean vertex at 0; identity (I,V,3), expression (E,V,3); albedo_mean (V,3) RGB, 1 = white, albedo
    (A,V,3); modes are per unit of a coefficient. triangles (T,3); around (V,valence): `mesh.incidence`; landmarks: 68
    points as vertices (68,3) and weights (68,3); skin (V,) float, 1 where the albedo should be even.
    The crop is where the photometric loss looks: what the picture of the triangles `crop_triangles` (C,3) covers, or,
    where that is None, the pixels whose visible triangle is marked in `crop` (T,) bool.
    """

    mean: Array
    identity: Array
    expression: Array
    albedo_mean: Array
    albedo: Array
    triangles: Array
    around: Array
    landmarks: tuple[Array, Array]
    skin: Array
    crop_triangles: Array | None
    crop: Array


def load_face_model(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    """The model of `config.head` with `sizes` = (I, E, A) modes; kept, as it is asked for again.

    `crop`: "tf" or "pytorch" for a Basel front face, "visible" for any. UserError: no such head or crop, too few modes.
    """
    return _load(name, str(path), tuple(sizes), crop)


@functools.lru_cache(maxsize=2)
def _load(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    if crop not in CROPS:
        raise UserError(f"config.head.crop is {crop!r}; use one of {', '.join(CROPS)}")
    front = name == "bfm" and path and not path.endswith(".h5")
    if crop != "visible" and not front:
        raise UserError(f"config.head.crop {crop!r} needs a Basel front face (head bfm, .mat); use 'visible'")
    face = from_front(read_front(path), crop) if front else from_head(sources.load_head(name, path))
    for field, count in zip(("identity", "expression", "albedo"), sizes, strict=True):
        modes = getattr(face, field)
        if len(modes) < count:
            raise UserError(f"config.model.{field} is {count}, but head {name!r} has {len(modes)} such modes")
        face = face.replace(**{field: modes[:count]})
    return face


def from_front(front: FrontFace, crop: str = "tf") -> FaceModel:
    """The original's model. Its mean vertex is the float32 mean in numpy's plain order, as there, for equal numbers.

    crop "tf": the crop's triangles, as Microsoft's TensorFlow code draws them. "pytorch": the PyTorch code takes their
    indices for those of the whole face, which scrambles the region; the released weights were trained so.
    """
    if crop == "visible":
        crop_triangles, corners = None, np.isin(front.triangles, front.front)
    else:
        crop_triangles = front.front[front.crop_triangles] if crop == "tf" else front.crop_triangles
        corners = np.zeros_like(front.triangles, bool)
    return FaceModel(
        mean=front.mean - np.mean(front.mean, axis=0, keepdims=True),
        identity=front.identity,
        expression=front.expression,
        albedo_mean=front.albedo_mean / 255,
        albedo=front.albedo / 255,
        triangles=front.triangles,
        around=mesh.incidence(front.triangles, len(front.mean)),
        landmarks=(np.repeat(front.keypoints[:, None], 3, 1), np.tile(np.float32([1, 0, 0]), (68, 1))),
        skin=front.skin.astype(np.float32),
        crop_triangles=crop_triangles,
        crop=corners.all(axis=1),
    )


def from_head(head: MorphableHead) -> FaceModel:
    """Any head: what is drawn of it, the origin at the mean vertex of its face, the crop all that lies in the face."""
    triangles = head.opaque_triangles()
    face = np.asarray(head.regions["face"])
    bounded = bool((np.asarray(head.expression_names) == "jawOpen").any())
    regions = {name: np.asarray(region) for name, region in head.regions.items()}
    inside = np.any([regions[name] for name in SEEN_INSIDE if name in regions], axis=0)
    skin = face & ~np.any([regions[name] for name in NOT_SKIN if name in regions], axis=0)
    return FaceModel(
        mean=((head.template - head.template[face].mean(0)) / MM_PER_DM).astype(np.float32),
        identity=np.float32(head.identity / MM_PER_DM),
        expression=np.float32(head.expression * ((EXPRESSION_DEVIATION if bounded else 1.0) / MM_PER_DM)),
        albedo_mean=np.float32(head.albedo_mean),
        albedo=np.float32(head.albedo),
        triangles=triangles,
        around=mesh.incidence(triangles, len(head.template)),
        landmarks=head.landmarks["68"],
        skin=skin.astype(np.float32),
        crop_triangles=None,
        crop=inside[triangles].all(axis=1),
    )
