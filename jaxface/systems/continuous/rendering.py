"""Training batches rendered inside the training step: unlimited data without a data set and without TensorFlow."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import crop_jitter
from jaxface.heads import scenes
from jaxface.heads.canonical import canonical_vertices
from jaxface.heads.morphable import MorphableHead
from jaxface.systems.continuous import crop_units

# Side in pixels of the image in which a scene is composed; only its crop is rendered.
SCENE_SIZE = 256
GREY_PROBABILITY = 1 / 6


def rendering_head(head: MorphableHead) -> dict:
    """The constants of `render_batch` for one head: the renderable head and its vertices in template units."""
    return {"head": scenes.renderable(head), "canonical": canonical_vertices(head)}


def render_example(constants: dict, key: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """One training example, rendered directly in the pixels of its jittered crop.

    Args:
        constants: `rendering_head` of a head.
        key: random key of scene, crop, surface points and grey conversion.
        size: side of the crop in pixels.
        num_surface_samples: number K of random surface points.

    Returns:
        image (size,size,3), queries (68+K,3), points (68+K,2), valid and asked (68+K,), as in
        `data.preprocess_train`.
    """
    head, canonical = constants["head"], constants["canonical"]
    scene_key, crop_key, points_key, grey_key = jax.random.split(key, 4)
    scene = scenes.sample_scene(head, scene_key, SCENE_SIZE, scenes.WITH_ACCESSORIES)
    box = scenes.face_box(head, scenes.project_vertices(head, scene)[1])
    rendering = scenes.render(head, scene, size, crop_jitter.sample_matrix(crop_key, box, size))
    grey = rendering.image.mean(-1, keepdims=True)
    index, weights = scenes.surface_points(head, points_key, num_surface_samples)
    landmark_index, landmark_weights = head.landmarks["68"]
    index = jnp.concatenate([landmark_index, index])
    weights = jnp.concatenate([landmark_weights, weights])[..., None]
    points_px = (rendering.points_px[index] * weights).sum(1)
    points = crop_units.from_pixels(points_px, size)
    return {
        "image": jnp.where(jax.random.bernoulli(grey_key, GREY_PROBABILITY), grey, rendering.image),
        "queries": (canonical[index] * weights).sum(1),
        "points": points,
        "valid": (abs(points) < crop_units.MAX_COORDINATE).all(-1),
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
