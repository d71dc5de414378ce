"""A morphable head fitted to predicted points of its surface, weighted by their sigma: MAP estimate of shape and pose.

The camera is a pinhole with its principal point at the image centre. One photograph does not show the absolute size of
a head, which the prior on the identity decides, and hardly its focal length, which has a prior of its own.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jaxface.geometry import map_estimate
from jaxface.geometry.camera import HEAD_TO_CAMERA
from jaxface.heads.morphable import MorphableHead
from jaxface.meshes import Mesh
from jaxface.results import Camera

# Prior standard deviations: of identity modes, of blendshape weights, of the rotation vector (rad), of the position in
# the image (in sides of the image), of the logarithms of the scale and of the focal length.
IDENTITY_STD, EXPRESSION_STD, ROTATION_STD, POSITION_STD, SCALE_STD, FOCAL_STD = 1.0, 0.25, 3.0, 3.0, 1.0, 0.5
# Prior mean of the focal length, in longer sides of the image.
FOCAL = 1.5
# Gauss-Newton steps of the estimate, and of each further one, where blendshape weights that left [0,1] are held at the
# bound.
STEPS, HELD_STEPS, HELD_ROUNDS, HELD_STD = 8, 3, 3, 1e-3
# Errors of neighbouring points are alike: so many dense points of a network carry the information of one.
CORRELATED_POINTS = 12.0
POSE = 7


@flax.struct.dataclass
class _Modes:
    """Mean (K,3) and modes (M,K,3) of the observed vertices in mm, identity first."""

    mean: jax.Array
    modes: jax.Array


def fit_head(
    head: MorphableHead,
    vertices: np.ndarray,
    points: np.ndarray,
    sigma: np.ndarray,
    size: tuple[int, int],
    identity: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], Camera]:
    """The head whose vertices project to observed points.

    Args:
        head: with blendshapes of weights in [0,1] as expressions.
        vertices: (K,) indices of the observed vertices.
        points: (K,2) px.
        sigma: (K,) px, standard deviation of independent errors; for dense points of a network see `correlated`.
        size: height and width of the image.
        identity: (I,) known coefficients, which are kept; None estimates them.

    Returns:
        Coefficients {"identity": (I,), "expression": (E,)} float32, and the camera.
    """
    side = float(max(size))
    center = (np.array(size[::-1], np.float64) - 1) / 2
    chosen = np.concatenate([np.asarray(head.identity), np.asarray(head.expression)])[:, vertices]
    modes = _Modes(jnp.asarray(np.asarray(head.template)[vertices]), jnp.asarray(chosen))
    mean, std = _prior(head, np.asarray(modes.mean), (points - center) / side, sigma / side)
    count = len(head.identity_names)
    if identity is not None:
        mean[:count], std[:count] = identity, HELD_STD
    expression = slice(count, count + len(head.expression_names))
    observed = (points - center) / side, sigma / side
    estimate = _refined(modes, mean, std, *observed, mean, STEPS)
    for _ in range(HELD_ROUNDS):
        weights = estimate[expression]
        outside = (weights < 0) | (weights > 1)
        if not outside.any():
            break
        mean[expression] = np.where(outside, np.clip(weights, 0, 1), mean[expression])
        std[expression] = np.where(outside, HELD_STD, std[expression])
        estimate = _refined(modes, mean, std, *observed, estimate, HELD_STEPS)
    coefficients = {"identity": estimate[:count], "expression": np.clip(estimate[expression], 0, 1)}
    values = {name: value.astype(np.float32) for name, value in coefficients.items()}
    return values, _camera(estimate[-POSE:], center, side)


def correlated(sigma: np.ndarray) -> np.ndarray:
    """The sigma (K,) px with which `fit_head` weighs dense points of a network, whose errors are not independent."""
    return sigma * np.sqrt(CORRELATED_POINTS)


def _prior(
    head: MorphableHead, vertices: np.ndarray, points: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (I+E+7,) of the prior; the pose starts from the weak perspective of the mean head.

    `vertices` (K,3) mm, `points` (K,2) and `sigma` (K,) in sides of the image.
    """
    flip = np.array(HEAD_TO_CAMERA)
    weight = 1 / np.maximum(sigma, 1e-9)[:, None]
    design = np.concatenate([vertices * flip, np.ones((len(vertices), 1))], axis=1)
    solution = np.linalg.lstsq(weight * design, weight * points, rcond=None)[0]
    # The closest rotation in camera axes, by the polar decomposition, then in head axes.
    u, singular, vt = np.linalg.svd(solution[:3].T, full_matrices=False)
    first, second = u @ vt
    rotation = np.stack([first, second, np.cross(first, second)]) * flip * flip[:, None]
    vector = np.asarray(jaxlie.SO3.from_matrix(jnp.asarray(rotation)).log(), np.float64)
    pose = np.concatenate([vector, solution[3], [np.log(max(singular.mean(), 1e-9)), np.log(FOCAL)]])
    pose_std = [ROTATION_STD] * 3 + [POSITION_STD] * 2 + [SCALE_STD, FOCAL_STD]
    identity, expression = len(head.identity_names), len(head.expression_names)
    mean = np.concatenate([np.zeros(identity + expression), pose])
    std = np.concatenate([np.full(identity, IDENTITY_STD), np.full(expression, EXPRESSION_STD), pose_std])
    return mean, std


