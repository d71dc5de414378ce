"""Training batches rendered inside the training step: unlimited data without a data set and without TensorFlow."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.geometry import camera, crop_jitter
from jaxface.heads import canonical, scenes
from jaxface.heads.morphable import MorphableHead
from jaxface.systems.continuous import crop_units

# Side in pixels of the image in which a scene is composed; only its crop is rendered.
SCENE_SIZE = 256
GREY_PROBABILITY = 1 / 6


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
        "regions": scenes.region_triangles(renderable, shared or ("face",)),
    }
    if canonical.JOINTS in regions:
        has_joints = canonical.has_joints(head)
        weights = canonical.joint_weights(head) if has_joints else np.zeros((4, len(head.template)), np.float32)
        constants |= {"joints": weights, "has_joints": np.bool_(has_joints)}
    return constants


def render_example(constants: dict, key: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """One training example, rendered directly in the pixels of its jittered crop.

    Args:
        constants: `rendering_head` of a head.
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
    rendering = scenes.render(head, scene, size, crop)
    grey = rendering.image.mean(-1, keepdims=True)
    index, weights = scenes.surface_points(constants["regions"], points_key, num_surface_samples)
    landmark_index, landmark_weights = head.landmarks["68"]
    index = jnp.concatenate([landmark_index, index])
    weights = jnp.concatenate([landmark_weights, weights])[..., None]
    points_px = (rendering.points_px[index] * weights).sum(1)
    queries = (places[index] * weights).sum(1)
    labelled = jnp.ones(len(points_px), bool)
    if "joints" in constants:
        joints_px = camera.project(constants["joints"] @ rendering.points, scene.focal_px, scene.center_px)
        points_px = jnp.concatenate([points_px, joints_px @ crop[:, :2].T + crop[:, 2]])
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
        constants: {name: `rendering_head`}; every head gets an equal share of the images.
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
