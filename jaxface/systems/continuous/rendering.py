"""Training batches rendered inside the training step: endless, without a data set and without TensorFlow."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import crop_jitter
from jaxface.heads import scenes
from jaxface.heads.canonical import canonical
from jaxface.heads.morphable import MorphableHead

# Side in pixels of the image in which a scene is composed; only its crop is rendered.
SCENE_SIZE = 256
GREY_PROBABILITY = 1 / 6
# Points count in the loss up to this coordinate of the crop, a quarter of its side beyond the border.
MAX_COORDINATE = 1.5


def rendering_head(head: MorphableHead) -> dict:
    """The constants of `render_batch` for one head: the renderable head and its vertices in template units."""
    return {"head": scenes.renderable(head), "canonical": canonical(head)}


def render_example(constants: dict, key: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """One training example, rendered directly through its jittered crop.

    Args:
        constants: `rendering_head` of a head.
        key: key of scene, crop and surface points.
        size: side of the crop in pixels.
        num_surface_samples: number K of random surface points.

    Returns:
        image (size,size,3), queries (68+K,3), points (68+K,2) and valid (68+K,) as of `data.preprocess_train`.
    """
    head, canonical_vertices = constants["head"], constants["canonical"]
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
    points = (2 * points_px + 1) / size - 1
    return {
        "image": jnp.where(jax.random.bernoulli(grey_key, GREY_PROBABILITY), grey, rendering.image),
        "queries": (canonical_vertices[index] * weights).sum(1),
        "points": points,
        "valid": (abs(points) < MAX_COORDINATE).all(-1),
    }


def render_batch(
    batch: dict[str, jax.Array], key: jax.Array, constants: Mapping[str, dict], size: int, num_surface_samples: int
) -> dict[str, jax.Array]:
    """Rendered examples in place of a batch that carries only its length.

    Args:
        batch: `index` (B,).
        key: key of the batch.
        constants: {name: `rendering_head`}; every head gets an equal share of the images.
        size: side of the crops in pixels.
        num_surface_samples: number K of random surface points per image.

    Returns:
        arrays as of `render_example` with a leading axis B.
    """
    keys = jax.random.split(key, len(batch["index"]))
    parts = [
        _render_each(head, keys[first :: len(constants)], size, num_surface_samples)
        for first, head in enumerate(constants.values())
    ]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def _render_each(head: dict, keys: jax.Array, size: int, num_surface_samples: int) -> dict[str, jax.Array]:
    """An example for each key; sequentially on a CPU, whose cache would not hold the images of a batch."""

    def render(key: jax.Array) -> dict[str, jax.Array]:
        return render_example(head, key, size, num_surface_samples)

    return lax.platform_dependent(keys, cpu=lambda keys: lax.map(render, keys), default=jax.vmap(render))
