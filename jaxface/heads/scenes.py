"""Synthetic photographs: random renderings of a `MorphableHead` with ground truth, as pure functions of (head, key).

Used for the data sets on disk and for training batches that are rendered inside the training step. Pixel coordinates
have x right, y down and pixel centres at integers; camera space is x right, y down, z forward in millimetres.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax import lax

from jaxface.geometry import camera, lighting, mesh, raster
from jaxface.heads import accessories, background
from jaxface.heads.morphable import MorphableHead, rotate_eyes

# Height of a face, with which the focal length is chosen.
FACE_MM = 170.0
# Near plane of the rasteriser, and the largest distance of the camera.
NEAR_MM = 50.0
FARTHEST_MM = 3000.0
# Number of sine waves in the pattern of the skin.
TEXTURE_WAVES = 8
# Factor on the beard coefficient of heads with a strong beard.
STRONG_BEARD = 3.0
# Probabilities of hair in front of the face and of glasses, for a scene with accessories.
HAIR_SHARE, GLASSES_SHARE = 0.6, 0.5
# Share of heads whose features and eyes are faded, like statues, and of heads whose features are faded at all.
UNTEXTURED_SHARE, FADED_SHARE = 0.15, 0.4


@dataclasses.dataclass(frozen=True)
class CaptureConfig:
    """Distribution of capture conditions.

    Attributes:
        yaw_deg: maximum yaw.
        tilt_deg: maximum pitch and roll.
        nearest_mm: minimum camera distance.
        occluded: probability of occluders in front of the head.
        accessories: probability of accessories (hair in front of the face, glasses); twice that of a strong beard.
    """

    yaw_deg: float = 60.0
    tilt_deg: float = 30.0
    nearest_mm: float = 350.0
    occluded: float = 0.35
    accessories: float = 0.0


UNCONSTRAINED = CaptureConfig()
WITH_ACCESSORIES = CaptureConfig(accessories=0.6)
PORTRAIT = CaptureConfig(yaw_deg=35.0, tilt_deg=15.0, nearest_mm=700.0, occluded=0.0)


@flax.struct.dataclass
class Scene:
    """Parameters of a scene; I, E, A are the numbers of modes of the head.

    Attributes:
        identity, expression, albedo: (I,), (E,), (A,) coefficients.
        gaze: (2,) rad, see `morphable.rotate_eyes`.
        rotation, translation: (3,3) and (3,) mm, head frame to camera space (`camera.to_camera`).
        focal_px, center_px: () and (2,).
        light: (9,3) spherical-harmonics coefficients.
        sun: (2,3) direction and colour of a directional light, in a y-up frame facing the viewer.
        gloss: () strength of its highlight.
        exposure: () mean brightness of the head.
        hair: (3,) sRGB colour of the scalp and of hair in front of the face.
        tone: (3,) factor on the skin colour.
        fade: (2,) in [0,1], blend weights towards the skin colour: of brows, lips and hair, and of the eyes.
        occluded, accessories: () probabilities of occluders and of accessories.
        key: random key of skin pattern, background, occluders, accessories and camera noise.
    """

    identity: jax.Array
    expression: jax.Array
    albedo: jax.Array
    gaze: jax.Array
    rotation: jax.Array
    translation: jax.Array
    focal_px: jax.Array
    center_px: jax.Array
    light: jax.Array
    sun: jax.Array
    gloss: jax.Array
    exposure: jax.Array
    hair: jax.Array
    tone: jax.Array
    fade: jax.Array
    occluded: jax.Array
    accessories: jax.Array
    key: jax.Array


@flax.struct.dataclass
class Rendering:
    """A rendered scene.

    Attributes:
        image: (S,S,3) in [0,1].
        depth: (S,S) mm, 0 for background.
        points: (V,3) mm, vertices in camera space.
        points_px: (V,2), projected vertices.
    """

    image: jax.Array
    depth: jax.Array
    points: jax.Array
    points_px: jax.Array


def renderable(head: MorphableHead) -> MorphableHead:
    """The head without transparent triangles; call it once, on the host."""
    return head.replace(triangles=head.opaque_triangles())


def _expression(key: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """Random expression weights (E,): sparse, mostly symmetric, with a sum of at most 3 before the jaw is opened."""
    index = {name: i for i, name in enumerate(names)}
    # Of a left and a right expression the first of the two, for every other expression itself.
    symmetric = np.array([min(i, index.get(name[:-1] + "L", i)) for i, name in enumerate(names)])
    k = jax.random.split(key, 5)
    weights = jax.random.bernoulli(k[0], 0.12, (len(names),)) * jax.random.uniform(k[1], (len(names),))
    weights = jnp.where(jax.random.bernoulli(k[2], 0.7), weights[symmetric], weights)
    weights /= jnp.maximum(1.0, weights.sum() / 3.0)
    jaw = names.index("jawOpen")
    opening = jax.random.bernoulli(k[3], 0.35) * jax.random.uniform(k[4])
    weights = weights.at[jaw].set(jnp.maximum(weights[jaw], opening))
    if "mouthClose" in names:  # meaningful only with an open jaw; alone it makes the lips intersect
        close = names.index("mouthClose")
        weights = weights.at[close].min(weights[jaw])
    return weights


def _pose(key: jax.Array, middle: jax.Array, size: int, capture: CaptureConfig) -> dict[str, jax.Array]:
    """Random pose and camera: the fields rotation, translation, focal_px and center_px of a `Scene`.

    Args:
        key: random key.
        middle: (3,) mm, centre of the face in the head frame; it projects to `center_px`.
        size: side of the image in pixels.
        capture: limits of the angles and of the distance; the distance is log-uniform up to FARTHEST_MM.
    """
    k = jax.random.split(key, 6)
    spread = jax.random.uniform(k[0], (2, 3), minval=-1.0)
    pitch, roll = jnp.deg2rad(capture.tilt_deg) * spread[0, 1:] * abs(spread[1, 1:])
    yaw = jnp.deg2rad(capture.yaw_deg) * spread[0, 0]
    rotation = jaxlie.SO3.from_rpy_radians(pitch, yaw, roll).as_matrix()
    distance = capture.nearest_mm * (FARTHEST_MM / capture.nearest_mm) ** jax.random.uniform(k[1])
    face_per_image = jax.random.uniform(k[2], minval=0.42, maxval=0.68)
    center = (size - 1) / 2 + size * 0.08 * jax.random.uniform(k[3], (2,), minval=-1.0)
    face_center = jnp.array([0.0, 0.0, 1.0]) * distance
    return {
        "rotation": rotation,
        "translation": face_center - camera.to_camera(middle, rotation, jnp.zeros(3)),
        "focal_px": face_per_image * size * distance / FACE_MM,
        "center_px": center,
    }


def _appearance(key: jax.Array) -> dict[str, jax.Array]:
    """Random light, skin tone and hair colour: the fields light to fade of a `Scene`.

    A share of UNTEXTURED_SHARE of the heads looks like statues of any colour.
    """
    k = jax.random.split(key, 12)
    ambient = jax.random.uniform(k[0], minval=0.35, maxval=1.0)
    light = 0.18 * jax.random.normal(k[1], (9, 1)) + 0.03 * jax.random.normal(k[2], (9, 3))
    direction = jax.random.normal(k[3], (3,)) + jnp.array([0.0, 0.4, 0.8])
    direction /= jnp.linalg.norm(direction)
    color = jax.random.uniform(k[4], maxval=0.8) * (1.0 + 0.12 * jax.random.normal(k[5], (3,)))
    dark = jax.random.uniform(k[6], minval=0.35, maxval=1.15)
    fade = jax.random.uniform(k[8], (4,))
    untextured = fade[0] < UNTEXTURED_SHARE
    tint = jnp.where(untextured, jax.random.uniform(k[11], (3,), minval=-0.8, maxval=0.4), 0.0)
    return {
        "light": light.at[0].add(ambient / lighting.sh_basis(jnp.array([0.0, 0.0, 1.0]))[0]),
        "sun": jnp.stack([direction, color]),
        "gloss": 0.35 * jax.random.uniform(k[7]) ** 2,
        "exposure": jax.random.uniform(k[10], minval=0.2, maxval=0.6),
        "hair": jax.random.uniform(k[9]) ** 2 * jnp.array([0.75, 0.62, 0.48]) + 0.05,
        "tone": dark ** jnp.array([0.8, 1.0, 1.15]) * jnp.exp(tint),
        "fade": jnp.where(untextured, jnp.sqrt(fade[1:3]), jnp.array([fade[3] * (fade[0] < FADED_SHARE), 0.0])),
    }


def sample_scene(head: MorphableHead, key: jax.Array, size: int, capture: CaptureConfig = UNCONSTRAINED) -> Scene:
    """Random person, expression, gaze, pose, focal length, light and skin tone, framed for an S = `size` image."""
    k = jax.random.split(key, 8)
    middle = head.landmark_points(head.template, "68").mean(0)
    strength = jax.random.uniform(k[0], minval=0.5, maxval=1.15)
    albedo = jax.random.normal(k[3], (len(head.albedo_names),))
    if capture.accessories and "beard" in head.albedo_names:
        strong_beard = jax.random.bernoulli(jax.random.fold_in(k[3], 1), capture.accessories / 2)
        albedo = albedo.at[head.albedo_names.index("beard")].multiply(jnp.where(strong_beard, STRONG_BEARD, 1.0))
    return Scene(
        identity=strength * jax.random.normal(k[1], (len(head.identity_names),)),
        expression=_expression(k[2], head.expression_names),
        albedo=albedo,
        gaze=jnp.deg2rad(jnp.array([25.0, 15.0])) * jax.random.uniform(k[4], (2,), minval=-1.0),
        occluded=jnp.float32(capture.occluded),
        accessories=jnp.float32(capture.accessories),
        key=k[7],
        **_pose(k[5], middle, size, capture),
        **_appearance(k[6]),
    )


def _vertex_colors(head: MorphableHead, scene: Scene) -> jax.Array:
    """Albedo (V,3) of the vertices: that of the head, with the hair, fade and tone of the scene and a skin pattern."""
    k = jax.random.split(scene.key, 4)
    albedo = head.colors(scene.albedo)
    albedo = jnp.where(head.regions["scalp"][:, None], scene.hair, albedo)
    eyes = (head.regions["eyeball_L"] | head.regions["eyeball_R"])[:, None]
    skin = albedo[head.landmarks["68"][0][30, 0]]
    albedo += jnp.where(eyes, scene.fade[1], scene.fade[0]) * (skin - albedo)
    waves = jax.random.normal(k[0], (TEXTURE_WAVES, 3)) * 0.25 * jax.random.uniform(k[1], (TEXTURE_WAVES, 1)) ** 2
    phase = jax.random.uniform(k[2], (TEXTURE_WAVES,), maxval=6.28)
    pattern = jnp.sin(head.template @ waves.T + phase).mean(1, keepdims=True)
    albedo *= jnp.where(eyes, scene.tone ** scene.fade[1], scene.tone)
    return albedo * (1.0 + 0.3 * jax.random.uniform(k[3]) * pattern)


def _shade(surface: jax.Array, scene: Scene) -> jax.Array:
    """Shades interpolated albedo and y-up normals (S,S,6): SH and directional diffuse light, Blinn-Phong highlight."""
    albedo, normals = surface[..., :3], surface[..., 3:]
    normals /= jnp.sqrt((normals * normals).sum(-1, keepdims=True) + 1e-12)
    direction, color = scene.sun
    facing = jnp.maximum(normals @ direction, 0.0)[..., None] * color
    halfway = direction + jnp.array([0.0, 0.0, 1.0])
    highlight = jnp.maximum(normals @ (halfway / (jnp.linalg.norm(halfway) + 1e-6)), 0.0)[..., None] ** 24
    diffuse = jnp.maximum(lighting.sh_shade(normals, scene.light), 0.02) + facing
    return albedo * diffuse + scene.gloss * color * highlight


def _cull_back_faces(triangles: jax.Array, points_px: jax.Array) -> jax.Array:
    """Triangles (T,3) with back faces replaced by degenerate triangles, which halves the work of the rasteriser."""
    a, b, c = (points_px[triangles[:, corner]] for corner in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return jnp.where(area[:, None] < 0, triangles, 0)


def project_vertices(head: MorphableHead, scene: Scene) -> tuple[jax.Array, jax.Array]:
    """(vertices (V,3) mm in the head frame, projected vertices (V,2) px) of `scene`."""
    vertices = rotate_eyes(head, head.shape(scene.identity, scene.expression), scene.gaze)
    points = camera.to_camera(vertices, scene.rotation, scene.translation)
    return vertices, camera.project(points, scene.focal_px, scene.center_px)


def render(head: MorphableHead, scene: Scene, size: int, crop: jax.Array | None = None) -> Rendering:
    """Renders `scene` into an S x S image, S = `size`.

    Args:
        head: from `renderable`.
        scene: from `sample_scene`.
        size: side of the image or crop.
        crop: optional affine map (2,3) from image to crop pixels; only the crop is rendered, and `points_px` and
            `depth` are those of the crop.
    """
    vertices, points_px = project_vertices(head, scene)
    points = camera.to_camera(vertices, scene.rotation, scene.translation)
    if crop is not None:
        points_px = points_px @ crop[:, :2].T + crop[:, 2]
    front_faces = _cull_back_faces(head.triangles, points_px)
    visibility = raster.rasterize(points_px, points[:, 2], front_faces, size, size, near=NEAR_MM)
    normals = mesh.vertex_normals(vertices, head.triangles) @ scene.rotation.T
    attributes = jnp.concatenate([_vertex_colors(head, scene), normals, points[:, 2:]], axis=-1)
    surface = raster.interpolate(attributes, points_px, points[:, 2], head.triangles, visibility.triangle_id)
    covered = visibility.triangle_id >= 0
    k = jax.random.split(scene.key, 3)
    middle = head.landmark_points(points_px, "68").mean(0)
    scale_px = 100.0 * jnp.ptp(points_px[:, 1]) / jnp.ptp(points[:, 1])
    surroundings = background.background(k[0], size, middle, scale_px)
    shaded = jnp.where(covered[..., None], _shade(surface[..., :6], scene), 0.0)
    brightness = shaded.mean() / jnp.maximum(covered.mean(), 1e-3)
    exposed = shaded * jnp.clip(scene.exposure / jnp.maximum(brightness, 1e-3), 0.4, 3.0)
    image = jnp.where(covered[..., None], exposed, surroundings)
    image = _add_accessories(head, scene, image, vertices, surface[..., 6], crop)
    image = background.expose(k[2], background.occlude(k[1], image, scene.occluded))
    return Rendering(image, surface[..., 6], points, points_px)


def _add_accessories(
    head: MorphableHead,
    scene: Scene,
    image: jax.Array,
    vertices: jax.Array,
    depth: jax.Array,
    crop: jax.Array | None,
) -> jax.Array:
    """`image` (S,S,3) with random glasses and hair in front of the head, if the scene has accessories.

    `vertices` (V,3) mm are in the head frame, `depth` (S,S) mm and `crop` as in `render`.
    """
    k = jax.random.split(jax.random.fold_in(scene.key, 1), 5)
    present = jax.random.bernoulli(k[0], scene.accessories)
    landmarks = head.landmark_points(vertices, "68")
    rays = accessories.view_rays(len(image), scene.focal_px, scene.center_px, crop)
    view = accessories.View(rays, scene.rotation, scene.translation, depth)

    def glasses(image: jax.Array) -> jax.Array:
        return accessories.glasses(k[1], image, view, landmarks)

    def hair(image: jax.Array) -> jax.Array:
        return accessories.hair(k[2], image, view, landmarks, scene.hair)

    for share, key, draw in ((GLASSES_SHARE, k[3], glasses), (HAIR_SHARE, k[4], hair)):
        image = lax.cond(present & jax.random.bernoulli(key, share), draw, lambda image: image, image)
    return image


def surface_points(head: MorphableHead, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Random points on the face, as (vertex indices (count,3) int32, barycentric weights (count,3)).

    Triangles are chosen uniformly, whatever their area.
    """
    in_face = jnp.asarray(head.regions["face"])[head.triangles].all(-1)
    triangle_key, weights_key = jax.random.split(key)
    cumulative = jnp.cumsum(in_face)
    triangle = jnp.searchsorted(cumulative, jax.random.randint(triangle_key, (count,), 1, cumulative[-1] + 1))
    return jnp.asarray(head.triangles)[triangle], jax.random.dirichlet(weights_key, jnp.ones(3), (count,))


def face_box(head: MorphableHead, points_px: jax.Array) -> jax.Array:
    """Box (4,) x0, y0, x1, y1 px of the face: hairline to chin and side to side."""
    inside = jnp.asarray(head.regions["face"])[:, None]
    low = jnp.where(inside, points_px, jnp.inf).min(0)
    return jnp.concatenate([low, jnp.where(inside, points_px, -jnp.inf).max(0)])
