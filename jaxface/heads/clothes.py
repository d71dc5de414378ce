"""Clothes painted on shoulders and neck, below a random collar line, and masks over mouth and nose.

Functions of the template position per pixel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxface.heads import bands, noise
from jaxface.heads.capture import Scene
from jaxface.heads.morphable import MorphableHead

BARE_SHARE, V_NECK_SHARE, OPEN_SHARE, PATTERN_SHARE = 0.12, 0.3, 0.4, 0.5
# Collars end below this height above the chin.
ABOVE_CHIN_MM = 10.0


class Dress(NamedTuple):
    """Masks and colours at the pixels: cover (S,S) in [0,1], albedo (S,S,3) sRGB, bump (S,S,2)."""

    cover: jax.Array
    albedo: jax.Array
    bump: jax.Array

    def under(self, other: "Dress") -> "Dress":
        """Both, with `other` on top."""
        cover = jnp.maximum(self.cover, other.cover)
        share = (other.cover / jnp.maximum(cover, 1e-6))[..., None]
        albedo = self.albedo + share * (other.albedo - self.albedo)
        return Dress(cover, albedo, self.bump + share * (other.bump - self.bump))


def clothe(head: MorphableHead, scene: Scene, p: jax.Array) -> Dress:
    """Clothes and, if the scene has one, a face mask at template positions p (S,S,3) mm."""
    keys = [jax.random.fold_in(scene.key, number) for number in (2, 6)]
    chin = head.landmark_points(jnp.asarray(head.template), "68")[8, 1]
    plane, vectors = jnp.zeros(p.shape[:-1]), jnp.zeros(p.shape)
    bare = Dress(plane, vectors, vectors[..., :2])
    below = p[..., 1] < chin + ABOVE_CHIN_MM
    dressed = bands.where_any(below, lambda _: dress(head, keys[0], p), bare)

    def add_mask(dressed: Dress) -> Dress:
        mask = face_mask(head, keys[1], p)
        return dressed.under(mask._replace(cover=scene.mask * mask.cover))

    return bands.where_any(scene.mask > 0, add_mask, dressed)


def color(key: jax.Array) -> jax.Array:
    """Random sRGB colour (3,) of mostly low saturation, as in rooms and clothes."""
    random = jax.random.uniform(key, (5,))
    saturation = 0.8 * random[0] ** 2
    return random[1] * (1 - saturation) + random[2:] * saturation


def dress(head: MorphableHead, key: jax.Array, p: jax.Array) -> Dress:
    """Random clothes at template positions p (S,S,3) mm: crew, V or high neck, a shirt below, plain or patterned."""
    keys = jax.random.split(key, 4)
    random = jax.random.uniform(keys[0], (20,))
    chin = head.landmark_points(jnp.asarray(head.template), "68")[8, 1]
    x, y, z = abs(p[..., 0]), p[..., 1], p[..., 2]
    front = 38.0 + 54.0 * random[0]
    back = jnp.minimum((0.0 + 38.0 * random[1]), front - 30.0)
    forward = jnp.clip((z + 60.0) / 120.0, 0.0, 1.0)
    v_neck = (random[2] < V_NECK_SHARE) * (20.0 + 70.0 * random[3])
    v = v_neck * jnp.maximum(1.0 - x / 55.0, 0.0) * (z > -10.0)
    wrinkles = noise.sample(p[..., 0] / 11.0, y / 15.0 + z / 30.0, random[16:18])
    collar = chin - back - forward * (front - back) - v + 1.2 * wrinkles[..., 1]
    below = collar - y
    cover = jnp.clip(0.5 + below / 2.0, 0.0, 1.0) * (1.0 - (random[5] < BARE_SHARE))
    # A jacket or cardigan opens downwards over a shirt of another colour.
    lapel = x - 0.35 * below - (0.0 + 30.0 * random[6])
    opened = (random[7] < OPEN_SHARE) * (z > -20.0) * jnp.clip(0.5 - lapel / 2.0, 0.0, 1.0)
    outer, inner, second = (color(k) for k in keys[1:])
    period = 4.0 + 22.0 * random[11]
    slant = 2.0 * random[18:20] - 1.0
    stripes = jnp.clip(3.0 * jnp.sin((slant[0] * p[..., 0] + slant[1] * y) * 6.28 / period), 0.0, 1.0)
    patterned = (random[13] < PATTERN_SHARE) * random[14]
    cloth = outer + (patterned * stripes)[..., None] * (second - outer)
    cloth = cloth + opened[..., None] * (inner - cloth)
    # Seams: the band of the collar and the edge of the jacket are lines in shadow.
    band = 6.0 + 12.0 * random[15]
    seam = jnp.exp(-(((below - band) / 1.5) ** 2)) + jnp.exp(-((lapel / 2.0) ** 2)) * (opened > 0)
    cloth = cloth * (1.0 - 0.35 * seam + 0.06 * wrinkles[..., 0])[..., None]
    return Dress(cover, jnp.clip(cloth, 0.02, 1.0), 0.35 * wrinkles[..., 2:])


def face_mask(head: MorphableHead, key: jax.Array, p: jax.Array) -> Dress:
    """A random mask over nose, mouth and chin at template positions p (S,S,3) mm, with bands to the ears."""
    keys = jax.random.split(key, 2)
    random = jax.random.uniform(keys[0], (8,))
    landmarks = head.landmark_points(jnp.asarray(head.template), "68")
    x, y, z = abs(p[..., 0]), p[..., 1], p[..., 2]
    # The upper edge falls from the bridge of the nose to the cheeks, the lower one rises from below the chin.
    bridge = landmarks[28, 1] + (landmarks[30, 1] - landmarks[28, 1]) * random[0]
    side = landmarks[14, 0] * (0.75 + 0.25 * random[1])
    cheek = (landmarks[14, 1] + landmarks[30, 1]) / 2
    upper = bridge + (cheek - bridge) * jnp.minimum(x / side, 1.0) ** 0.7
    lower = landmarks[8, 1] - 14.0 + (landmarks[4, 1] - landmarks[8, 1]) * jnp.clip(x / side - 0.25, 0.0, 1.0)
    inside = jnp.minimum(jnp.minimum(upper - y, y - lower), side - x)
    # The bands run from its corners to the ears.
    ear = landmarks[16]
    behind = jnp.clip((x - side) / jnp.maximum(ear[0] + 4.0 - side, 1.0), 0.0, 1.0)
    corner_y = jnp.stack([cheek, landmarks[4, 1]])
    bands = corner_y + behind[..., None] * (ear[1] + jnp.array([-2.0, -38.0]) - corner_y)
    band = jnp.where(x > side, 1.5 - abs(y[..., None] - bands).min(-1), inside)
    front = z > landmarks[16, 2] - 12.0
    cover = jnp.clip(0.5 + jnp.maximum(inside, band), 0.0, 1.0) * front
    surgical, dark = jnp.array([0.62, 0.80, 0.88]), jnp.array([0.06, 0.06, 0.07])
    plain = jnp.where(random[2] < 0.5, surgical, jnp.where(random[2] < 0.75, dark, color(keys[1])))
    pleats = (random[2] < 0.5) * jnp.sin(y / (2.5 + 2.0 * random[3]))
    wrinkles = noise.sample(p[..., 0] / 12.0, y / 12.0, random[4:6])
    albedo = plain * (1.0 + 0.05 * pleats + 0.04 * wrinkles[..., 0])[..., None]
    return Dress(cover, jnp.clip(albedo, 0.02, 1.0), 0.2 * wrinkles[..., 2:])
