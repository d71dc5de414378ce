"""Synthetic photographs: random renderings of a `MorphableHead` with ground truth, as pure functions of (head, key).

Used for the data sets on disk and for training batches that are rendered inside the training step. Pixel coordinates
have x right, y down and pixel centres at integers; camera space is x right, y down, z forward in millimetres.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.geometry import camera, mesh, raster
from jaxface.heads import (
    accessories,
    background,
    bands,
    clothes,
    hair,
    lashes,
    noses,
    objects,
    photography,
    shading,
    skin,
)
from jaxface.heads.capture import (
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
    "RegionTriangles",
    "Rendering",
    "Scene",
    "face_box",
    "project_vertices",
    "region_triangles",
    "render",
    "renderable",
    "sample_scene",
    "surface_points",
]

# Windows of the tiers in which hair is rasterised.
HAIR_WINDOWS = (8, 24, 48, 96)
# Near plane of the rasteriser.
NEAR_MM = 50.0
# Random surface points of a region relative to those of others besides the face: a region with both ears is the least
# accurate of those that photos usually show.
SHARES = {"ears": 4.0}
# Probabilities of glasses, of a hat or hood, and of a hand, microphone or headphones, for a scene with accessories.
GLASSES_SHARE, HAT_SHARE, OBJECT_SHARE = 0.5, 0.16, 0.2
# Depth by which the skull may lie in front of hair that covers it, as the hair follows a smoother skull.
SKULL_TOLERANCE_MM = 14.0


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
class _Layer:
    """A rasterised layer.

    Attributes:
        opacity: (S,S) in [0,1].
        depth: (S,S) mm, 0 where there is nothing.
        albedo: (S,S,3) linear.
        normals: (S,S,3) unit normals, y-up frame facing the viewer.
        strands: (S,S) brightness of single hairs; 0 for other materials.
    """

    opacity: jax.Array
    depth: jax.Array
    albedo: jax.Array
    normals: jax.Array
    strands: jax.Array


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
    hair: _Layer
    held: objects.Cast
    lit: jax.Array
    ambient: jax.Array


@flax.struct.dataclass
class RegionTriangles:
    """Triangles of R regions, one region after the other.

    Attributes:
        triangles: (N,3) int32 vertices.
        first: (R,) int32, the first triangle of each region.
        count: (R,) int32, its number of triangles.
        cumulative: (R,) cumulative shares of the regions among the points that are drawn.
    """

    triangles: jax.Array | np.ndarray
    first: jax.Array | np.ndarray
    count: jax.Array | np.ndarray
    cumulative: jax.Array | np.ndarray


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
        points_px = points_px @ crop[:, :2].T + crop[:, 2]
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
    hair_layer = _hair(head, scene, vertices, view, pixels[..., 6], crop)
    held = _objects(head, scene, vertices, view)
    seen = jnp.where(hair_layer.opacity > 0.5, hair_layer.depth, depth)
    seen = jnp.where(held.opacity > 0.5, held.depth, seen)
    lit, ambient = shading.cast_shadow(scene, view, seen, crop), shading.ambient_occlusion(seen)
    radiance = bands.evaluate(
        functools.partial(_radiance, head, scene, head.landmark_points(points, "68")),
        _Pixels(pixels, rays, hair_layer, held, lit, ambient),
    )
    image = background.background(keys[0], size, photos)
    if "shoulders" not in head.regions:
        middle = head.landmark_points(points_px, "68").mean(0)
        scale_px = 100.0 * jnp.ptp(points_px[:, 1]) / jnp.ptp(points[:, 1])
        image = background.shoulders(keys[1], image, middle, scale_px)
    covered = jnp.maximum((visibility.triangle_id >= 0).astype(jnp.float32), hair_layer.opacity)
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


def _hair(
    head: MorphableHead,
    scene: Scene,
    vertices: jax.Array,
    view: accessories.View,
    scalp: jax.Array,
    crop: jax.Array | None,
) -> _Layer:
    """Hair, hat or hood around the head; an empty layer for bald heads.

    Args:
        head, scene, crop: as of `render`.
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
    nothing = _Layer(*(jnp.zeros((size, size, *shape)) for shape in ((), (), (3,), (3,), ())))

    def volume(_: None) -> _Layer:
        skull = hair.fit_skull(head, vertices)
        grown, triangles = hair.mesh(style, skull)
        points = camera.to_camera(grown, scene.rotation, scene.translation)
        px = camera.project(points, scene.focal_px, scene.center_px)
        px = px if crop is None else px @ crop[:, :2].T + crop[:, 2]
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
        return _Layer(opacity, depth, albedo, normal, strands * jnp.where(wears_hat, 0.25, 1.0))

    has_hair = wears_hat | ~skin.is_cropped(scene)
    return lax.cond(has_hair, volume, lambda _: nothing, None)


