"""Synthetic photographs: random renderings of a `MorphableHead` with ground truth, as pure functions of (head, key).

Used for the data sets on disk and for training batches that are rendered inside the training step. Pixel coordinates
have x right, y down and pixel centres at integers; camera space is x right, y down, z forward in millimetres.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import alignment, camera, mesh, raster
from jaxface.heads import (
    accessories,
    background,
    bands,
    clothes,
    hair,
    hair_layer,
    lashes,
    noses,
    objects,
    photography,
    shading,
    skin,
)
from jaxface.heads.capture import (
    NEAR_MM,
    PORTRAIT,
    UNCONSTRAINED,
    WITH_ACCESSORIES,
    CaptureConfig,
    Scene,
    sample_scene,
)
from jaxface.heads.morphable import MorphableHead, rotate_eyes

__all__ = [
    "PORTRAIT",
    "UNCONSTRAINED",
    "WITH_ACCESSORIES",
    "CaptureConfig",
    "Rendering",
    "Scene",
    "face_box",
    "project_vertices",
    "render",
    "renderable",
    "sample_scene",
]

# Probabilities of glasses, and of a hand, microphone or headphones, for a scene with accessories.
GLASSES_SHARE, OBJECT_SHARE = 0.5, 0.2


@flax.struct.dataclass
class Rendering:
    """A rendered scene.

    Attributes:
        image: (S,S,3) in [0,1].
        depth: (S,S) mm of the head without hair and accessories, 0 for background.
        points: (V,3) mm, vertices in camera space.
        points_px: (V,2), projected vertices.
    """

    image: jax.Array
    depth: jax.Array
    points: jax.Array
    points_px: jax.Array


@flax.struct.dataclass
class _Pixels:
    """What `_radiance` needs to know of the pixels of R rows.

    Attributes:
        surface: (R,S,12): interpolated template positions mm, parts of the head, normals, depth mm.
        rays: (R,S,3), see `accessories.View`.
        hair, held: layers of hair and of objects.
        lit: (R,S), see `shading.cast_shadow`.
        ambient: (R,S), see `shading.ambient_occlusion`.
    """

    surface: jax.Array
    rays: jax.Array
    hair: hair_layer.HairLayer
    held: objects.Cast
    lit: jax.Array
    ambient: jax.Array


def renderable(head: MorphableHead) -> MorphableHead:
    """The head without transparent triangles; call it once, on the host."""
    return head.replace(triangles=head.opaque_triangles())


def _cull_back_faces(triangles: jax.Array, points_px: jax.Array) -> jax.Array:
    """Triangles (T,3) with back faces replaced by degenerate triangles, which halves the work of the rasteriser."""
    a, b, c = (points_px[triangles[:, corner]] for corner in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return jnp.where(area[:, None] < 0, triangles, 0)


def project_vertices(head: MorphableHead, scene: Scene) -> tuple[jax.Array, jax.Array]:
    """(vertices (V,3) mm in the head frame, projected vertices (V,2) px) of `scene`."""
    shape = head.shape(scene.identity, scene.expression) + noses.displacement(head, scene.nose)
    vertices = rotate_eyes(head, shape, scene.gaze)
    points = camera.to_camera(vertices, scene.rotation, scene.translation)
    return vertices, camera.project(points, scene.focal_px, scene.center_px)


def render(
    head: MorphableHead, scene: Scene, size: int, crop: jax.Array | None = None, photos: jax.Array | None = None
) -> Rendering:
    """Renders `scene` into an S x S image, S = `size`.

    Args:
        head: from `renderable`.
        scene: from `sample_scene`.
        size: side of the image or crop.
        crop: optional affine map (2,3) from image to crop pixels; only the crop is rendered, and `points_px` and
            `depth` are those of the crop.
        photos: optional photos (N,P,P,3) uint8, of which parts are backgrounds (`background.from_photos`).
    """
    vertices, points_px = project_vertices(head, scene)
    points = camera.to_camera(vertices, scene.rotation, scene.translation)
    if crop is not None:
        points_px = alignment.apply_affine(crop, points_px)
    front_faces = _cull_back_faces(head.triangles, points_px)
    visibility = raster.rasterize(points_px, points[:, 2], front_faces, size, size, near=NEAR_MM)
    normals = mesh.vertex_normals(vertices, head.triangles) @ scene.rotation.T
    attributes = [jnp.asarray(head.template), skin.part_weights(head), normals, points[:, 2:]]
    pixels = raster.interpolate(
        jnp.concatenate(attributes, axis=-1), points_px, points[:, 2], head.triangles, visibility.triangle_id
    )
    # Otherwise XLA recomputes the gathers in every use.
    pixels = lax.optimization_barrier(pixels)
    depth = pixels[..., 11]
    rays = accessories.view_rays(size, scene.focal_px, scene.center_px, crop)
    view = accessories.View(rays, scene.rotation, scene.translation, depth)
    keys = jax.random.split(scene.key, 6)
    grown = hair_layer.rasterize(head, scene, vertices, view, pixels[..., 6], crop)
    held = _objects(head, scene, vertices, view)
    seen = jnp.where(grown.opacity > 0.5, grown.depth, depth)
    seen = jnp.where(held.opacity > 0.5, held.depth, seen)
    lit, ambient = shading.cast_shadow(scene, view, seen, crop), shading.ambient_occlusion(seen)
    radiance = bands.evaluate(
        functools.partial(_radiance, head, scene, head.landmark_points(points, "68")),
        _Pixels(pixels, rays, grown, held, lit, ambient),
    )
    image = background.background(keys[0], size, photos)
    if "shoulders" not in head.regions:
        middle = head.landmark_points(points_px, "68").mean(0)
        scale_px = 100.0 * jnp.ptp(points_px[:, 1]) / jnp.ptp(points[:, 1])
        image = background.shoulders(keys[1], image, middle, scale_px)
    covered = jnp.maximum((visibility.triangle_id >= 0).astype(jnp.float32), grown.opacity)
    covered = jnp.maximum(covered, held.opacity)
    image = image + covered[..., None] * (_develop(radiance, covered, scene) - image)
    in_front = view.replace(depth=jnp.where(held.opacity > 0.5, held.depth, depth))
    image = _add_glasses(head, scene, image, vertices, in_front)
    image = photography.expose(keys[2], background.occlude(keys[3], image, scene.occluded))
    return Rendering(image, depth, points, points_px)


def _radiance(head: MorphableHead, scene: Scene, landmarks: jax.Array, pixels: _Pixels) -> jax.Array:
    """Linear radiance (R,S,3) of `pixels` of head with lashes, hair and objects; landmarks (68,3) in camera space."""
    p, lit = pixels.surface[..., :3], pixels.lit
    parts = skin.Parts(*jnp.moveaxis(pixels.surface[..., 3:8], -1, 0))
    surface = skin.surface(head, scene, p, parts)
    rim = lashes.lashes(scene, landmarks, pixels.rays * pixels.surface[..., 11:], parts.eyes)
    cloth = clothes.clothe(head, scene, p)
    albedo = surface.albedo + rim.cover[..., None] * (rim.color - surface.albedo)
    albedo = albedo + cloth.cover[..., None] * (cloth.albedo - albedo)
    bump = surface.bump + cloth.cover[..., None] * (cloth.bump - surface.bump)
    normals = _bumped(shading.normalize(pixels.surface[..., 8:11]), bump, p, scene.rotation)
    albedo *= 1.0 - rim.shade[..., None]
    matt = scene.replace(gloss=scene.gloss * (1.0 - 0.9 * cloth.cover))
    radiance = shading.shade(albedo**2, normals, surface.wet * (1.0 - cloth.cover), matt, lit, pixels.ambient)

    def add_hair(radiance: jax.Array) -> jax.Array:
        layer = pixels.hair
        down = scene.rotation @ jnp.array([0.0, -1.0, 0.15])
        of_hair = shading.shade_hair(layer.albedo, layer.normals, down, layer.strands, scene, lit)
        return radiance + layer.opacity[..., None] * (of_hair - radiance)

    def add_objects(radiance: jax.Array) -> jax.Array:
        held = pixels.held
        of_objects = shading.shade(held.albedo**2, held.normals, jnp.zeros_like(lit), scene, lit, jnp.ones_like(lit))
        return radiance + held.opacity[..., None] * (of_objects - radiance)

    radiance = bands.where_any(pixels.hair.opacity > 0, add_hair, radiance)
    return bands.where_any(pixels.held.opacity > 0, add_objects, radiance)


def _bumped(normals: jax.Array, bump: jax.Array, p: jax.Array, rotation: jax.Array) -> jax.Array:
    """Unit normals (S,S,3) tilted by slopes (S,S,2) around the vertical axis and upwards, at template positions p."""
    ahead, aside = p[..., 2] + 25.0, -p[..., 0]
    length = jnp.sqrt(ahead**2 + aside**2 + 1e-12)
    sideways = (ahead / length)[..., None] * rotation[:, 0] + (aside / length)[..., None] * rotation[:, 2]
    return shading.normalize(normals - bump[..., :1] * sideways - bump[..., 1:] * rotation[:, 1])


def _objects(head: MorphableHead, scene: Scene, vertices: jax.Array, view: accessories.View) -> objects.Cast:
    """A hand, microphone or headphones in front of the head of `vertices` (V,3) mm, if the scene has one."""
    present_key, key = jax.random.split(jax.random.fold_in(scene.key, 4))
    present = jax.random.bernoulli(present_key, scene.accessories * OBJECT_SHARE)

    def draw() -> objects.Cast:
        landmarks = head.landmark_points(vertices, "68")
        return objects.cast(objects.sample(key, scene, landmarks, hair.fit_skull(head, vertices)), view)

    return lax.cond(present, draw, lambda: objects.nothing(len(view.depth)))


def _develop(radiance: jax.Array, covered: jax.Array, scene: Scene) -> jax.Array:
    """Gamma-encoded image (S,S,3) of linear radiance, exposed for the head; dark skin stays darker than light skin."""
    total = jnp.einsum("yxc,yx->c", radiance, covered, precision="highest").mean()
    mean = total / jnp.maximum(covered.sum(), 1e-3 * covered.size)
    tone = jnp.clip(scene.tone.mean(), 0.25, 1.2)
    gain = jnp.clip(scene.exposure**2 * tone / jnp.maximum(mean, 1e-4), 0.2, 8.0)
    exposed = jnp.maximum(gain * radiance, 1e-6)
    # Film-like shoulder: highlights approach 1 gradually.
    compressed = exposed * (1.0 + 0.16 * exposed) / (1.0 + exposed * 0.45)
    return jnp.sqrt(jnp.minimum(compressed * 1.25, 1.0))


def _add_glasses(
    head: MorphableHead, scene: Scene, image: jax.Array, vertices: jax.Array, view: accessories.View
) -> jax.Array:
    """`image` (S,S,3) with random glasses, if the scene has accessories; `vertices` (V,3) mm are in the head frame."""
    k = jax.random.split(jax.random.fold_in(scene.key, 1), 2)
    landmarks = head.landmark_points(vertices, "68")
    present = jax.random.bernoulli(k[0], scene.accessories * GLASSES_SHARE)

    def draw(image: jax.Array) -> jax.Array:
        return accessories.glasses(k[1], image, view, landmarks)

    return lax.cond(present, draw, lambda image: image, image)


def face_box(head: MorphableHead, points_px: jax.Array) -> jax.Array:
    """Box (4,) x0, y0, x1, y1 px of the face: hairline to chin and side to side."""
    inside = jnp.asarray(head.regions["face"])[:, None]
    low = jnp.where(inside, points_px, jnp.inf).min(0)
    return jnp.concatenate([low, jnp.where(inside, points_px, -jnp.inf).max(0)])
