"""Training batches rendered inside the step: no data set, no TensorFlow, endless."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.geometry import alignment
from jaxface.heads import scenes
from jaxface.heads.canonical import canonical
from jaxface.heads.morphable import MorphableHead

SCENE_SIZE = 256
SHIFT = 0.06
SCALE = (0.85, 1.2)
ROTATE_RAD = 0.26
GREY_SHARE = 1 / 6


def rendering_head(head: MorphableHead) -> dict:
    """What `render_batch` needs of a head, placed on the devices once: the head to draw and its canonical vertices."""
    return {"head": scenes.renderable(head), "canonical": canonical(head)}


def _crop(key: jax.Array, box: jax.Array, size: int) -> jax.Array:
    k = jax.random.split(key, 3)
    center, side = alignment.square_crop(box)
    center += side * SHIFT * jax.random.uniform(k[0], (2,), minval=-1.0)
    scale = SCALE[0] * (SCALE[1] / SCALE[0]) ** jax.random.uniform(k[1])
    return alignment.crop_matrix(center, side * scale, size, ROTATE_RAD * jax.random.uniform(k[2], minval=-1.0))


def render_example(constants: dict, key: jax.Array, size: int, dense: int) -> dict[str, jax.Array]:
    """One training example of `preprocess_train`'s form, photographed directly through its jittered crop."""
    head, places = constants["head"], constants["canonical"]
    k = jax.random.split(key, 4)
    scene = scenes.sample_scene(head, k[0], SCENE_SIZE, scenes.WITH_ACCESSORIES)
    crop = _crop(k[1], scenes.face_box(head, scenes.project_vertices(head, scene)[1]), size)
    picture = scenes.render(head, scene, size, crop)
    grey = picture.image.mean(-1, keepdims=True)
    index, weights = scenes.surface_points(head, k[2], dense)
    landmark_index, landmark_weights = head.landmarks["68"]
    index = jnp.concatenate([landmark_index, index])
    weights = jnp.concatenate([landmark_weights, weights])[..., None]
    points_px = (picture.points_px[index] * weights).sum(1)
    points = (2 * points_px + 1) / size - 1
    return {
        "image": jnp.where(jax.random.bernoulli(k[3], GREY_SHARE), grey, picture.image),
        "queries": (places[index] * weights).sum(1),
        "points": points,
        "valid": (abs(points) < 1.5).all(-1),
    }


def render_batch(
    batch: dict[str, jax.Array], key: jax.Array, constants: Mapping[str, dict], size: int, dense: int
) -> dict[str, jax.Array]:
    """Rendered examples in the place of `batch`, which carries only its length in `index` (B,).

    `constants` has the `rendering_head` of each head by name; every one is in B over their number of the pictures.
    """
    keys = jax.random.split(key, len(batch["index"]))
    parts = [_each(head, keys[first :: len(constants)], size, dense) for first, head in enumerate(constants.values())]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def _each(head: dict, keys: jax.Array, size: int, dense: int) -> dict[str, jax.Array]:
    """An example of every key: on a CPU one after the other, as pictures of a batch would leave the cache."""

    def render(key: jax.Array) -> dict[str, jax.Array]:
        return render_example(head, key, size, dense)

    return lax.platform_dependent(keys, cpu=lambda keys: lax.map(render, keys), default=jax.vmap(render))
