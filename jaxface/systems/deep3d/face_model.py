"""The face model that Deep3D regresses: a Basel front face exactly as in its file, or any `MorphableHead`.

Heads are in millimetres; Deep3D works in decimetres with the origin at the mean vertex. Only this module converts. The
axes are those of heads: x image right, y up, z to the viewer.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import mesh
from jaxface.heads import sources, stand_ins
from jaxface.heads.bfm import FrontFace, read_front
from jaxface.heads.morphable import MorphableHead

MM_PER_DM = 100.0
# Ours. Standard deviation of an expression weight for heads whose weights run from 0 to 1 (ARKit-like blendshapes).
EXPRESSION_DEVIATION = 0.25
# The linear parts of the model: keys of `config.model` (numbers of modes) and fields of `FaceModel` (modes).
KINDS = ("identity", "expression", "albedo")
CROPS = ("tf", "pytorch")
# Regions of a head inside the face that the reflectance loss leaves out.
NOT_SKIN = ("lips", "mouth", "eyeball_L", "eyeball_R", "brows_L", "brows_R", "nostrils", "scalp", "ears", "neck")
# Regions of a head that the photometric loss compares.
CROP_REGIONS = ("face", "lips", "mouth", "eyeball_L", "eyeball_R", "lids", "socket", "nostrils")
# How the texture of a vertex is completed where the photo does not show it; see `rendering.texture_fill`. Regions of
# heads by code; every other vertex is skin.
INTERIOR, SKIN, SCALP, COVERED = range(4)
TEXTURE_REGIONS = {
    COVERED: ("neck", "shoulders"),
    SCALP: ("scalp",),
    INTERIOR: ("mouth", "teeth", "tongue", "eyeball_L", "eyeball_R", "socket", "nostrils", "transparent"),
}

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class SkinSurface:
    """The skin region as a separate mesh, for `networks.refine`.

    Attributes:
        vertices: (W,) int32 indices of face vertices. The first N are skin; the others complete the triangles that
            touch skin.
        triangles: (U,3) indices into `vertices`.
        incidence: (N,valence) triangles around each skin vertex; see `mesh.incidence`.
        area: (N,) area of the mean face that each skin vertex represents, in dm².
    """

    vertices: Array
    triangles: Array
    incidence: Array
    area: Array


@flax.struct.dataclass
class FaceModel:
    """A linear face model in decimetres; a pytree of arrays.

    V vertices, T triangles; I identity, E expression and A albedo modes, each per unit of its coefficient.

    Attributes:
        mean: (V,3), mean vertex at the origin.
        identity: (I,V,3).
        expression: (E,V,3).
        albedo_mean: (V,3) RGB, 1 = white.
        albedo: (A,V,3).
        triangles: (T,3).
        incidence: (V,valence) triangles around each vertex; see `mesh.incidence`.
        landmarks: 68 points as vertices (68,3) and their barycentric weights (68,3).
        skin: (V,) float, 1 where the reflectance loss applies.
        crop_triangles: (C,3) or None. If set, the photometric mask is these triangles rendered alone, without occlusion
            by the others.
        crop_triangle_mask: (T,) bool or None. If `crop_triangles` is None, the photometric mask is the pixels whose
            visible triangle is marked here.
        face_vertices: (N,) int, vertices of the face region, over which shapes are compared.
        texture_region: (V,) int8, INTERIOR, SKIN, SCALP or COVERED.
        skin_surface: the skin region as a mesh.
    """

    mean: Array
    identity: Array
    expression: Array
    albedo_mean: Array
    albedo: Array
    triangles: Array
    incidence: Array
    landmarks: tuple[Array, Array]
    skin: Array
    crop_triangles: Array | None
    crop_triangle_mask: Array | None
    face_vertices: Array
    texture_region: Array
    skin_surface: SkinSurface

    def shown_triangles(self) -> np.ndarray:
        """The triangles (T,) bool of the face without scalp, ears and neck; all of a Basel front face."""
        if self.crop_triangle_mask is None:
            return np.ones(len(self.triangles), bool)
        return np.asarray(self.crop_triangle_mask)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` whose coefficient counts of 0 are replaced by the configured head's numbers of modes."""
    resolved = config.copy_and_resolve_references()
    unset = [name for name in KINDS if not config.model[name]]
    if unset:
        head = sources.load_head(config.head.name, config.head.path)
        resolved.model.update({name: len(getattr(head, name)) for name in unset})
    return resolved


def from_config(config: ml_collections.ConfigDict) -> FaceModel:
    """The face model of a configuration, as numpy arrays. Raises UserError as `load_face_model`."""
    return load_face_model(*_arguments(config))


def on_device(config: ml_collections.ConfigDict) -> FaceModel | None:
    """The face model of a configuration on the default device, cached; None if its head needs a path and has none."""
    if config.head.name not in (sources.EMBEDDED, sources.RETIRED) and not config.head.path:
        return None
    return _on_device(*_arguments(config))


