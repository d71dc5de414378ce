"""The face that Deep3D regresses: a Basel front face exactly as its file has it, or any `MorphableHead`.

Here, and only here, heads change unit: Deep3D works in decimetres with the origin at the mean vertex. Axes are those of
heads: x image right, y up, z to the viewer.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import mesh
from jaxface.heads import sources
from jaxface.heads.bfm import FrontFace, read_front
from jaxface.heads.morphable import MorphableHead

MM_PER_DM = 100.0
# How far one unit of an expression coefficient moves the weight of a head whose weights run from 0 to 1.
EXPRESSION_DEVIATION = 0.25
KINDS = ("identity", "expression", "albedo")
CROPS = ("tf", "pytorch")
NOT_SKIN = ("lips", "mouth", "eyeball_L", "eyeball_R", "brows_L", "brows_R", "nostrils", "scalp", "ears", "neck")
SEEN_INSIDE = ("face", "lips", "mouth", "eyeball_L", "eyeball_R", "lids", "socket", "nostrils")

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Surface:
    """The skin as a mesh of its own: `vertices` (W,) of the face, of which the first N are skin and the others only
    around it, triangles (U,3) of them, around (N,valence): `mesh.incidence`, and area (N,) dm² that each stands for."""

    vertices: Array
    triangles: Array
    around: Array
    area: Array


@flax.struct.dataclass
class FaceModel:
    """A linear face in decimetres, a pytree of arrays. V vertices, T triangles; I, E, A modes.

    mean (V,3), its mean vertex at 0; identity (I,V,3), expression (E,V,3); albedo_mean (V,3) RGB, 1 = white, albedo
    (A,V,3); modes are per unit of a coefficient. triangles (T,3); around (V,valence): `mesh.incidence`; landmarks: 68
    points as vertices (68,3) and weights (68,3); skin (V,) float, 1 where the albedo should be even; scored (N,) int:
    the vertices of the face, over which shapes are compared; surface: its skin.
    The crop is where the photometric loss looks: what the picture of the triangles `crop_triangles` (C,3) alone covers,
    or, where that is None, the pixels whose visible triangle is marked in `crop` (T,) bool.
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
    crop: Array | None
    scored: Array
    surface: Surface


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration in which coefficient counts of 0 are those of the configured head."""
    config = config.copy_and_resolve_references()
    open_counts = [name for name in KINDS if not config.model[name]]
    if open_counts:
        head = sources.load_head(config.head.name, config.head.path)
        for name in open_counts:
            config.model[name] = len(getattr(head, name))
    return config


@functools.cache
def _on_device(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    # What is kept must be arrays, also where the first to ask is being traced.
    with jax.ensure_compile_time_eval():
        return jax.device_put(load_face_model(name, path, sizes, crop))


def configured(config: ml_collections.ConfigDict) -> FaceModel | None:
    """The model of a configuration, on the device, kept; None for a head that needs a file where none is named."""
    if config.head.name != "procedural" and not config.head.path:
        return None
    return _on_device(*_arguments(config))


def from_config(config: ml_collections.ConfigDict) -> FaceModel:
    """The model of a configuration, on the host. UserError says what its head lacks."""
    return load_face_model(*_arguments(config))


def _arguments(config: ml_collections.ConfigDict) -> tuple[str, str, tuple[int, ...], str]:
    sizes = tuple(config.model[name] for name in KINDS)
    return config.head.name, config.head.path, sizes, config.head.crop


def load_face_model(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    """The model of `config.head` with `sizes` = (I, E, A) modes; kept, as it is asked for again.

    `crop`: "tf", the face, or "pytorch", Basel front faces only: see `from_front`. UserError: no such head or crop, too
    few modes.
    """
    return _load(name, str(path), tuple(sizes), crop)


@functools.lru_cache(maxsize=2)
def _load(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    if crop not in CROPS:
        raise UserError(f"config.head.crop is {crop!r}; use one of {', '.join(CROPS)}")
    front = name == "bfm" and path and not path.endswith(".h5")
    if crop == "pytorch" and not front:
        raise UserError("config.head.crop 'pytorch' is for Basel front faces (head bfm, .mat) only; use 'tf'")
    face = from_front(read_front(path), crop) if front else from_head(sources.load_head(name, path))
    for field, count in zip(KINDS, sizes, strict=True):
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
        crop_triangles=front.front[front.crop_triangles] if crop == "tf" else front.crop_triangles,
        crop=None,
        scored=np.arange(len(front.mean)),
        surface=surface_of(front.mean, front.triangles, front.skin > 0),
    )


def from_head(head: MorphableHead) -> FaceModel:
    """Any head: what is drawn of it, the origin at the mean vertex of its face, the crop all that lies in the face."""
    triangles = head.opaque_triangles()
    face = np.asarray(head.regions["face"])
    regions = {name: np.asarray(region) for name, region in head.regions.items()}
    inside = np.any([regions[name] for name in SEEN_INSIDE if name in regions], axis=0)
    skin = face & ~np.any([regions[name] for name in NOT_SKIN if name in regions], axis=0)
    mean = ((head.template - head.template[face].mean(0)) / MM_PER_DM).astype(np.float32)
    return FaceModel(
        mean=mean,
        identity=np.float32(head.identity / MM_PER_DM),
        expression=np.float32(head.expression * (expression_scale(head) / MM_PER_DM)),
        albedo_mean=np.float32(head.albedo_mean),
        albedo=np.float32(head.albedo),
        triangles=triangles,
        around=mesh.incidence(triangles, len(head.template)),
        landmarks=head.landmarks["68"],
        skin=skin.astype(np.float32),
        crop_triangles=None,
        crop=inside[triangles].all(axis=1),
        scored=np.flatnonzero(face | regions["lips"]),
        surface=surface_of(mean, triangles, skin),
    )


def surface_of(mean: np.ndarray, triangles: np.ndarray, skin: np.ndarray) -> Surface:
    """The surface of the vertices `skin` (V,) bool of a mean face (V,3) dm with triangles (T,3)."""
    own = np.flatnonzero(skin)
    touching = triangles[skin[triangles].any(1)]
    vertices = np.concatenate([own, np.setdiff1d(touching, own)])
    renamed = np.zeros(len(mean), np.int32)
    renamed[vertices] = np.arange(len(vertices))
    a, b, c = (mean[touching[:, corner]] for corner in range(3))
    third = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    area = np.bincount(touching.ravel(), np.repeat(third, 3), len(mean))[own]
    around = mesh.incidence(renamed[touching], len(vertices))[: len(own)]
    return Surface(vertices.astype(np.int32), renamed[touching], around, area.astype(np.float32))


def at_landmarks(face: FaceModel, vertices: Array) -> jax.Array:
    """The 68 landmarks (…,68,3) of vertices (…,V,3), or of modes."""
    index, weights = face.landmarks
    return (jnp.asarray(vertices)[..., index, :] * weights[..., None]).sum(-2)


def expression_scale(head: MorphableHead) -> float:
    """Weight of an expression per unit of its coefficient: heads with named expressions have weights from 0 to 1."""
    return EXPRESSION_DEVIATION if "jawOpen" in head.expression_names else 1.0