def _project(pose: jax.Array, point: jax.Array) -> jax.Array:
    """A vertex (3,) mm under a pose (7,), in sides of the image from its centre: the `Projection` of the estimate.

    The pose is the rotation vector, the position of the head's origin in the image, and the logarithms of the scale at
    its depth (sides per mm) and of the focal length (sides), which are nearly independent.
    """
    scale, focal = jnp.exp(pose[5]), jnp.exp(pose[6])
    x, y, z = jaxlie.SO3.exp(pose[:3]).as_matrix() @ point
    depth = jnp.maximum(focal / scale - z, 1.0)
    return focal * jnp.stack([x, -y]) / depth + pose[3:5] * focal / scale / depth


def _refined(
    modes: _Modes,
    mean: np.ndarray,
    std: np.ndarray,
    points: np.ndarray,
    sigma: np.ndarray,
    start: np.ndarray,
    steps: int,
) -> np.ndarray:
    """The unknowns (I+E+7,) after Gauss-Newton steps from `start`, for a prior with a mean and standard deviations."""
    whitening = np.eye(2) / sigma[:, None, None]
    observation = map_estimate.Observation(*(np.float32(one) for one in (mean, 1 / std, points, whitening)))
    estimate = np.float32(start)
    for _ in range(steps):
        estimate = _step(modes, observation, estimate)
    return np.array(estimate, np.float64)


@jax.jit
def _step(modes: _Modes, observation: map_estimate.Observation, estimate: jax.Array) -> jax.Array:
    equations = map_estimate.normal_equations(_project, modes.mean, modes.modes, observation, estimate)
    return estimate - map_estimate.solve(*equations)


def _camera(pose: np.ndarray, center: np.ndarray, side: float) -> Camera:
    """The camera of a pose (7,) of `_project`."""
    focal, depth = np.exp(pose[6]), np.exp(pose[6] - pose[5])
    translation = np.array([*(pose[3:5] * depth / focal), depth])
    rotation = np.asarray(jaxlie.SO3.exp(jnp.asarray(pose[:3])).as_matrix(), np.float64)
    return Camera(np.full(2, focal * side), center, rotation, translation)


def head_mesh(head: MorphableHead, coefficients: Mapping[str, np.ndarray]) -> Mesh:
    """The mesh in mm of coefficients, before posing, with the mean albedo as vertex colours."""
    vertices = np.asarray(head.shape(coefficients["identity"], coefficients["expression"]), np.float32)
    return Mesh(vertices, head.opaque_triangles(), colors=np.clip(np.asarray(head.albedo_mean, np.float32), 0, 1))
