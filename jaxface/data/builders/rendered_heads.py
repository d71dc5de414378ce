"""Rendered photographs of random heads with everything known about them, as a TFDS data set.

Variants `procedural` (embedded head, needs nothing) and `ict` (ICT-FaceKit in `manual_dir`), and `…_portraits` of both:
less turned, nothing in front of them, not from close by. Example i of a split is a pure function of (seed, split, i):
the same on every machine up to float rounding.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from jaxface.errors import UserError
from jaxface.geometry import raster
from jaxface.heads import scenes, sources
from jaxface.heads.canonical import canonical
from jaxface.heads.morphable import MorphableHead
from jaxface.layouts import LAYOUT_68

SEED = 20230618
DENSE = 256
SMALLEST = 32
VISIBLE_WITHIN_MM = 4.0
SPLITS = {"train": 0, "test": 1}
ICT_FILE = "ict_facekit.npz"
# Heads with named expressions and whole surfaces; a cut-out face makes no photograph.
SHOTS = {"": scenes.UNCONSTRAINED, "_portraits": scenes.PORTRAIT}
VARIANTS = tuple(head + shot for shot in SHOTS for head in ("procedural", "ict"))


@dataclasses.dataclass
class RenderedHeadsConfig(tfds.core.BuilderConfig):
    """`size` of the square pictures in pixels; `examples` to train on, a twentieth of it (at least 8) to test on."""

    size: int = 256
    examples: int = 20000

    @property
    def head(self) -> str:
        """The name of the head."""
        return self.name.partition("_")[0]

    @property
    def shot(self) -> scenes.CaptureConfig:
        """How it is photographed."""
        return SHOTS[self.name.removeprefix(self.head)]

    def count(self, split: str) -> int:
        """Examples in "train" or "test"."""
        return self.examples if split == "train" else max(8, self.examples // 20)


def make(variant: str, data_dir: str, examples: int = 20000, size: int = 256) -> tfds.core.DatasetBuilder:
    """The builder of a variant, "procedural" where none is named. UserError for values that make no data set."""
    variant = variant or "procedural"
    if variant not in VARIANTS:
        raise UserError(f"rendered_heads has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    if examples < 1 or size < SMALLEST:
        raise UserError(f"rendered heads need at least 1 example and {SMALLEST} pixels, not {examples} and {size}")
    config = RenderedHeadsConfig(name=variant, size=size, examples=examples)
    return RenderedHeads(data_dir=data_dir, config=config)


@functools.partial(jax.jit, static_argnames=("size", "shot"))
def render_example(
    head: MorphableHead, places: jax.Array, key: jax.Array, size: int, shot: scenes.CaptureConfig = scenes.UNCONSTRAINED
) -> dict[str, jax.Array]:
    """One example's features, before encoding."""
    scene_key, dense_key = jax.random.split(key)
    scene = scenes.sample_scene(head, scene_key, size, shot)
    picture = scenes.render(head, scene, size)
    landmarks_px = head.landmark_points(picture.points_px, "68")
    landmarks = head.landmark_points(picture.points, "68")
    index, weights = scenes.surface_points(head, dense_key, DENSE)

    def seen(points: jax.Array, points_px: jax.Array) -> jax.Array:
        return raster.visible_points(points_px, points[:, 2], picture.depth, VISIBLE_WITHIN_MM)

    def blend(values: jax.Array) -> jax.Array:
        return (values[index] * weights[..., None]).sum(1)

    dense_px, dense_points = blend(picture.points_px), blend(picture.points)
    return {
        "image": (255 * picture.image + 0.5).astype(np.uint8),
        "landmarks": landmarks_px,
        "landmarks_mm": landmarks,
        "visible": seen(landmarks, landmarks_px),
        "dense_queries": blend(places),
        "dense": dense_px,
        "dense_visible": seen(dense_points, dense_px),
        "box": scenes.face_box(head, picture.points_px),
        **{name: getattr(scene, name) for name in ("focal_px", "center_px", "rotation", "translation")},
        **{name: getattr(scene, name) for name in ("identity", "expression", "albedo", "gaze")},
    }


class RenderedHeads(tfds.core.GeneratorBasedBuilder):
    """`rendered_heads/…`, a configuration for each of `VARIANTS`."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str | None:
        """What has to lie in `manual_dir`, None for the embedded head."""
        if self.builder_config.head == "procedural":
            return None
        return f"ICT-FaceKit (MIT), the contents of its FaceXModel folder, or {ICT_FILE}"

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size

        def floats(*shape: int | None) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=np.float32)

        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
                    "landmarks": floats(68, 2),
                    "landmarks_mm": floats(68, 3),
                    "visible": tfds.features.Tensor(shape=(68,), dtype=np.bool_),
                    "five": floats(5, 2),
                    "dense_queries": floats(DENSE, 3),
                    "dense": floats(DENSE, 2),
                    "dense_visible": tfds.features.Tensor(shape=(DENSE,), dtype=np.bool_),
                    "box": floats(4),
                    "focal_px": floats(),
                    "center_px": floats(2),
                    "rotation": floats(3, 3),
                    "translation": floats(3),
                    "identity": floats(None),
                    "expression": floats(None),
                    "albedo": floats(None),
                    "gaze": floats(2),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        head = sources.load_head(self.builder_config.head, self._head_path(dl_manager))
        arguments = jax.device_put((scenes.renderable(head), canonical(head)))
        return {name: self._generate_examples(arguments, name) for name in SPLITS}

    def _head_path(self, dl_manager: tfds.download.DownloadManager) -> str:
        if self.builder_config.head == "procedural":
            return ""
        folder = str(dl_manager.manual_dir)
        packed = os.path.join(folder, ICT_FILE)
        return packed if os.path.exists(packed) else folder

    def _generate_examples(self, arguments: tuple, split: str) -> Iterator[tuple[int, dict]]:
        root = jax.random.fold_in(jax.random.key(SEED), SPLITS[split])
        config = self.builder_config

        def render(i: int) -> dict[str, np.ndarray]:
            key = jax.random.fold_in(root, i)
            example = jax.device_get(render_example(*arguments, key, config.size, config.shot))
            example["five"] = LAYOUT_68.five_points(example["landmarks"])
            return example

        # The rasteriser's scatters run on one core each, so pictures run side by side.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from enumerate(pool.map(render, range(config.count(split))))
