"""A synthetic FLAME file: skin is a sphere with a relief at the landmarks, eyes are small spheres, modes are smooth."""

import functools

import numpy as np
import scipy.spatial

from jaxface.heads import flame, head_space
from jaxface.heads.makehuman.head import makehuman_head

EXPRESSIONS = 3
RADIUS_M = 0.08


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """The file's arrays, metres: FLAME's sizes and vertex numbers, mirror-symmetric but for its modes."""
    rng = np.random.default_rng(0)
    skin, triangles = _skin(rng)
    eyeball = rng.standard_normal((flame.EYEBALL, 3))
    eyeball = 0.012 * eyeball / np.linalg.norm(eyeball, axis=1, keepdims=True) + [0.028, 0.0145, 0.031]
    template = np.concatenate([skin, eyeball, eyeball * [-1, 1, 1]])
    weights = np.zeros((flame.VERTICES, 5))
    weights[: flame.SKIN, flame.JAW] = skin[:, 1] < -0.03
    weights[:, 0] = 1 - weights.sum(1)
    regressor = np.zeros((5, flame.VERTICES))
    regressor[flame.JAW, : flame.SKIN] = 1 / flame.SKIN
    return {
        "v_template": template,
        "shapedirs": _modes(template, flame.SHAPES + EXPRESSIONS, rng).astype(np.float16),
        "posedirs": 1e-4 * rng.standard_normal((flame.VERTICES, 3, 36)).astype(np.float32),
        "weights": weights,
        "J_regressor": regressor,
        "f": triangles.astype(np.uint32),
    }


def _skin(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (3931,3), the landmarks at their numbers and in their places, and the ball's triangles."""
    head = makehuman_head()
    marks = head_space.to_units(head.landmark_points(np.asarray(head.template), "68")) / 4
    directions = np.zeros((flame.SKIN, 3))
    directions[list(flame.LANDMARKS_68)] = marks
    rest = np.setdiff1d(np.arange(flame.SKIN), flame.LANDMARKS_68)
    half = rng.standard_normal((len(rest) // 2, 3))
    directions[rest] = np.concatenate([half, half * [-1, 1, 1], [[0.0, 1.0, 0.0]]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    near = np.exp(-(scipy.spatial.distance.cdist(directions, directions[list(flame.LANDMARKS_68)]) ** 2) / 0.02)
    radius = (near @ np.linalg.norm(marks, axis=1) + RADIUS_M) / (near.sum(1) + 1)
    hull = scipy.spatial.ConvexHull(directions)
    corners = directions[hull.simplices]
    inwards = (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) * corners[:, 0]).sum(1) < 0
    return directions * radius[:, None], np.where(inwards[:, None], hull.simplices[:, ::-1], hull.simplices)


def _modes(template: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Plane waves (V,3,count) of a few centimetres and up, weaker and weaker."""
    phase = template @ rng.normal(0, 25, (3, count)) + rng.uniform(0, 2 * np.pi, count)
    return np.cos(phase)[:, None] * rng.normal(0, 0.002, (3, count)) / (1 + np.arange(count) % flame.SHAPES / 10)
