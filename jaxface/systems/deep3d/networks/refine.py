"""A second look, ours: the face is moved until its skin has the colours that the photograph shows. For inference only.

Analysis by synthesis (Blanz & Vetter, SIGGRAPH 1999), solved by Gauss-Newton as in Face2Face (Thies et al., CVPR 2016):
each vertex of the skin, coloured by its albedo and the light, is compared with the picture where it is seen. Nothing is
learned for it; what the reader found and believed stays as observation, so that what no colour tells keeps its answer.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxface.geometry import map_estimate, mesh
from jaxface.geometry.map_estimate import Observation
from jaxface.systems.deep3d.face_model import FaceModel, Surface
from jaxface.systems.deep3d.networks import map_fit
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import BANDS, Sizes

# Colours that are off by more than WIDTH medians of the picture count less and less: shadows, beards and glasses are
# none of the model's. That width never falls below FINEST.
WIDTH, FINEST = 1.5, 0.005
# Before and after everything moves, albedo and light move alone: until they fit, colours say nothing about places. At
# first the width is a multiple of the usual one.
FIRST_WIDTHS, LAST_STEPS = (5.0, 3.0, 1.0), 3
# How many independent looks a square decimetre of skin is worth: neighbouring vertices err together.
LOOKS = 500.0
# Skin that is seen at a smaller cosine does not count.
EDGE = 0.2
# Precision of the coefficients of albedo and light about the network's answer, and of the logarithm of the power that
# stands for the camera's tone curve, which is no part of the answer.
ALBEDO, LIGHT, CURVE = 1.0, 0.3, 5.0
POSE, BLACK = 6, 1e-3
# The unknowns: shape and pose, albedo and light, and the curve.
ORDER = ("identity", "expression", "angles", "translation", "albedo", "light")


@flax.struct.dataclass
class _Skin:
    """N vertices and those around them, W: mean (W,3) and modes (M,W,3) of the shape, turns (M,N,3) of the normals,
    albedo_mean (N,3), albedo (A,N,3)."""

    surface: Surface
    mean: jax.Array
    modes: jax.Array
    turns: jax.Array
    albedo_mean: jax.Array
    albedo: jax.Array


def refine(
    face: FaceModel,
    sizes: Sizes,
    points: dict[str, jax.Array],
    image: jax.Array,
    vector: jax.Array,
    observation: Observation,
    steps: int,
) -> jax.Array:
    """Coefficients (B,sizes.total) that explain pictures (B,S,S,3) better than `vector` (B,sizes.total) does.

    points: `map_fit.points_model`; observation: of B faces, as `map_fit.Fit` sows it; steps: number of Gauss-Newton
    steps. A face whose answer would not be finite stays as it was.
    """
    with jax.default_matmul_precision("highest"):
        one = functools.partial(_refine_one, _skin(face), sizes, points, steps)
        return jax.vmap(one)(image, vector, observation)


def _skin(face: FaceModel) -> _Skin:
    surface, around = face.surface, jnp.asarray(face.surface.vertices)
    mean = jnp.asarray(face.mean)[around]
    modes = jnp.concatenate([jnp.asarray(part)[:, around] for part in (face.identity, face.expression)])
    # How normals turn with each mode is taken from the mean face: nearly the same, and once for all pictures.
    _, turn = jax.linearize(functools.partial(_normals, surface), mean)
    own = around[: len(surface.area)]
    albedo = jnp.asarray(face.albedo_mean)[own], jnp.asarray(face.albedo)[:, own]
    return _Skin(surface, mean, modes, jax.vmap(turn)(modes), *albedo)


def _normals(surface: Surface, shape: jax.Array) -> jax.Array:
    """Unit normals (N,3) of a shape (W,3)."""
    return mesh.vertex_normals(shape, surface.triangles, surface.around)


def _refine_one(
    skin: _Skin,
    sizes: Sizes,
    points: dict[str, jax.Array],
    steps: int,
    image: jax.Array,
    vector: jax.Array,
    observation: Observation,
) -> jax.Array:
    ends = np.cumsum([*sizes.groups.values()])
    parts = dict(zip(sizes.groups, jnp.split(vector, ends[:-1]), strict=True))
    start = jnp.concatenate([*(parts[name] for name in ORDER), jnp.zeros(1)])
    face = len(observation.prior_mean)
    counts = np.array([face, sizes.albedo, len(parts["light"]), 1])
    # What is believed of the face comes with the points.
    precision = jnp.repeat(jnp.array([0.0, ALBEDO, LIGHT, CURVE]), counts)
    channels = jnp.moveaxis(image, -1, 0)

    def step(moving: slice, unknowns: jax.Array, wider: jax.Array | float = 1.0) -> jax.Array:
        jacobian, off, trust = _colors(skin, channels, unknowns, wider)
        jacobian = jacobian[..., moving].reshape(off.size, -1)
        weighed = jnp.repeat(trust, 3)[:, None] * jacobian
        matrix = weighed.T @ jacobian + jnp.diag(precision[moving] ** 2)
        slope = weighed.T @ off.ravel() + (precision**2 * (unknowns - start))[moving]
        if moving.start is None:
            model = map_fit.place, points["mean"], points["modes"]
            by_points = map_estimate.normal_equations(*model, observation, unknowns[:face])
            matrix, slope = matrix.at[:face, :face].add(by_points[0]), slope.at[:face].add(by_points[1])
        return unknowns.at[moving].add(-map_estimate.solve(matrix, slope))

    everything, colors = slice(None), slice(face, -1)
    widths = jnp.array(FIRST_WIDTHS)
    found = jax.lax.fori_loop(0, len(widths), lambda i, x: step(colors, x, widths[i]), start)
    found = jax.lax.fori_loop(0, steps, lambda _, x: step(everything, x), found).at[-1].set(0.0)
    found = jax.lax.fori_loop(0, LAST_STEPS, lambda _, x: step(colors, x), found)
    ends = np.cumsum([len(parts[name]) for name in ORDER])
    found = dict(zip([*ORDER, "curve"], jnp.split(found, ends), strict=True))
    refined = jnp.concatenate([found[name] for name in parts])
    return jnp.where(jnp.isfinite(refined).all(), refined, vector)


def _colors(
    skin: _Skin, channels: jax.Array, unknowns: jax.Array, wider: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far the skin's colours (N,3) are off those of the picture `channels` (3,S,S), the slopes (N,3,n) of that by
    the unknowns (n,), which come first, and how much each vertex (N,) is trusted."""
    modes, count = len(skin.modes), len(skin.surface.area)
    ends = np.cumsum([modes, POSE, len(skin.albedo)])
    weights, pose, tint, light = jnp.split(unknowns, ends)
    shape = skin.mean + jnp.tensordot(weights, skin.modes, 1)
    albedo = skin.albedo_mean + jnp.tensordot(tint, skin.albedo, 1)
    at = _normals(skin.surface, shape), shape[:count], albedo, pose, light
    difference, axes = functools.partial(_difference, channels), (0, 0, 0, None, None)
    off, seen = jax.vmap(difference, axes)(*at)
    slopes = jax.vmap(jax.jacfwd(lambda *at: difference(*at)[0], (0, 1, 2, 3, 4)), axes)(*at)
    by_normal, by_point, by_albedo, by_pose, by_light = slopes
    by_weights = jnp.einsum("nck,mnk->ncm", by_normal, skin.turns)
    by_weights += jnp.einsum("nck,mnk->ncm", by_point, skin.modes[:, :count])
    by_tint = jnp.einsum("nck,mnk->ncm", by_albedo, skin.albedo)
    distance = jnp.sqrt((off**2).sum(-1))
    median = jnp.nanmedian(jnp.where(seen > 0, distance, jnp.nan))
    width = wider * jnp.maximum(WIDTH * median, FINEST)
    trust = jnp.where(seen > 0, LOOKS * skin.surface.area * seen / (width**2 + distance**2), 0.0)
    return jnp.concatenate([by_weights, by_pose, by_tint, by_light], -1), off, trust


