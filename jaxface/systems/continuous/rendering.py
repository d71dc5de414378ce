"""Training batches rendered inside the training step: unlimited data without a data set and without TensorFlow."""

import pathlib
from collections.abc import Mapping, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface import photo
from jaxface.errors import UserError
from jaxface.geometry import alignment, camera, crop_jitter
from jaxface.heads import canonical, region_samples, scenes
from jaxface.heads.morphable import MorphableHead
from jaxface.systems.continuous import crop_units

# Side in pixels of the image in which a scene is composed; only its crop is rendered.
SCENE_SIZE = 256
GREY_PROBABILITY = 1 / 6
# Photos for backgrounds that are kept at most, and their side in pixels.
MOST_PHOTOS, PHOTO_SIZE = 256, 256


def background_photos(folder: str) -> np.ndarray:
    """The photos (N,PHOTO_SIZE,PHOTO_SIZE,3) uint8 of a folder, the middle square of each, at most MOST_PHOTOS.

    Of more, every n-th in the order of their names is used. Raises UserError if there is none or one cannot be read.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise UserError(f"config.head.backgrounds: {folder} is not a folder; give one with photos, or leave it empty")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in photo.IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"config.head.backgrounds: {folder} has no photos; give a folder of JPEG or PNG files")
    chosen = np.unique(np.linspace(0, len(files) - 1, MOST_PHOTOS).round().astype(int))
    return np.stack([_square(photo.load(files[index]).pixels) for index in chosen])


def _square(pixels: np.ndarray) -> np.ndarray:
    """The middle square of an image (H,W,3), with PHOTO_SIZE pixels per side."""
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    return cv2.resize(square, (PHOTO_SIZE, PHOTO_SIZE), interpolation=cv2.INTER_AREA)


def rendering_head(head: MorphableHead, regions: Sequence[str] = ("face",)) -> dict:
    """The constants of `render_batch` for one head.

    Args:
        head: the head.
        regions: names of the regions that are labelled, besides the landmarks; "joints" are the points inside the head
            of `canonical.joint_weights`. Regions that the head does not share with the template are left out.

    Returns:
        head: the renderable head; canonical: its vertices in template units; regions: the triangles of its regions; and
        with "joints" among the regions joints: their weights (4,V), and has_joints: whether the head has them.
    """
    renderable = scenes.renderable(head)
    shared = canonical.shared_regions(head, regions)
    constants = {
        "head": renderable,
        "canonical": canonical.canonical_vertices(head),
        "regions": region_samples.region_triangles(renderable, shared or ("face",)),
    }
    if canonical.JOINTS in regions:
        has_joints = canonical.has_joints(head)
        weights = canonical.joint_weights(head) if has_joints else np.zeros((4, len(head.template)), np.float32)
        constants |= {"joints": weights, "has_joints": np.bool_(has_joints)}
    return constants


def render_example(constants: dict, key: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """One training example, rendered directly in the pixels of its jittered crop.

    Args:
        constants: `rendering_head` of a head, and optionally photos (N,P,P,3) uint8 for its backgrounds.
        key: random key of scene, crop, surface points and grey conversion.
        size: side of the crop in pixels.
        num_surface_samples: number K of random surface points.

    Returns:
        image (size,size,3), queries (Q,3), points (Q,2), valid and asked (Q,), as in `data.preprocess_train`. Q is
        68+K, or with joints 68+K+4.
    """
    head, places = constants["head"], constants["canonical"]
    scene_key, crop_key, points_key, grey_key = jax.random.split(key, 4)
    scene = scenes.sample_scene(head, scene_key, SCENE_SIZE, scenes.WITH_ACCESSORIES)
    box = scenes.face_box(head, scenes.project_vertices(head, scene)[1])
    crop = crop_jitter.sample_matrix(crop_key, box, size)
    rendering = scenes.render(head, scene, size, crop, constants.get("photos"))
    grey = rendering.image.mean(-1, keepdims=True)
    index, weights = region_samples.surface_points(constants["regions"], points_key, num_surface_samples)
    landmark_index, landmark_weights = head.landmarks["68"]
    index = jnp.concatenate([landmark_index, index])
    weights = jnp.concatenate([landmark_weights, weights])[..., None]
    points_px = (rendering.points_px[index] * weights).sum(1)
    queries = (places[index] * weights).sum(1)
    labelled = jnp.ones(len(points_px), bool)
    if "joints" in constants:
        joints_px = camera.project(constants["joints"] @ rendering.points, scene.focal_px, scene.center_px)
        points_px = jnp.concatenate([points_px, alignment.apply_affine(crop, joints_px)])
        queries = jnp.concatenate([queries, jnp.asarray(canonical.queries(canonical.JOINTS))])
        labelled = jnp.concatenate([labelled, jnp.broadcast_to(constants["has_joints"], len(joints_px))])
    points = crop_units.from_pixels(points_px, size)
    return {
        "image": jnp.where(jax.random.bernoulli(grey_key, GREY_PROBABILITY), grey, rendering.image),
        "queries": queries,
        "points": points,
        "valid": labelled & (abs(points) < crop_units.MAX_COORDINATE).all(-1),
        "asked": jnp.ones(len(points), bool),
    }


def render_batch(
    batch: dict[str, jax.Array], key: jax.Array, constants: Mapping[str, dict], size: int, num_surface_samples: int
) -> dict[str, jax.Array]:
    """`System.preprocess_on_device`: replaces a batch that carries only its length by rendered examples.

    Args:
        batch: `index` (B,).
        key: random key of the batch.
        constants: {name: as of `render_example`}; every head gets an equal share of the images.
        size: side of the crops in pixels.
        num_surface_samples: number K of random surface points per image.

    Returns:
        The arrays of `render_example` with a leading axis B, grouped by head.
    """
    keys = jax.random.split(key, len(batch["index"]))
    parts = [
        _render_each(head, keys[number :: len(constants)], size, num_surface_samples)
        for number, head in enumerate(constants.values())
    ]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def _render_each(head: dict, keys: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """An example for each key; sequentially on a CPU, whose cache would not hold the images of a batch."""

    def render(key: jax.Array) -> dict[str, jax.Array]:
        return render_example(head, key, size, num_surface_samples)

    return lax.platform_dependent(keys, cpu=lambda keys: lax.map(render, keys), default=jax.vmap(render))
