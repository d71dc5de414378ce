"""Rendered photographs of random heads with everything known about them, as a TFDS data set.

Variants `procedural` (embedded head, needs nothing) and `ict` (ICT-FaceKit in `manual_dir`). Example i of a split is a
pure function of (seed, split, i): the same on every machine up to float rounding.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from jaxface.geometry import raster
from jaxface.heads import scenes, sources
from jaxface.heads.canonical import canonical
from jaxface.heads.morphable import MorphableHead
from jaxface.layouts import LAYOUT_68

SEED = 20230618
DENSE = 256
VISIBLE_WITHIN_MM = 4.0
SPLITS = {"train": 0, "test": 1}
ICT_FILE = "ict_facekit.npz"


@dataclasses.dataclass
class RenderedHeadsConfig(tfds.core.BuilderConfig):
    """`size` of the square pictures in pixels, and the number of examples in each split."""

    size: int = 256
    train: int = 20000
    test: int = 1000


@functools.partial(jax.jit, static_argnames="size")
def render_example(head: MorphableHead, places: jax.Array, key: jax.Array, size: int) -> dict[str, jax.Array]:
    """One example's features, before encoding, and the rasteriser's `overflow`."""
    scene_key, dense_key = jax.random.split(key)
    scene = scenes.sample_scene(head, scene_key, size)
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
        "overflow": picture.overflow,
    }


class RenderedHeads(tfds.core.GeneratorBasedBuilder):
    """`rendered_heads/procedural` and `rendered_heads/ict`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [RenderedHeadsConfig(name=name) for name in sources.NAMES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"`ict` reads ICT-FaceKit (MIT) from manual_dir: the contents of its FaceXModel folder, or {ICT_FILE}"
    )

    def _head(self, manual_dir: str) -> MorphableHead:
        path = os.path.join(manual_dir, ICT_FILE)
        return sources.load_head(self.builder_config.name, path if os.path.exists(path) else manual_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size

        def floats(*shape: int | None) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=np.float32)

        return self.dataset_info_from_configs(
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
        manual_dir = str(dl_manager.manual_dir) if self.builder_config.name == "ict" else ""
        head = self._head(manual_dir)
        arguments = jax.device_put((scenes.renderable(head), canonical(head)))
        return {name: self._generate_examples(arguments, name) for name in SPLITS}

    def _generate_examples(self, arguments: tuple, split: str) -> Iterator[tuple[int, dict]]:
        root = jax.random.fold_in(jax.random.key(SEED), SPLITS[split])

        def render(i: int) -> dict[str, np.ndarray]:
            key = jax.random.fold_in(root, i)
            example = jax.device_get(render_example(*arguments, key, self.builder_config.size))
            if example.pop("overflow"):
                raise RuntimeError(f"example {i} of {split} has more large triangles than `scenes.TIERS` holds")
            example["five"] = LAYOUT_68.five_points(example["landmarks"])
            return example

        # The rasteriser's scatters run on one core each, so pictures run side by side.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from enumerate(pool.map(render, range(getattr(self.builder_config, split))))
