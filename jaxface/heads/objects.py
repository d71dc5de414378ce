"""Hands, microphones and headphones of a rendered head: capsules (segments swept by a sphere), ray cast per pixel.

Lengths are mm in the head frame: x to the subject's left, y up, z out of the face. Images are (S,S), S pixels per side.
"""

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jaxface.geometry import camera
from jaxface.heads import clothes, hair
from jaxface.heads.accessories import View
from jaxface.heads.capture import Scene
from jaxface.heads.paint import SKIN

# Capsules of every object; those that it does not need have no radius.
CAPSULES = 16
# Relative frequencies of hand, microphone and headphones.
FREQUENCIES = np.array([0.5, 0.2, 0.3])
# A left hand with its back in front, fingers up, from the knuckles: x of the fingers, their lengths, radius.
FINGERS_MM = np.array([-27.0, -9.0, 9.0, 27.0])
FINGER_LENGTHS_MM, FINGER_RADIUS_MM = np.array([70.0, 78.0, 72.0, 56.0]), 8.0
PALM_MM, PALM_RADIUS_MM, FOREARM_MM, FOREARM_RADIUS_MM = 78.0, 12.0, 200.0, 27.0
THUMB_MM, THUMB_RADIUS_MM = np.array([[-27.0, -55.0], [-50.0, -22.0], [-54.0, 6.0]]), 9.5
# Landmarks of layout 68 that a hand may touch: chin, jaw, corners of the mouth, cheeks, brows.
TOUCHED = np.array([8, 6, 10, 3, 13, 48, 54, 2, 14, 19, 24])
# Ends of the capsules of a headband.
BAND_POINTS = 14


@flax.struct.dataclass
class Capsules:
    """N = CAPSULES solids: ends (N,2,3) and radius (N,) mm, albedo (N,3) sRGB."""

    ends: jax.Array
    radius: jax.Array
    albedo: jax.Array


@flax.struct.dataclass
class Cast:
    """What the rays of an image hit: opacity (S,S) in [0,1], depth (S,S) mm, albedo (S,S,3) sRGB, normals (S,S,3).

    Depth is 0 where there is nothing; normals are those of `shading`, y up and facing the viewer.
    """

    opacity: jax.Array
    depth: jax.Array
    albedo: jax.Array
    normals: jax.Array


def nothing(size: int) -> Cast:
    """A `Cast` of an image without objects."""
    plane, vectors = jnp.zeros((size, size)), jnp.zeros((size, size, 3))
    return Cast(plane, plane, vectors, vectors)


def sample(key: jax.Array, scene: Scene, landmarks: jax.Array, skull: hair.Skull) -> Capsules:
    """A random hand on the face, microphone in front of it, or headphones.

    Args:
        key: random key.
        scene: its skin tone is that of the hand.
        landmarks: (68,3) of the posed head.
        skull: of the posed head.
    """
    kind_key, key = jax.random.split(key)
    kind = jax.random.choice(kind_key, len(FREQUENCIES), p=jnp.asarray(FREQUENCIES))
    objects = hand(key, scene, landmarks), microphone(key, landmarks), headphones(key, landmarks, skull)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[kind], *objects)


def _capsules(ends: jax.Array, radius: jax.Array, albedo: jax.Array) -> Capsules:
    """Capsules from n <= CAPSULES of them: ends (n,2,3), radius (n,), albedo (n,3) or (3,)."""
    missing = CAPSULES - len(ends)
    albedo = jnp.broadcast_to(albedo, (len(ends), 3))
    ends, radius, albedo = (
        jnp.concatenate([one, jnp.zeros((missing, *one.shape[1:]))]) for one in (ends, radius, albedo)
    )
    return Capsules(ends, radius, albedo)