def _difference(
    channels: jax.Array, normal: jax.Array, point: jax.Array, albedo: jax.Array, pose: jax.Array, light: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How much lighter (3,) a vertex is than the picture (3,S,S) where it is seen, and how directly () it is seen.

    normal (3,), point (3,) dm and albedo (3,) of the face at rest, pose (6,), light and curve (28,) or (10,).
    """
    turned = image_formation.rotation(pose[None, :3])[0] @ normal
    light, curve = jnp.broadcast_to(light[:-1].reshape(-1, BANDS), (3, BANDS)), light[-1]
    color = image_formation.shade(albedo[None, None], turned[None, None], light[None])[0, 0]
    # The picture is black or white where the light is too weak or too strong for it.
    color = jnp.clip(color, BLACK, 1.0) ** jnp.exp(curve)
    x, y = image_formation.to_pixels(image_formation.to_camera(map_fit.posed(pose, point)), channels.shape[-1])
    shown = jax.vmap(lambda channel: map_coordinates(channel, [y, x], order=1, mode="nearest"))(channels)
    inside = (jnp.minimum(x, y) >= 0) & (jnp.maximum(x, y) <= channels.shape[-1] - 1)
    return color - shown, jnp.where(inside & (turned[2] > EDGE), turned[2], 0.0)
