"""Lashes along the lid margins of a posed head, and the shade that lid and lashes cast on the eye.

In a photograph of a face single lashes are not resolved: they are a dark line on both sides of the margin, by which
annotators, and networks, find the upper lid. It is drawn at every pixel by the distance of the surface point to the
margin, so that it follows the lids when they close.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads import bands, skin
from jaxface.heads.capture import Scene

# Points of the layout 68 along the upper and lower margins of both eyes, from the inner corner outwards.
UPPER = np.array([[39, 38, 37, 36], [42, 43, 44, 45]])
LOWER = np.array([[39, 40, 41, 36], [42, 47, 46, 45]])
# Weights (5,4) of a cubic through four points in equal steps, at five places from end to end.
CUBIC = np.linalg.solve(np.vander(np.linspace(0, 1, 4)).T, np.vander(np.linspace(0, 1, 5), 4).T).T
# Share of people with made-up eyes, whose lashes are darker and thicker.
MAKEUP_SHARE = 0.25
# Lashes start at this distance from the inner corner.
CARUNCLE_MM = 4.0
# Lashes end nearer to the eye's landmarks than this.
REACH_MM = 6.0


class Lashes(NamedTuple):
    """Opacity `cover` (S,S) and sRGB `color` (3,) of lashes; `shade` (S,S), the share by which an eye is darker."""

    cover: jax.Array
    color: jax.Array
    shade: jax.Array


def lashes(scene: Scene, landmarks: jax.Array, points: jax.Array, eyes: jax.Array) -> Lashes:
    """Lashes around the eyes.

    Args:
        scene: the scene.
        landmarks: (68,3) mm, of the posed head.
        points: (S,S,3) mm, the surface points of the pixels, in the same frame.
        eyes: (S,S), mask of the eyeballs, which are shaded.
    """
    near = bands.within(points, landmarks[36:48], REACH_MM) | (eyes > 0)
    nothing = jnp.zeros(eyes.shape)
    drawn = bands.where_any(near, lambda _: _drawn(scene, landmarks, points), (nothing, nothing))
    return Lashes(drawn[0], 0.4 * jnp.minimum(scene.hair, 0.5) + 0.01, drawn[1] * eyes)


def _drawn(scene: Scene, landmarks: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(opacity of lashes, shade of the upper lid), both (S,S), at `points`; arguments as of `lashes`."""
    drawn = jax.random.uniform(jax.random.fold_in(scene.person_key, 3), (5,))
    made_up = drawn[0] < MAKEUP_SHARE
    thickness = 0.4 + 0.9 * drawn[1] + 0.8 * made_up * drawn[2]
    strength = jnp.where(made_up, 0.95, 0.45 + 0.5 * drawn[3])
    upper, from_corner = _nearest(points, landmarks[UPPER])
    lower, _ = _nearest(points, landmarks[LOWER])
    grown = skin.smoothstep(from_corner, 0.0, CARUNCLE_MM)
    line = grown * skin.smoothstep(upper, thickness + 0.7, thickness - 0.4)
    thin = 0.5 * drawn[4] * skin.smoothstep(lower, 0.6 * thickness + 0.6, 0.6 * thickness - 0.4)
    visible = 1.0 - scene.fade[1]
    cover = visible * strength * jnp.maximum(line, thin)
    return cover, visible * 0.6 * jnp.exp(-jnp.maximum(upper - 0.5, 0.0) / 2.0)


def _nearest(points: jax.Array, margins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distances (S,S) mm of points (S,S,3) to the nearer of two margins (2,4,3), and how far along it that is."""
    curves = jnp.asarray(CUBIC, jnp.float32) @ margins
    (distance, _, along), (other, _, other_along) = (skin.to_polyline(points, curve) for curve in curves)
    return jnp.minimum(distance, other), jnp.where(distance < other, along, other_along)
