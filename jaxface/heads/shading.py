"""Shading of the pixels of a rendered head: cast shadows and ambient occlusion from its depth image, skin, hair.

Light is linear; camera space is x right, y down, z forward, normals and directions of light are y-up, facing the
viewer.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.geometry import camera, lighting
from jaxface.heads.accessories import View
from jaxface.heads.capture import Scene

# Distances along the ray to the sun at which shadow casters are searched, and their assumed thickness.
SHADOW_STEPS_MM = np.array([4.0, 8.0, 13.0, 20.0, 30.0, 44.0, 62.0, 85.0], np.float32)
CASTER_MM = 60.0
# Cell of the low-resolution depth image of the ambient occlusion, as a share of the side of the image.
OCCLUSION_CELLS = 16
# A second light that every eye mirrors, such as a window or a flash.
CATCHLIGHT = np.array([-0.35, 0.45, 0.82], np.float32)


def _dot(vectors: jax.Array, direction: jax.Array) -> jax.Array:
    """Dot product (…) of vectors (…,3) with `direction` (3,) or (…,3)."""
    x, y, z = (vectors[..., axis] * direction[..., axis] for axis in range(3))
    return lax.optimization_barrier(x + y + z)


def normalize(vectors: jax.Array) -> jax.Array:
    """Unit vectors (…,3)."""
    return vectors * lax.rsqrt(_dot(vectors, vectors) + 1e-12)[..., None]


def box_blur(image: jax.Array, radius: int) -> jax.Array:
    """Mean of (S,S) over squares of side 2 `radius` + 1, with repeated borders."""
    for axis in (0, 1):
        image = lax.optimization_barrier(image)
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1))
    return image / (2 * radius + 1) ** 2


def cast_shadow(scene: Scene, view: View, depth: jax.Array, crop: jax.Array | None) -> jax.Array:
    """Share (S,S) of the sun that reaches each pixel, by a march through the depth image (S,S) mm, 0 for background."""
    size = len(depth)
    direction = scene.sun[0] * jnp.array(camera.HEAD_TO_CAMERA)
    # Axes as separate arrays, contiguous for vector units: `camera.project` and `alignment.apply_affine` want (…,3).
    points = [view.rays[..., axis] * depth for axis in range(3)]
    nearest = jnp.where(depth > 0, depth, jnp.inf).reshape(-1)

    def add_shadow(step: jax.Array, shadows: jax.Array) -> jax.Array:
        distance = jnp.asarray(SHADOW_STEPS_MM)[step]
        x, y, z = (axis + distance * toward for axis, toward in zip(points, direction, strict=True))
        ahead = jnp.maximum(z, camera.MIN_DEPTH_MM)
        px = [scene.focal_px * axis / ahead + center for axis, center in zip((x, y), scene.center_px, strict=True)]
        if crop is not None:
            px = [row[0] * px[0] + row[1] * px[1] + row[2] for row in crop]
        column, row = (jnp.clip(jnp.round(axis), 0, size - 1).astype(jnp.int32) for axis in px)
        behind = z - nearest[row * size + column]
        tolerance = 1.5 + 0.12 * distance
        shadow = jnp.clip((behind - tolerance) / (1.0 + 0.1 * distance), 0.0, 1.0) * (behind < CASTER_MM)
        return jnp.maximum(shadows, shadow)

    shadows = lax.fori_loop(0, len(SHADOW_STEPS_MM), add_shadow, jnp.zeros_like(depth))
    return 1.0 - box_blur(shadows * (depth > 0), 1)


def ambient_occlusion(depth: jax.Array) -> jax.Array:
    """Factor (S,S) on ambient light from a depth image (S,S) mm: points behind their surroundings get less.

    Unsharp masking of the depth buffer (Luft et al., SIGGRAPH 2006).
    """
    size = len(depth)
    covered = (depth > 0).astype(jnp.float32)
    weights, values = (
        jax.image.resize(array, (OCCLUSION_CELLS, OCCLUSION_CELLS), "linear") for array in (covered, depth)
    )
    far = values.sum() / jnp.maximum(weights.sum(), 1e-3)
    filled = values + (1.0 - weights) * (far + 60.0)
    around = jax.image.resize(filled, (size, size), "cubic")
    return 1.0 - 0.55 * jnp.clip((depth - around - 1.0) / 26.0, 0.0, 1.0) * covered


def shade(
    albedo: jax.Array, normals: jax.Array, wet: jax.Array, scene: Scene, lit: jax.Array, ambient: jax.Array
) -> jax.Array:
    """Radiance (S,S,3) of skin and eyes, linear.

    Diffuse SH light and sun with soft terminator (red light scatters further through skin), Blinn-Phong highlights, a
    Fresnel-like sheen at grazing angles, and mirrored lights in wet parts.

    Args:
        albedo: (S,S,3) linear.
        normals: (S,S,3) unit normals.
        wet: (S,S) in [0,1].
        scene: with light, sun and gloss.
        lit: (S,S), see `cast_shadow`.
        ambient: (S,S), see `ambient_occlusion`.
    """
    direction, color = scene.sun
    cosine = _dot(normals, direction)[..., None]
    scatter = jnp.array([0.22, 0.10, 0.06])
    facing = jnp.maximum((cosine + scatter) / (1.0 + scatter), 0.0)
    halfway = direction + jnp.array([0.0, 0.0, 1.0])
    halfway = halfway / (jnp.linalg.norm(halfway) + 1e-6)
    toward = jnp.maximum(_dot(normals, halfway), 0.0)
    square = toward**2
    broad = square**5
    highlight = scene.gloss * (0.5 * broad + broad**4) * lit
    sky = jnp.maximum(lighting.sh_shade(normals, scene.light), 0.03) * ambient[..., None]
    rim = (1.0 - jnp.clip(normals[..., 2], 0.0, 1.0)) ** 3
    sheen = (0.35 * scene.gloss * rim)[..., None] * sky
    mirror = wet * (jnp.maximum(_dot(normals, jnp.asarray(CATCHLIGHT)), 0.0) ** 180 * 0.7 + lit * broad**18)
    # Without the barrier XLA computes them once per channel.
    highlight, mirror = lax.optimization_barrier((highlight, mirror))
    radiance = albedo * (sky + facing * color * lit[..., None]) + sheen
    return radiance + highlight[..., None] * color + mirror[..., None] * (0.4 + color)


def shade_hair(
    albedo: jax.Array, normals: jax.Array, down: jax.Array, strands: jax.Array, scene: Scene, lit: jax.Array
) -> jax.Array:
    """Radiance (S,S,3) of hair, linear (Kajiya-Kay): albedo (3,), unit normals, `down` (3,) along strands, y-up frame.

    `strands` (S,S) of unit variance is the brightness of single strands.
    """
    direction, color = scene.sun
    tangent = normalize(down - _dot(normals, down)[..., None] * normals)
    halfway = direction + jnp.array([0.0, 0.0, 1.0])
    halfway = halfway / (jnp.linalg.norm(halfway) + 1e-6)
    along = _dot(tangent, halfway) + 0.08 * strands
    specular = jnp.maximum(1.0 - along**2, 0.0) ** 16 * jnp.maximum(_dot(normals, direction) + 0.2, 0.0)
    facing = jnp.maximum(_dot(normals, direction) + 0.25, 0.0) / 1.25 * lit
    sky = jnp.maximum(lighting.sh_shade(normals, scene.light), 0.03)
    varied = jnp.clip(1.0 + 0.32 * strands, 0.25, 2.2)[..., None]
    diffuse = albedo * varied * (0.8 * sky + facing[..., None] * color)
    return diffuse + ((0.05 + 0.35 * albedo) * (specular * lit)[..., None]) * color * varied
