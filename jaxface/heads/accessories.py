"""Glasses, composited over a rendered head, because head models have none.

They lie in a plane z = constant of the head frame, except for their temples. Lengths are
millimetres in the head frame: x to the subject's left, y up, z out of the face. Images are (S,S,3), S pixels per side.
"""

import flax.struct
import jax
import jax.numpy as jnp

from jaxface.geometry import alignment, camera
from jaxface.heads import background

SUNGLASSES_SHARE = 0.2
# Viewing directions with a smaller z component towards the plane, in head axes, are treated as missing it.
MIN_COSINE = 0.15


@flax.struct.dataclass
class View:
    """Camera of an image and the depth of the rendered head.

    Attributes:
        rays: (S,S,3), viewing direction of each pixel with z = 1.
        rotation, translation: (3,3) and (3,) mm, as in `camera.to_camera`.
        depth: (S,S) mm of the head, 0 for background.
    """

    rays: jax.Array
    rotation: jax.Array
    translation: jax.Array
    depth: jax.Array

    def plane(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Intersects the rays of the pixels with the plane at `z` () mm of the head frame.

        Returns x, y (S,S,2) mm in the plane, and depth (S,S) mm in camera space, inf where the ray misses the plane.
        """
        to_head = self.rotation.T * jnp.array(camera.HEAD_TO_CAMERA)
        rays, eye = self.rays @ to_head.T, to_head @ self.translation
        hits = rays[..., 2] < -MIN_COSINE
        depth = jnp.where(hits, (z + eye[2]) / jnp.where(hits, rays[..., 2], -1.0), jnp.inf)
        return jnp.where(hits, depth, 0.0)[..., None] * rays[..., :2] - eye[:2], depth

    def in_front(self, depth: jax.Array) -> jax.Array:
        """Depth test: (S,S) bool, True where `depth` (S,S) is in front of the head."""
        return (depth < self.depth) | ((self.depth == 0) & jnp.isfinite(depth))

    def pixel_mm(self) -> jax.Array:
        """Size () mm of a pixel at the distance of the head."""
        return self.translation[2] * (self.rays[0, 1] - self.rays[0, 0])[0]


def view_rays(size: int, focal_px: jax.Array, center_px: jax.Array, crop: jax.Array | None) -> jax.Array:
    """Viewing directions (S,S,3) with z = 1 of the pixels, S = `size`; `crop` (2,3) as in `scenes.render`."""
    pixels = background.pixel_grid(size)
    if crop is not None:
        pixels = alignment.apply_affine(alignment.invert_affine(crop), pixels)
    return jnp.concatenate([(pixels - center_px) / focal_px, jnp.ones((size, size, 1))], -1)


def _inside(distance_mm: jax.Array, pixel_mm: jax.Array) -> jax.Array:
    """Antialiased mask of negative signed distances; the edge is one pixel wide."""
    return jnp.clip(0.5 - distance_mm / pixel_mm, 0.0, 1.0)[..., None]


def glasses(key: jax.Array, image: jax.Array, view: View, landmarks: jax.Array) -> jax.Array:
    """`image` with glasses, a share of SUNGLASSES_SHARE tinted, on the eyes of landmarks (68,3) in the head frame."""
    k = jax.random.split(key, 11)
    eyes = landmarks[36:48].reshape(2, 6, 3).mean(1)
    middle, half_spacing = eyes.mean(0), (eyes[1, 0] - eyes[0, 0]) / 2
    z = middle[2] + jax.random.uniform(k[0], minval=8.0, maxval=18.0)
    position, depth = view.plane(z)
    x = abs(position[..., 0] - middle[0])
    y = position[..., 1] - middle[1] - jax.random.uniform(k[1], minval=-7.0, maxval=3.0)
    half_width = half_spacing * jax.random.uniform(k[2], minval=0.6, maxval=0.9)
    half_height = jax.random.uniform(k[3], minval=12.0, maxval=26.0)
    half_size = jnp.stack([half_width, half_height])
    corner_radius = half_size.min() * jax.random.uniform(k[4], minval=0.15, maxval=1.0)
    frame = jax.random.uniform(k[5], minval=0.4, maxval=2.5)
    # `rim` is the signed distance to the edge of a lens, a rounded rectangle; negative inside.
    from_corner = jnp.stack([abs(x - 1.05 * half_spacing), abs(y)], -1) - half_size + corner_radius
    outside = jnp.sqrt((jnp.maximum(from_corner, 0.0) ** 2).sum(-1) + 1e-9)
    rim = outside + jnp.minimum(from_corner.max(-1), 0.0) - corner_radius
    bridge = jnp.maximum(x - (1.05 * half_spacing - half_width), abs(y - 0.25 * half_height) - frame)
    pixel, front = view.pixel_mm(), view.in_front(depth)[..., None]

    tint = jax.random.uniform(k[6], (3,)) * jax.random.uniform(k[7], maxval=0.5)
    is_sunglasses = jax.random.bernoulli(k[8], SUNGLASSES_SHARE)
    opacity = jnp.where(is_sunglasses, jax.random.uniform(k[9], minval=0.6), 0.12 * jax.random.uniform(k[9]))
    image = image + front * opacity * _inside(rim, pixel) * (tint - image)
    color = jax.random.uniform(k[10], (4,))
    color = color[:3] * color[3] ** 3
    for distance in (abs(rim) - frame, bridge):
        image = image + front * _inside(distance, pixel) * (color - image)
    for side, ear in ((-1, landmarks[0]), (1, landmarks[16])):
        hinge = jnp.stack([middle[0] + side * (1.05 * half_spacing + half_width), middle[1], z])
        tip = jnp.stack([ear[0] * 1.05, middle[1], ear[2] - 15.0])
        distance, depth = _temple(view, hinge, tip)
        mask = _inside(distance - frame, pixel) * view.in_front(depth)[..., None]
        image = image + mask * (color - image)
    return image


def _temple(view: View, start: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The temple of glasses, a segment between two points (3,) of the head frame.

    Returns the distance (S,S) mm of each pixel from the projected segment, at the depth of the head, and the depth
    (S,S) mm of the nearest point of the segment.
    """
    ends = camera.to_camera(jnp.stack([start, end]), view.rotation, view.translation)
    projected = camera.project(ends, 1.0, jnp.zeros(2))
    offset, direction = view.rays[..., :2] - projected[0], projected[1] - projected[0]
    fraction = jnp.clip(offset @ direction / ((direction**2).sum() + 1e-9), 0.0, 1.0)
    distance = jnp.sqrt(((offset - fraction[..., None] * direction) ** 2).sum(-1) + 1e-12)
    return distance * view.translation[2], ends[0, 2] + fraction * (ends[1, 2] - ends[0, 2])