def hand(key: jax.Array, scene: Scene, landmarks: jax.Array) -> Capsules:
    """A right or left hand whose fingers touch one of the landmarks TOUCHED."""
    k = jax.random.split(key, 6)
    spread, bend = 1.0 + 0.25 * jax.random.uniform(k[0]), jax.random.uniform(k[1], (2,), minval=-0.2, maxval=0.6)
    knuckles = np.stack([FINGERS_MM, np.zeros(4), np.zeros(4)], axis=-1)
    middle = _along(knuckles, 0.55 * FINGER_LENGTHS_MM, spread, bend[0])
    tips = _along(middle, 0.45 * FINGER_LENGTHS_MM, spread, bend.sum())
    wrist = knuckles * np.array([0.75, 1.0, 1.0]) - np.array([0.0, PALM_MM, 0.0])
    thumb = np.concatenate([THUMB_MM, np.zeros((3, 1))], axis=1)
    arm = np.array([[0.0, -PALM_MM, 0.0], [0.0, -PALM_MM - FOREARM_MM, 0.0]])
    pairs = [(wrist, knuckles), (knuckles, middle), (middle, tips), (thumb[:-1], thumb[1:]), (arm[:1], arm[1:])]
    ends = jnp.concatenate([jnp.stack(pair, axis=1) for pair in pairs])
    radius = np.repeat(
        [PALM_RADIUS_MM, FINGER_RADIUS_MM, FINGER_RADIUS_MM, THUMB_RADIUS_MM, FOREARM_RADIUS_MM], [4, 4, 4, 2, 1]
    )
    ends = ends * jnp.where(jax.random.bernoulli(k[2]), jnp.array([-1.0, 1.0, 1.0]), 1.0)
    angles = jax.random.uniform(k[3], (3,), minval=-1.0) * jnp.array([0.4, 0.6, 1.4])
    touched = landmarks[jax.random.choice(k[4], jnp.asarray(TOUCHED))] + jnp.array([0.0, 0.0, PALM_RADIUS_MM])
    ends = ends @ jaxlie.SO3.from_rpy_radians(*angles).as_matrix().T
    ends = ends + touched - ends[4:12].mean((0, 1))
    skin = jnp.asarray(SKIN) * scene.tone * (1.0 + 0.1 * jax.random.uniform(k[5], (15, 1), minval=-1.0))
    return _capsules(ends, radius, skin)


def _along(start: jax.Array, length: np.ndarray, spread: jax.Array, bend: jax.Array) -> jax.Array:
    """Ends (4,3) of finger bones of `length` (4,) from `start` (4,3), fanned out by `spread`, bent towards the face."""
    sideways = (spread - 1.0) * FINGERS_MM / 50.0
    direction = jnp.stack([sideways, jnp.full(4, jnp.cos(bend)), jnp.full(4, -jnp.sin(bend))], axis=-1)
    return start + length[:, None] * direction


def microphone(key: jax.Array, landmarks: jax.Array) -> Capsules:
    """A microphone in front of mouth or chin, held from below."""
    k = jax.random.split(key, 4)
    offset = jax.random.uniform(k[0], (3,), minval=-1.0) * jnp.array([40.0, 25.0, 20.0]) + jnp.array([0.0, -35.0, 55.0])
    ball = landmarks[48:60].mean(0) + offset
    direction = jnp.array([0.0, -1.0, 0.5]) + 0.6 * jax.random.uniform(k[1], (3,), minval=-1.0)
    end = ball + 190.0 * direction / jnp.linalg.norm(direction)
    radius = 1.0 + 0.2 * jax.random.uniform(k[2], minval=-1.0)
    shades = 0.05 + jnp.array([[0.35], [0.2]]) * jax.random.uniform(k[3], (2, 1)) ** 2
    ends = jnp.stack([jnp.stack([ball, ball]), jnp.stack([ball, end])])
    return _capsules(ends, radius * jnp.array([25.0, 13.0]), jnp.broadcast_to(shades, (2, 3)))


