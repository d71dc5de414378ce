"""Photometric refinement (ours): fits the coefficients to the colours of the image, starting from the network's.

Analysis by synthesis (Blanz & Vetter, SIGGRAPH 1999), solved by Gauss-Newton as in Face2Face (Thies et al., CVPR 2016).
Each skin vertex, coloured by its albedo and the lighting, is compared with the image where it is visible. Nothing is
learned, and R-Net trains without it: it runs at inference, in evaluations and while a C-Net trains.

The landmarks and the prior of the regressor "map_fit" stay in the objective, so that parameters which the
photometric term does not constrain keep the network's prediction.
"""

import dataclasses
import functools
from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxface.geometry import map_estimate, mesh
from jaxface.geometry.map_estimate import Observation
from jaxface.systems.deep3d.face_model import FaceModel, SkinSurface
from jaxface.systems.deep3d.networks import light_prior, map_fit
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import BANDS, Sizes

# Scale of the Geman-McClure weights, in medians of the image's colour residuals, and its lower bound: shadows, beards
# and glasses are outliers of the model.
ROBUST_SCALE, MIN_SCALE = 1.5, 0.005
# Albedo and lighting are fitted alone before everything is, because colours constrain the shape only once they match.
# Factors of the robust scale in these steps (annealing).
COLOR_STEP_SCALES = (5.0, 3.0, 1.0)
# Steps of albedo and lighting alone at the end, with the prior on lighting: it does not affect the shape.
FINAL_COLOR_STEPS = 6
# Effective number of independent samples per dm² of skin: residuals of neighbouring vertices are correlated.
EFFECTIVE_SAMPLES = 500.0
# Vertices whose normal has a smaller cosine with the camera's axis have weight 0.
MIN_COSINE = 0.2
# Precision (1 / standard deviation) of albedo and lighting about the network's prediction, and of the log exponent of
# the tone curve about 0. The tone curve models the camera's and is not part of the result.
ALBEDO_PRECISION, LIGHT_PRECISION, TONE_PRECISION = 1.0, 0.3, 5.0
# Number of pose parameters: angles and translation.
POSE = 6
# Lower bound of a colour before the tone curve, which has an infinite gradient at 0.
MIN_COLOR = 1e-3
# Order of the unknowns: shape and pose, which `map_fit` also estimates, then colours. The tone curve comes last.
ORDER = ("identity", "expression", "angles", "translation", "albedo", "light")
EVERYTHING = slice(None)


@flax.struct.dataclass
class _Skin:
    """The skin surface of a face model with its modes: N skin vertices, W with their neighbours, M shape modes.

    Attributes:
        surface: the mesh.
        mean: (W,3) mean shape.
        modes: (M,W,3) identity and expression modes.
        normal_modes: (M,N,3) derivative of the unit normals with respect to each mode, at the mean shape.
        albedo_mean: (N,3).
        albedo: (A,N,3).
    """

    surface: SkinSurface
    mean: jax.Array
    modes: jax.Array
    normal_modes: jax.Array
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
    """Coefficients that explain the images better than the network's prediction.

    Args:
        face: the face model.
        sizes: number of coefficients of each kind.
        points: `map_fit.points_model`, mean and modes of landmarks and dense points.
        image: (B,S,S,3), RGB in [0,1].
        vector: (B,sizes.total) the network's prediction.
        observation: landmarks and prior of B faces, as `map_fit` sows them.
        steps: number of Gauss-Newton steps over all unknowns.

    Returns:
        Coefficients (B,sizes.total). A face whose result is not finite keeps its prediction.
    """
    with jax.default_matmul_precision("highest"):
        refine_one = functools.partial(_refine_one, _skin(face), sizes, points, steps)
        return jax.vmap(refine_one)(image, vector, observation)


def _skin(face: FaceModel) -> _Skin:
    surface = face.skin_surface
    vertices = jnp.asarray(surface.vertices)
    mean = jnp.asarray(face.mean)[vertices]
    modes = jnp.concatenate([jnp.asarray(part)[:, vertices] for part in (face.identity, face.expression)])
    # The normals' derivative is taken at the mean face: it changes little, and this way it is computed only once.
    _, normal_derivative = jax.linearize(functools.partial(_normals, surface), mean)
    skin_vertices = vertices[: len(surface.area)]
    albedo_mean, albedo = jnp.asarray(face.albedo_mean)[skin_vertices], jnp.asarray(face.albedo)[:, skin_vertices]
    return _Skin(surface, mean, modes, jax.vmap(normal_derivative)(modes), albedo_mean, albedo)


