"""Hair, hat or hood of a rendered head: the volume of `hair`, rasterised behind the depth test of the head."""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import alignment, camera, mesh, raster
from jaxface.heads import clothes, hair, shading, skin
from jaxface.heads.accessories import View
from jaxface.heads.capture import NEAR_MM, Scene
from jaxface.heads.morphable import MorphableHead

# Windows of the tiers in which hair is rasterised.
HAIR_WINDOWS = (8, 24, 48, 96)
# Probability of a hat or hood, for a scene with accessories.
HAT_SHARE = 0.16
# Depth by which the skull may lie in front of hair that covers it, as the hair follows a smoother skull.
SKULL_TOLERANCE_MM = 14.0


@flax.struct.dataclass
class HairLayer:
    """Hair at the pixels of an image.

    Attributes:
        opacity: (S,S) in [0,1].
        depth: (S,S) mm, 0 where there is nothing.
        albedo: (S,S,3) linear.
        normals: (S,S,3) unit normals, y-up frame facing the viewer.
        strands: (S,S) brightness of single hairs.
    """

    opacity: jax.Array
    depth: jax.Array
    albedo: jax.Array
    normals: jax.Array
    strands: jax.Array


def rasterize(
    head: MorphableHead,
    scene: Scene,
    vertices: jax.Array,
    view: View,
    scalp: jax.Array,
    crop: jax.Array | None,
) -> HairLayer:
    """Hair, hat or hood around the head; an empty layer for bald heads.

    Args:
        head, scene, crop: as of `scenes.render`.
        vertices: (V,3) mm, in the head frame.
        view: camera and depth of the head.
        scalp: (S,S), mask of the scalp.
    """
    size = len(view.depth)
    hat_key, present_key = jax.random.split(jax.random.fold_in(scene.key, 3))
    wears_hat = jax.random.bernoulli(present_key, scene.accessories * HAT_SHARE)
    style_key = jax.random.fold_in(scene.person_key, 1)
    style = jax.tree.map(
        lambda hat, grown: jnp.where(wears_hat, hat, grown), hair.sample_hat(hat_key), hair.sample_style(style_key)
    )
    color = jnp.where(wears_hat, clothes.color(hat_key), scene.hair)
    nothing = HairLayer(*(jnp.zeros((size, size, *shape)) for shape in ((), (), (3,), (3,), ())))

    def volume(_: None) -> HairLayer:
        skull = hair.fit_skull(head, vertices)
        grown, triangles = hair.mesh(style, skull)
        points = camera.to_camera(grown, scene.rotation, scene.translation)
        px = camera.project(points, scene.focal_px, scene.center_px)
        px = px if crop is None else alignment.apply_affine(crop, px)
        # Its triangles are much larger than those of heads.
        tiers = (*((window, None) for window in HAIR_WINDOWS if window < size), (size, None))
        visibility = raster.rasterize(px, points[:, 2], triangles, size, size, tiers=tiers, near=NEAR_MM)
        normals = mesh.vertex_normals(grown, triangles) @ scene.rotation.T
        attributes = jnp.concatenate([grown, normals, points[:, 2:]], -1)
        pixels = raster.interpolate(attributes, px, points[:, 2], triangles, visibility.triangle_id)
        pixels = lax.optimization_barrier(pixels)
        opacity, strands = hair.opacity(style, skull, pixels[..., :3])
        depth = pixels[..., 6]
        tolerance = 1.0 + SKULL_TOLERANCE_MM * scalp
        in_front = (depth < view.depth + tolerance) | (view.depth == 0)
        opacity *= in_front * (depth > 0)
        unit = shading.normalize(pixels[..., 3:6])
        inside = unit[..., 2:] < 0
        normal = jnp.where(inside, -unit, unit)
        # The inner side of hanging hair lies in shadow.
        albedo = (color**2) * jnp.where(inside, 0.45, 1.0)
        return HairLayer(opacity, depth, albedo, normal, strands * jnp.where(wears_hat, 0.25, 1.0))

    has_hair = wears_hat | ~skin.is_cropped(scene)
    return lax.cond(has_hair, volume, lambda _: nothing, None)
