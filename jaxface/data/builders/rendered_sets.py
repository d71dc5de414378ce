"""Rendered images in sets: PER_SET images of one random person, each with its own expression, pose and light.

Variants and reproducibility are as in `rendered_heads`; `examples` counts sets.
"""

import functools

import jax
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data.builders import rendered_heads
from jaxface.data.faces import float_tensor
from jaxface.heads import scenes
from jaxface.heads.morphable import MorphableHead

PER_SET = 5
VARIANTS = rendered_heads.VARIANTS
# Fields of a scene that are stored once for a set, all fields that the images of a person share, and fields stored for
# each image.
SHARED = ("identity", "albedo", "nose")
PERSON = (*SHARED, "hair", "tone", "fade", "person_key")
PER_IMAGE = ("expression", "gaze", "rotation", "translation", "focal_px", "center_px")


def make(data_dir: str, variant: str = "", examples: int = 4000, size: int = 224) -> tfds.core.DatasetBuilder:
    """The builder of a variant; arguments and errors as in `rendered_heads.make`."""
    return RenderedSets(data_dir=data_dir, config=rendered_heads.make_config(variant, examples, size))


@functools.partial(jax.jit, static_argnames=("size", "capture"))
def render_image(
    head: MorphableHead,
    person_key: jax.Array,
    key: jax.Array,
    size: int,
    capture: scenes.CaptureConfig = scenes.UNCONSTRAINED,
) -> dict[str, jax.Array]:
    """One image of a person.

    Args:
        head: the renderable head.
        person_key: key of the person's appearance.
        key: key of everything else, such as expression, pose and light.
        size: side of the image in pixels.
        capture: distribution of capture conditions.
    """
    person = scenes.sample_scene(head, person_key, size, capture)
    scene = scenes.sample_scene(head, key, size, capture)
    scene = scene.replace(**{name: getattr(person, name) for name in PERSON})
    rendering = scenes.render(head, scene, size)
    return {
        "image": (255 * rendering.image + 0.5).astype(np.uint8),
        "landmarks": head.landmark_points(rendering.points_px, "68"),
        **{name: getattr(scene, name) for name in (*SHARED, *PER_IMAGE)},
    }


class RenderedSets(rendered_heads.RenderedHeads):
    """`rendered_sets/…`, one configuration for each of `rendered_heads.VARIANTS`."""

    SEED = 20240117

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            # The images of a set are stacked vertically.
            "image": tfds.features.Image(shape=(PER_SET * size, size, 3), encoding_format="jpeg"),
            "landmarks": float_tensor(PER_SET, 68, 2),
            "identity": float_tensor(None),
            "albedo": float_tensor(None),
            "nose": float_tensor(),
            "expression": float_tensor(PER_SET, None),
            "gaze": float_tensor(PER_SET, 2),
            "rotation": float_tensor(PER_SET, 3, 3),
            "translation": float_tensor(PER_SET, 3),
            "focal_px": float_tensor(PER_SET),
            "center_px": float_tensor(PER_SET, 2),
        }
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=tfds.features.FeaturesDict(features))

    def _example(self, head: rendered_heads.HeadArrays, key: jax.Array) -> dict[str, np.ndarray]:
        renderable, config = head[0], self.builder_config
        person, *keys = jax.random.split(key, PER_SET + 1)
        images = [jax.device_get(render_image(renderable, person, key, config.size, config.capture)) for key in keys]
        stacked = {name: np.stack([image[name] for image in images]) for name in ("landmarks", *PER_IMAGE)}
        shared = {name: images[0][name] for name in SHARED}
        return {**stacked, **shared, "image": np.concatenate([image["image"] for image in images])}
