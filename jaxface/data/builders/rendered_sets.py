"""Rendered photographs in sets: PER_SET pictures of one random person, each with its own expression, pose and light.

Variants and what makes a set the same everywhere are as in `rendered_heads`; `examples` counts sets.
"""

import concurrent.futures
import functools
import os
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data.builders import rendered_heads
from jaxface.heads import scenes
from jaxface.heads.morphable import MorphableHead

SEED = 20240117
PER_SET = 5
# What of a scene is the person's, and what the picture's.
PERSON = ("identity", "albedo", "hair", "tone", "plain")
PICTURE = ("expression", "gaze", "rotation", "translation", "focal_px", "center_px")


def make(variant: str, data_dir: str, examples: int = 4000, size: int = 224) -> tfds.core.DatasetBuilder:
    """The builder of a variant, "procedural" where none is named. UserError for values that make no data set."""
    config = rendered_heads.make(variant, data_dir, examples, size).builder_config
    return RenderedSets(data_dir=data_dir, config=config)


@functools.partial(jax.jit, static_argnames=("size", "shot"))
def render_picture(
    head: MorphableHead, person: jax.Array, key: jax.Array, size: int, shot: scenes.CaptureConfig = scenes.UNCONSTRAINED
) -> dict[str, jax.Array]:
    """One picture of the person whose scene is drawn by the key `person`; what else is in it is drawn by `key`."""
    same = scenes.sample_scene(head, person, size)
    scene = scenes.sample_scene(head, key, size, shot).replace(**{name: getattr(same, name) for name in PERSON})
    picture = scenes.render(head, scene, size)
    return {
        "image": (255 * picture.image + 0.5).astype(np.uint8),
        "landmarks": head.landmark_points(picture.points_px, "68"),
        **{name: getattr(scene, name) for name in ("identity", "albedo", *PICTURE)},
    }


class RenderedSets(rendered_heads.RenderedHeads):
    """`rendered_sets/…`, a configuration for each of `rendered_heads.VARIANTS`."""

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size

        def floats(*shape: int | None) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=np.float32)

        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    # The pictures of a set stand one below the other.
                    "image": tfds.features.Image(shape=(PER_SET * size, size, 3), encoding_format="jpeg"),
                    "landmarks": floats(PER_SET, 68, 2),
                    "identity": floats(None),
                    "albedo": floats(None),
                    "expression": floats(PER_SET, None),
                    "gaze": floats(PER_SET, 2),
                    "rotation": floats(PER_SET, 3, 3),
                    "translation": floats(PER_SET, 3),
                    "focal_px": floats(PER_SET),
                    "center_px": floats(PER_SET, 2),
                }
            ),
        )

    def _generate_examples(self, arguments: tuple, split: str) -> Iterator[tuple[int, dict]]:
        head, _ = arguments
        config = self.builder_config
        root = jax.random.fold_in(jax.random.key(SEED), rendered_heads.SPLITS[split])

        def render(i: int) -> dict[str, np.ndarray]:
            person, *keys = jax.random.split(jax.random.fold_in(root, i), PER_SET + 1)
            shots = [jax.device_get(render_picture(head, person, key, config.size, config.shot)) for key in keys]
            example = {name: np.stack([shot[name] for shot in shots]) for name in ("landmarks", *PICTURE)}
            own = {name: shots[0][name] for name in ("identity", "albedo")}
            return {**example, **own, "image": np.concatenate([shot["image"] for shot in shots])}

        # The rasteriser's scatters run on one core each, so sets are rendered side by side.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from enumerate(pool.map(render, range(config.count(split))))
