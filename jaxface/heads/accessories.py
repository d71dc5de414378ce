"""Hair that hangs into the face and glasses, drawn over a rendered head: bare head models lack both, photographs don't.

They lie on planes parallel to the face. Lengths are millimetres of the head's frame: x to the subject's left, y up,
z out of the face. Pictures are (S,S,3).
"""

import flax.struct
import jax
import jax.numpy as jnp

from jaxface.geometry import alignment, camera
from jaxface.heads import background

SUNGLASSES_SHARE = 0.2
# Rays that meet a plane at a flatter angle than this (cosine) miss it.
FLATTEST = 0.15


@flax.struct.dataclass
class View:
    """How a picture sees a head: rays (S,S,3), the directions of its pixels with z = 1; rotation (3,3) and
    translation (3,) of `camera.to_camera`; depth (S,S) mm of what is drawn, 0 for nothing."""

    rays: jax.Array
    rotation: jax.Array
    translation: jax.Array
    depth: jax.Array

    def plane(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where pixels meet the plane of height `z`: places x, y (S,S,2), and how deep (S,S), infinite where not."""
        turn = self.rotation.T * jnp.array(camera.HEAD_TO_CAMERA)
        rays, eye = self.rays @ turn.T, turn @ self.translation
        meets = rays[..., 2] < -FLATTEST
        depth = jnp.where(meets, (z + eye[2]) / jnp.where(meets, rays[..., 2], -1.0), jnp.inf)
        return jnp.where(meets, depth, 0.0)[..., None] * rays[..., :2] - eye[:2], depth

    def unhidden(self, depth: jax.Array) -> jax.Array:
        """Whether something at `depth` (S,S) is not behind the head: bool (S,S)."""
        return (depth < self.depth) | ((self.depth == 0) & jnp.isfinite(depth))

    def pixel_mm(self) -> jax.Array:
        """Millimetres of a pixel at the head's distance."""
        return self.translation[2] * (self.rays[0, 1] - self.rays[0, 0])[0]


def rays(size: int, focal_px: jax.Array, center_px: jax.Array, crop: jax.Array | None) -> jax.Array:
    """Directions (S,S,3) with z = 1 of a picture's pixels, S = `size`; `crop` (2,3) as in `scenes.render`."""
    pixels = background.pixel_grid(size)
    if crop is not None:
        pixels = alignment.apply_affine(alignment.invert_affine(crop), pixels)
    return jnp.concatenate([(pixels - center_px) / focal_px, jnp.ones((size, size, 1))], -1)


def _inside(distance_mm: jax.Array, pixel_mm: jax.Array) -> jax.Array:
    """Soft mask of negative distances, as wide as a pixel at its edge."""
    return jnp.clip(0.5 - distance_mm / pixel_mm, 0.0, 1.0)[..., None]


def hair(key: jax.Array, picture: jax.Array, view: View, landmarks: jax.Array, color: jax.Array) -> jax.Array:
    """`picture` with hair of `color` (3,) around an opening for the face; landmarks (68,3) are the head's."""
    k = jax.random.split(key, 9)
    place, _ = view.plane((landmarks[27, 2] + landmarks[0, 2]) / 2)
    across = (landmarks[16, 0] - landmarks[0, 0]) / 2
    half = across * jax.random.uniform(k[0], minval=0.8, maxval=1.1)
    brows = landmarks[17:27, 1].mean()
    top = brows + jax.random.uniform(k[1], minval=-6.0, maxval=45.0)
    arch = jax.random.uniform(k[2], minval=50.0, maxval=110.0)
    ends = brows + jax.random.uniform(k[3], minval=-190.0, maxval=40.0)
    wider, higher = jax.random.uniform(k[4], (2,), minval=12.0, maxval=60.0)
    x = place[..., 0] - landmarks[27, 0]
    y = place[..., 1] - jax.random.uniform(k[5], minval=-0.3, maxval=0.3) * x
    frequency, phase = jax.random.uniform(k[6], (3,), minval=0.02, maxval=0.25), jax.random.uniform(k[7], (3,)) * 6.28
    ragged = 3.0 * jnp.sin((x + 0.7 * y)[..., None] * frequency + phase).sum(-1)

    def outline(more_across: jax.Array, more_up: jax.Array) -> jax.Array:
        """Millimetres outside an arch on two straight sides, about."""
        up = jnp.maximum(y - top + arch, 0.0) / (arch + more_up)
        return (jnp.sqrt((x / (half + more_across)) ** 2 + up**2 + 1e-9) - 1.0) * half

    opening = outline(0.0, 0.0)
    distance = jnp.maximum(jnp.maximum(-opening, outline(wider, higher)), ends - y) + ragged
    # Strands run along the opening.
    strands = jnp.sin(opening * 1.7 + ragged) * jnp.sin(opening * 0.6 - 0.7 * ragged)
    shaded = color * (1.0 + 0.35 * strands)[..., None] * jax.random.uniform(k[8], minval=0.6, maxval=1.3)
    return picture + _inside(distance, view.pixel_mm()) * (shaded - picture)


def glasses(key: jax.Array, picture: jax.Array, view: View, landmarks: jax.Array) -> jax.Array:
    """`picture` with glasses, some of them dark, before the eyes of the head's landmarks (68,3)."""
    k = jax.random.split(key, 11)
    eyes = landmarks[36:48].reshape(2, 6, 3).mean(1)
    middle, apart = eyes.mean(0), (eyes[1, 0] - eyes[0, 0]) / 2
    z = middle[2] + jax.random.uniform(k[0], minval=8.0, maxval=18.0)
    place, depth = view.plane(z)
    x = abs(place[..., 0] - middle[0])
    y = place[..., 1] - middle[1] - jax.random.uniform(k[1], minval=-7.0, maxval=3.0)
    half = jnp.stack(
        [apart * jax.random.uniform(k[2], minval=0.6, maxval=0.9), jax.random.uniform(k[3], minval=12.0, maxval=26.0)]
    )
    round_mm = half.min() * jax.random.uniform(k[4], minval=0.15, maxval=1.0)
    frame = jax.random.uniform(k[5], minval=0.4, maxval=2.5)
    beyond = jnp.stack([abs(x - 1.05 * apart), abs(y)], -1) - half + round_mm
    rim = jnp.sqrt((jnp.maximum(beyond, 0.0) ** 2).sum(-1) + 1e-9) + jnp.minimum(beyond.max(-1), 0.0) - round_mm
    bridge = jnp.maximum(x - (1.05 * apart - half[0]), abs(y - 0.25 * half[1]) - frame)
    pixel, front = view.pixel_mm(), view.unhidden(depth)[..., None]

    tint = jax.random.uniform(k[6], (3,)) * jax.random.uniform(k[7], maxval=0.5)
    dark = jax.random.bernoulli(k[8], SUNGLASSES_SHARE)
    opaque = jnp.where(dark, jax.random.uniform(k[9], minval=0.6), 0.12 * jax.random.uniform(k[9]))
    picture = picture + front * opaque * _inside(rim, pixel) * (tint - picture)
    color = jax.random.uniform(k[10], (4,))
    color = color[:3] * color[3] ** 3
    for distance in (abs(rim) - frame, bridge):
        picture = picture + front * _inside(distance, pixel) * (color - picture)
    for side, ear in ((-1, landmarks[0]), (1, landmarks[16])):
        hinge = jnp.stack([middle[0] + side * (1.05 * apart + half[0]), middle[1], z])
        hook = jnp.stack([ear[0] * 1.05, middle[1], ear[2] - 15.0])
        distance, depth = _bar(view, hinge, hook)
        drawn = _inside(distance - frame, pixel) * view.unhidden(depth)[..., None]
        picture = picture + drawn * (color - picture)
    return picture


def _bar(view: View, start: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far (S,S) pixels are from the bar between two points (3,) of the head, and how deep it is there (S,S)."""
    ends = camera.to_camera(jnp.stack([start, end]), view.rotation, view.translation)
    places = camera.project(ends, 1.0, jnp.zeros(2))
    offset, along = view.rays[..., :2] - places[0], places[1] - places[0]
    share = jnp.clip(offset @ along / ((along**2).sum() + 1e-9), 0.0, 1.0)
    away = jnp.sqrt(((offset - share[..., None] * along) ** 2).sum(-1) + 1e-12)
    return away * view.translation[2], ends[0, 2] + share * (ends[1, 2] - ends[0, 2])