def _objects(head: MorphableHead, scene: Scene, vertices: jax.Array, view: accessories.View) -> objects.Cast:
    """A hand, microphone or headphones in front of the head, if the scene has one; `vertices` (V,3) as in `_hair`."""
    present_key, key = jax.random.split(jax.random.fold_in(scene.key, 4))
    present = jax.random.bernoulli(present_key, scene.accessories * OBJECT_SHARE)

    def draw() -> objects.Cast:
        landmarks = head.landmark_points(vertices, "68")
        return objects.cast(objects.sample(key, scene, landmarks, hair.fit_skull(head, vertices)), view)

    return lax.cond(present, draw, lambda: objects.nothing(len(view.depth)))


def _develop(radiance: jax.Array, covered: jax.Array, scene: Scene) -> jax.Array:
    """Gamma-encoded image (S,S,3) of linear radiance, exposed for the head; dark skin stays darker than light skin."""
    mean = jnp.einsum("yxc,yx->c", radiance, covered).mean() / jnp.maximum(covered.sum(), 1e-3 * covered.size)
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


def region_triangles(head: MorphableHead, regions: Sequence[str] = ("face",)) -> RegionTriangles:
    """The triangles of regions of a head, for `surface_points`; call it once, on the host.

    The face gets half of the points if there are other regions, and these share the rest by `SHARES`.

    Args:
        head: from `renderable`.
        regions: names of regions; those without triangles are left out.
    """
    triangles = np.asarray(head.triangles)
    parts = {name: triangles[np.asarray(head.regions[name])[triangles].all(-1)] for name in regions}
    parts = {name: part for name, part in parts.items() if len(part)}
    shares = np.array([SHARES.get(name, 1.0) for name in parts])
    if "face" in parts and len(parts) > 1:
        face = list(parts).index("face")
        shares[face] = np.delete(shares, face).sum()
    counts = np.array([len(part) for part in parts.values()], np.int32)
    return RegionTriangles(
        triangles=np.concatenate(list(parts.values())).astype(np.int32),
        first=(np.cumsum(counts) - counts).astype(np.int32),
        count=counts,
        cumulative=(np.cumsum(shares) / shares.sum()).astype(np.float32),
    )


def surface_points(regions: RegionTriangles, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Random points of regions, as (vertex indices (count,3) int32, barycentric weights (count,3)).

    Triangles of a region are chosen uniformly, whatever their area.
    """
    triangle_key, weights_key = jax.random.split(key)
    place = jax.random.uniform(jax.random.fold_in(triangle_key, 1), (count,))
    region = jnp.searchsorted(jnp.asarray(regions.cumulative)[:-1], place, side="right")
    number = jax.random.randint(triangle_key, (count,), 0, jnp.asarray(regions.count)[region])
    chosen = jnp.asarray(regions.triangles)[jnp.asarray(regions.first)[region] + number]
    return chosen, jax.random.dirichlet(weights_key, jnp.ones(3), (count,))


def face_box(head: MorphableHead, points_px: jax.Array) -> jax.Array:
    """Box (4,) x0, y0, x1, y1 px of the face: hairline to chin and side to side."""
    inside = jnp.asarray(head.regions["face"])[:, None]
    low = jnp.where(inside, points_px, jnp.inf).min(0)
    return jnp.concatenate([low, jnp.where(inside, points_px, -jnp.inf).max(0)])