def _normals(surface: SkinSurface, shape: jax.Array) -> jax.Array:
    """Unit normals (N,3) of a shape (W,3)."""
    return mesh.vertex_normals(shape, surface.triangles, surface.incidence)


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The least-squares problem of one face: colours, landmarks and priors.

    Attributes:
        skin: the skin surface.
        points: mean and modes of landmarks and dense points.
        channels: (3,S,S) the image.
        observation: landmarks, and the prior of shape and pose.
        prior_mean: (n,) of all unknowns.
        prior_precision: (n,) 1 / standard deviation; 0 for shape and pose, whose prior is in `observation`.
    """

    skin: _Skin
    points: dict[str, jax.Array]
    channels: jax.Array
    observation: Observation
    prior_mean: jax.Array
    prior_precision: jax.Array

    def step(
        self, free: slice, unknowns: jax.Array, scale: jax.Array | float = 1.0, with_light_prior: bool = False
    ) -> jax.Array:
        """The unknowns (n,) after a Gauss-Newton step of those in `free`; `scale` multiplies the robust scale."""
        jacobian, residual, weight = _color_equations(self.skin, self.channels, unknowns, scale)
        jacobian = jacobian[..., free].reshape(residual.size, -1)
        weighted = jnp.repeat(weight, 3)[:, None] * jacobian
        matrix = weighted.T @ jacobian + jnp.diag(self.prior_precision[free] ** 2)
        prior_gradient = self.prior_precision**2 * (unknowns - self.prior_mean)
        gradient = weighted.T @ residual.ravel() + prior_gradient[free]
        if free == EVERYTHING:
            matrix, gradient = self._add_landmarks(matrix, gradient, unknowns)
        if with_light_prior:
            matrix, gradient = self._add_light_prior(matrix, gradient, unknowns, weight)
        return unknowns.at[free].add(-map_estimate.solve(matrix, gradient))

    def _add_landmarks(
        self, matrix: jax.Array, gradient: jax.Array, unknowns: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the normal equations of `map_fit`, which are those of shape and pose."""
        geometry = len(self.observation.prior_mean)
        model = map_fit.project, self.points["mean"], self.points["modes"]
        added = map_estimate.normal_equations(*model, self.observation, unknowns[:geometry])
        return matrix.at[:geometry, :geometry].add(added[0]), gradient.at[:geometry].add(added[1])

    def _add_light_prior(
        self, matrix: jax.Array, gradient: jax.Array, unknowns: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Adds `light_prior` to the equations of albedo and lighting; weights (N,) of the skin's colours."""
        geometry = len(self.observation.prior_mean)
        light = slice(len(self.skin.albedo), len(gradient))
        added = light_prior.normal_equations(unknowns[geometry:][light], weight.sum())
        return matrix.at[light, light].add(added[0]), gradient.at[light].add(added[1])


def _refine_one(
    skin: _Skin,
    sizes: Sizes,
    points: dict[str, jax.Array],
    steps: int,
    image: jax.Array,
    vector: jax.Array,
    observation: Observation,
) -> jax.Array:
    """`refine` of one face: image (S,S,3), vector (sizes.total,), observation without a batch axis."""
    start = _to_unknowns(vector, sizes)
    geometry = len(observation.prior_mean)
    counts = np.array([geometry, sizes.albedo, sizes.groups["light"], 1])
    precision = jnp.repeat(jnp.array([0.0, ALBEDO_PRECISION, LIGHT_PRECISION, TONE_PRECISION]), counts)
    objective = _Objective(skin, points, jnp.moveaxis(image, -1, 0), observation, start, precision)
    colors = slice(geometry, -1)
    scales = jnp.array(COLOR_STEP_SCALES)
    unknowns = jax.lax.fori_loop(0, len(scales), lambda i, x: objective.step(colors, x, scales[i]), start)
    unknowns = jax.lax.fori_loop(0, steps, lambda _, x: objective.step(EVERYTHING, x), unknowns)
    # The result has no tone curve: albedo and lighting take over what it explained.
    unknowns = unknowns.at[-1].set(0.0)
    final_step = functools.partial(objective.step, colors, with_light_prior=True)
    unknowns = jax.lax.fori_loop(0, FINAL_COLOR_STEPS, lambda _, x: final_step(x), unknowns)
    refined = _to_vector(unknowns, sizes)
    return jnp.where(jnp.isfinite(refined).all(), refined, vector)


def _to_unknowns(vector: jax.Array, sizes: Sizes) -> jax.Array:
    """The unknowns (n,), in ORDER with the tone curve 0 at the end, of a coefficient vector (sizes.total,)."""
    parts = sizes.split(vector)
    return jnp.concatenate([*(parts[name] for name in ORDER), jnp.zeros(1)])


def _to_vector(unknowns: jax.Array, sizes: Sizes) -> jax.Array:
    """The coefficient vector (sizes.total,) of the unknowns (n,); the inverse of `_to_unknowns`."""
    ends = _ends(sizes.groups[name] for name in ORDER)
    parts = dict(zip([*ORDER, "tone"], jnp.split(unknowns, ends), strict=True))
    return jnp.concatenate([parts[name] for name in sizes.groups])


def _ends(counts: Iterable[int]) -> np.ndarray:
    """End indices (n,) of consecutive parts of lengths `counts`."""
    return np.cumsum([*counts])


def _color_equations(
    skin: _Skin, channels: jax.Array, unknowns: jax.Array, scale: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The linearised photometric term: residuals of the skin's colours, their Jacobian and robust weights.

    Args:
        skin: the skin surface.
        channels: (3,S,S) the image.
        unknowns: (n,) in the order of ORDER and the tone curve.
        scale: factor of the robust scale.

    Returns:
        jacobian (N,3,n), residual (N,3) = predicted - observed, weights (N,) of N skin vertices.
    """
    modes, count = len(skin.modes), len(skin.surface.area)
    shape_coefficients, pose, albedo_coefficients, light = jnp.split(unknowns, _ends((modes, POSE, len(skin.albedo))))
    shape = skin.mean + jnp.tensordot(shape_coefficients, skin.modes, 1)
    albedo = skin.albedo_mean + jnp.tensordot(albedo_coefficients, skin.albedo, 1)
    arguments = _normals(skin.surface, shape), shape[:count], albedo, pose, light
    residual_of, axes = functools.partial(_residual, channels), (0, 0, 0, None, None)
    residual, visible = jax.vmap(residual_of, axes)(*arguments)
    derivative = jax.jacfwd(lambda *arguments: residual_of(*arguments)[0], (0, 1, 2, 3, 4))
    by_normal, by_point, by_albedo, by_pose, by_light = jax.vmap(derivative, axes)(*arguments)
    # Chain rule: from normals, positions and albedo of each vertex to the coefficients of the modes.
    by_shape_coefficients = jnp.einsum("nck,mnk->ncm", by_normal, skin.normal_modes)
    by_shape_coefficients += jnp.einsum("nck,mnk->ncm", by_point, skin.modes[:, :count])
    by_albedo_coefficients = jnp.einsum("nck,mnk->ncm", by_albedo, skin.albedo)
    jacobian = jnp.concatenate([by_shape_coefficients, by_pose, by_albedo_coefficients, by_light], -1)
    return jacobian, residual, _robust_weights(residual, visible, skin.surface.area, scale)


def _robust_weights(residual: jax.Array, visible: jax.Array, area: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Geman-McClure weights (N,) of colour residuals (N,3), for vertices of visible (N,) and area (N,) dm²."""
    distance = jnp.sqrt((residual**2).sum(-1))
    median = jnp.nanmedian(jnp.where(visible > 0, distance, jnp.nan))
    width = scale * jnp.maximum(ROBUST_SCALE * median, MIN_SCALE)
    weight = EFFECTIVE_SAMPLES * area * visible / (width**2 + distance**2)
    return jnp.where(visible > 0, weight, 0.0)


def _residual(
    channels: jax.Array, normal: jax.Array, point: jax.Array, albedo: jax.Array, pose: jax.Array, light: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Colour residual of a vertex: its predicted colour minus that of the image where it projects.

    Args:
        channels: (3,S,S) the image.
        normal: (3,) before posing.
        point: (3,) dm, before posing.
        albedo: (3,).
        pose: (6,) angles and translation.
        light: (28,) or, for white light, (10,): lighting coefficients and the log exponent of the tone curve.

    Returns:
        The residual (3,), and the cosine () between normal and camera axis, 0 if the vertex is not visible.
    """
    rotated_normal = image_formation.rotation(pose[None, :3])[0] @ normal
    light, tone = jnp.broadcast_to(light[:-1].reshape(-1, BANDS), (3, BANDS)), light[-1]
    color = image_formation.shade(albedo[None, None], rotated_normal[None, None], light[None])[0, 0]
    # Colours saturate as those of the image do.
    color = jnp.clip(color, MIN_COLOR, 1.0) ** jnp.exp(tone)
    x, y = image_formation.to_pixels(image_formation.to_camera(map_fit.apply_pose(pose, point)), channels.shape[-1])
    observed = jax.vmap(lambda channel: map_coordinates(channel, [y, x], order=1, mode="nearest"))(channels)
    inside = (jnp.minimum(x, y) >= 0) & (jnp.maximum(x, y) <= channels.shape[-1] - 1)
    cosine = rotated_normal[2]
    return color - observed, jnp.where(inside & (cosine > MIN_COSINE), cosine, 0.0)