@functools.cache
def _on_device(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    # The first call may be inside a trace; the cache must hold arrays, not tracers.
    with jax.ensure_compile_time_eval():
        return jax.device_put(load_face_model(name, path, sizes, crop))


def _arguments(config: ml_collections.ConfigDict) -> tuple[str, str, tuple[int, ...], str]:
    sizes = tuple(config.model[name] for name in KINDS)
    return config.head.name, config.head.path, sizes, config.head.crop


def load_face_model(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    """The face model of a head, as numpy arrays, cached.

    Args:
        name: name of the head, `config.head.name`.
        path: its file; "" for an embedded head.
        sizes: numbers of identity, expression and albedo modes to keep.
        crop: "tf", or for Basel front faces also "pytorch"; see `from_front`.

    Raises:
        UserError: unknown head or crop, or the head has too few modes.
    """
    return _load(name, str(path), tuple(sizes), crop)


@functools.lru_cache(maxsize=2)
def _load(name: str, path: str, sizes: tuple[int, int, int], crop: str) -> FaceModel:
    if crop not in CROPS:
        raise UserError(f"config.head.crop is {crop!r}; use one of {', '.join(CROPS)}")
    is_front_face = name == "bfm" and path and not path.endswith(".h5")
    if crop == "pytorch" and not is_front_face:
        raise UserError("config.head.crop 'pytorch' is for Basel front faces (head bfm, .mat) only; use 'tf'")
    if is_front_face:
        face = from_front(stand_ins.front_face() if path == stand_ins.PATH else read_front(path), crop)
    else:
        face = from_head(sources.load_head(name, path))
    for field, count in zip(KINDS, sizes, strict=True):
        modes = getattr(face, field)
        if len(modes) < count:
            raise UserError(
                f"config.model.{field} is {count}, but head {name!r} has {len(modes)} such modes; set at most that"
            )
        face = face.replace(**{field: modes[:count]})
    return face


def from_front(front: FrontFace, crop: str = "tf") -> FaceModel:
    """The original's face model.

    crop: "tf", the front of the face, as Microsoft's TensorFlow code renders it. "pytorch": the PyTorch code uses the
    crop's triangle indices, which count the vertices of the front only, as indices of the whole face. This scrambles
    the region, but the released weights were trained with it.
    """
    return FaceModel(
        # np.mean in float32 along axis 0 sums naively; the official code does the same, and parity needs it.
        mean=front.mean - np.mean(front.mean, axis=0, keepdims=True),
        identity=front.identity,
        expression=front.expression,
        albedo_mean=front.albedo_mean / 255,
        albedo=front.albedo / 255,
        triangles=front.triangles,
        incidence=mesh.incidence(front.triangles, len(front.mean)),
        landmarks=(np.repeat(front.keypoints[:, None], 3, 1), np.tile(np.float32([1, 0, 0]), (68, 1))),
        skin=front.skin.astype(np.float32),
        crop_triangles=front.front[front.crop_triangles] if crop == "tf" else front.crop_triangles,
        crop_triangle_mask=None,
        face_vertices=np.arange(len(front.mean)),
        texture_region=np.full(len(front.mean), SKIN, np.int8),
        skin_surface=skin_surface_of(front.mean, front.triangles, front.skin > 0),
    )


def from_head(head: MorphableHead) -> FaceModel:
    """The face model of any head: its opaque triangles, the origin at the mean vertex of its face region."""
    triangles = head.opaque_triangles()
    regions = {name: np.asarray(region) for name, region in head.regions.items()}
    face = regions["face"]
    crop = np.any([regions[name] for name in CROP_REGIONS if name in regions], axis=0)
    skin = face & ~np.any([regions[name] for name in NOT_SKIN if name in regions], axis=0)
    mean = ((head.template - head.template[face].mean(0)) / MM_PER_DM).astype(np.float32)
    texture_region = np.full(len(face), SKIN, np.int8)
    for code, names in TEXTURE_REGIONS.items():
        for name in names:
            texture_region[regions.get(name, np.zeros_like(face))] = code
    return FaceModel(
        mean=mean,
        identity=np.float32(head.identity / MM_PER_DM),
        expression=np.float32(head.expression * (expression_scale(head) / MM_PER_DM)),
        albedo_mean=np.float32(head.albedo_mean),
        albedo=np.float32(head.albedo),
        triangles=triangles,
        incidence=mesh.incidence(triangles, len(head.template)),
        landmarks=head.landmarks["68"],
        skin=skin.astype(np.float32),
        crop_triangles=None,
        crop_triangle_mask=crop[triangles].all(axis=1),
        face_vertices=np.flatnonzero(face | regions["lips"]),
        texture_region=texture_region,
        skin_surface=skin_surface_of(mean, triangles, skin),
    )


def skin_surface_of(mean: np.ndarray, triangles: np.ndarray, skin: np.ndarray) -> SkinSurface:
    """The surface of the skin vertices, skin (V,) bool, of a mean face (V,3) dm with triangles (T,3)."""
    skin_vertices = np.flatnonzero(skin)
    touching = triangles[skin[triangles].any(1)]
    vertices = np.concatenate([skin_vertices, np.setdiff1d(touching, skin_vertices)])
    index_of = np.zeros(len(mean), np.int32)
    index_of[vertices] = np.arange(len(vertices))
    a, b, c = (mean[touching[:, corner]] for corner in range(3))
    third_of_area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    area = np.bincount(touching.ravel(), np.repeat(third_of_area, 3), len(mean))[skin_vertices]
    incidence = mesh.incidence(index_of[touching], len(vertices))[: len(skin_vertices)]
    return SkinSurface(vertices.astype(np.int32), index_of[touching], incidence, area.astype(np.float32))


def at_landmarks(face: FaceModel, vertices: Array) -> jax.Array:
    """The 68 landmarks (…,68,3) of vertices or modes (…,V,3), by barycentric interpolation."""
    index, weights = face.landmarks
    return (jnp.asarray(vertices)[..., index, :] * weights[..., None]).sum(-2)


def expression_scale(head: MorphableHead) -> float:
    """Expression weight per unit of its coefficient: EXPRESSION_DEVIATION for heads with blendshapes, else 1."""
    return EXPRESSION_DEVIATION if "jawOpen" in head.expression_names else 1.0