def headphones(key: jax.Array, landmarks: jax.Array, skull: hair.Skull) -> Capsules:
    """Headphones: a cup on each ear, and a band over the skull."""
    k = jax.random.split(key, 4)
    size = jax.random.uniform(k[0], (3,), minval=jnp.array([20.0, 8.0, 4.0]), maxval=jnp.array([34.0, 24.0, 9.0]))
    width, thickness, band = size
    ears = landmarks[jnp.array([0, 16])] * jnp.array([1.04, 1.0, 1.0]) + jnp.array([0.0, -4.0, -22.0])
    middle, half = ears.mean(0), (ears[1, 0] - ears[0, 0]) / 2 + thickness / 2
    height = skull.center[1] + skull.radii[1] + 4.0 - middle[1]
    angle = jnp.linspace(0.0, jnp.pi, BAND_POINTS)
    arc = middle + jnp.stack([half * jnp.cos(angle), height * jnp.sin(angle), 0.0 * angle], axis=-1)
    up = jnp.array([0.0, 0.5, 0.0]) * width
    cups = jnp.stack([jnp.stack([arc[end] - up, arc[end] + up]) for end in (0, -1)])
    ends = jnp.concatenate([cups, jnp.stack([arc[:-1], arc[1:]], axis=1)])
    radius = jnp.concatenate([jnp.stack([width, width]), jnp.broadcast_to(band, BAND_POINTS - 1)])
    return _capsules(ends, radius, clothes.color(k[1]))


def cast(capsules: Capsules, view: View) -> Cast:
    """What the rays of the pixels hit first. Edges are one pixel wide.

    Vectors have their components in front, (3,S,S): TPUs pad the last axis to 128.
    """
    rays = jnp.moveaxis(view.rays, -1, 0)
    length = jnp.sqrt((rays**2).sum(0))
    directions = rays / length
    ends = camera.to_camera(capsules.ends, view.rotation, view.translation)

    def opacity_and_depth(ends: jax.Array, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
        hit, _, gap = _nearest(directions, *ends[..., None, None], radius)
        opacity = jnp.clip((radius - gap) / view.pixel_mm() + 0.5, 0.0, 1.0) * (radius > 0) * (hit > 0)
        return opacity, jnp.where(opacity > 0, hit / length, jnp.inf)

    opacities, depths = jax.vmap(opacity_and_depth)(ends, capsules.radius)
    first = (depths.argmin(0) == jnp.arange(CAPSULES)[:, None, None]).astype(jnp.float32)
    values = jnp.concatenate([ends.reshape(-1, 6), capsules.radius[:, None], capsules.albedo], axis=1)
    start, end, radius, albedo = jnp.split(
        jnp.einsum("nyx,nk->kyx", first, values, precision="highest"), np.cumsum([3, 3, 1]), axis=0
    )
    hit, axis, _ = _nearest(directions, start, end, radius[0])
    normals = hit * directions - axis
    normals = normals / jnp.maximum(jnp.sqrt((normals**2).sum(0)), 1e-6) * _column(camera.HEAD_TO_CAMERA)
    depth = depths.min(0)
    opacity = (first * opacities).sum(0) * view.in_front(depth)
    depth = jnp.where(jnp.isfinite(depth), depth, 0.0)
    return Cast(opacity, depth, jnp.moveaxis(albedo, 0, -1), jnp.moveaxis(normals, 0, -1))


def _nearest(
    directions: jax.Array, start: jax.Array, end: jax.Array, radius: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where rays from the camera meet a capsule.

    Args:
        directions: (3,S,S) unit vectors.
        start, end: (3,S,S) or (3,1,1) mm, the ends of the capsule's axis.
        radius: (S,S) or () mm.

    Returns:
        The distance (S,S) mm to the surface in front, the point (3,S,S) mm of the axis that is nearest to the ray, and
        its distance (S,S) mm from the ray.
    """
    along = end - start
    slope, ahead = (directions * along).sum(0), (directions * start).sum(0)
    share = (slope * ahead - (along * start).sum(0)) / jnp.maximum((along**2).sum(0) - slope**2, 1e-6)
    axis = start + jnp.clip(share, 0.0, 1.0) * along
    middle = (directions * axis).sum(0)
    gap = jnp.sqrt(((middle * directions - axis) ** 2).sum(0) + 1e-12)
    return middle - jnp.sqrt(jnp.maximum(radius**2 - gap**2, 0.0)), axis, gap


def _column(vector: tuple[float, float, float]) -> jax.Array:
    """A vector as (3,1,1)."""
    return jnp.array(vector)[:, None, None]
