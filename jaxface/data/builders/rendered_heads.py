"""Rendered images of random heads with complete ground truth, as a TFDS data set.

Variants `makehuman` (embedded head, no files) and `ict` (ICT-FaceKit in `manual_dir`), and `…_portraits` of both:
smaller rotations, no occluders, no close-ups. Example i of a split is a pure function of (seed, split, i): the same on
every machine up to float rounding.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data.faces import float_tensor
from jaxface.errors import UserError
from jaxface.geometry import raster
from jaxface.heads import region_samples, scenes, sources
from jaxface.heads.canonical import canonical_vertices
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.sources import EMBEDDED
from jaxface.layouts import LAYOUT_68

# Random surface points per example, the features dense, dense_queries and dense_visible.
SURFACE_POINTS = 256
MIN_SIZE = 32
VISIBLE_WITHIN_MM = 4.0
SPLITS = {"train": 0, "test": 1}
ICT_FILE = "ict_facekit.npz"
# Variants are heads with named expressions and complete surfaces: a truncated face mesh does not look like a photo.
CAPTURES = {"": scenes.UNCONSTRAINED, "_portraits": scenes.PORTRAIT}
# A renderable head, its vertices in template units and the triangles of its face.
HeadArrays = tuple[MorphableHead, jax.Array, region_samples.RegionTriangles]
VARIANTS = ("", *(head + suffix for suffix in CAPTURES for head in (EMBEDDED, "ict")))


@dataclasses.dataclass
class RenderedHeadsConfig(tfds.core.BuilderConfig):
    """Size of a data set.

    Attributes:
        size: side of the square images in pixels.
        examples: number of training examples; a twentieth of it, at least 8, for testing.
    """

    size: int = 256
    examples: int = 20000

    @property
    def head(self) -> str:
        """The name of the head."""
        return self.name.partition("_")[0]

    @property
    def capture(self) -> scenes.CaptureConfig:
        """The distribution of capture conditions."""
        return CAPTURES[self.name.removeprefix(self.head)]

    def count(self, split: str) -> int:
        """Number of examples in "train" or "test"."""
        return self.examples if split == "train" else max(8, self.examples // 20)


def make(data_dir: str, variant: str = "", examples: int = 20000, size: int = 256) -> tfds.core.DatasetBuilder:
    """The builder of a variant.

    Args:
        data_dir: folder of prepared data sets.
        variant: one of VARIANTS; "" is the embedded head.
        examples: see `RenderedHeadsConfig`.
        size: see `RenderedHeadsConfig`.

    Raises:
        UserError: fewer than one example, or images that are too small.
    """
    return RenderedHeads(data_dir=data_dir, config=make_config(variant, examples, size))


def make_config(variant: str, examples: int, size: int) -> RenderedHeadsConfig:
    """The configuration of a variant; arguments and errors as in `make`."""
    if examples < 1 or size < MIN_SIZE:
        raise UserError(f"--examples {examples} --size {size}: too few; give at least 1 example and {MIN_SIZE} px")
    return RenderedHeadsConfig(name=variant or EMBEDDED, size=size, examples=examples)


@functools.partial(jax.jit, static_argnames=("size", "capture"))
def render_example(
    head: MorphableHead,
    canonical_vertices: jax.Array,
    face: region_samples.RegionTriangles,
    key: jax.Array,
    size: int,
    capture: scenes.CaptureConfig = scenes.UNCONSTRAINED,
) -> dict[str, jax.Array]:
    """The features of one example before encoding.

    Args:
        head: the renderable head.
        canonical_vertices: (V,3) its vertices in template units.
        face: the triangles of its face.
        key: key of scene and surface points.
        size: side of the image in pixels.
        capture: distribution of capture conditions.
    """
    scene_key, points_key = jax.random.split(key)
    scene = scenes.sample_scene(head, scene_key, size, capture)
    rendering = scenes.render(head, scene, size)
    landmarks_px = head.landmark_points(rendering.points_px, "68")
    landmarks = head.landmark_points(rendering.points, "68")
    index, weights = region_samples.surface_points(face, points_key, SURFACE_POINTS)

    def is_visible(points: jax.Array, points_px: jax.Array) -> jax.Array:
        return raster.visible_points(points_px, points[:, 2], rendering.depth, VISIBLE_WITHIN_MM)

    def interpolate(values: jax.Array) -> jax.Array:
        return (values[index] * weights[..., None]).sum(1)

    surface_px, surface_points = interpolate(rendering.points_px), interpolate(rendering.points)
    return {
        "image": (255 * rendering.image + 0.5).astype(np.uint8),
        "landmarks": landmarks_px,
        "landmarks_mm": landmarks,
        "visible": is_visible(landmarks, landmarks_px),
        "dense_queries": interpolate(canonical_vertices),
        "dense": surface_px,
        "dense_visible": is_visible(surface_points, surface_px),
        "box": scenes.face_box(head, rendering.points_px),
        **{name: getattr(scene, name) for name in ("focal_px", "center_px", "rotation", "translation")},
        **{name: getattr(scene, name) for name in ("identity", "expression", "albedo", "nose", "gaze")},
    }


def ict_files(head: str) -> str | None:
    """The files that a head needs in `manual_dir`; None for the embedded head."""
    return None if head == EMBEDDED else f"ICT-FaceKit (MIT), the contents of its FaceXModel folder, or {ICT_FILE}"


def load_head(head: str, dl_manager: tfds.download.DownloadManager) -> MorphableHead:
    """The embedded head, or that of the files in `manual_dir`."""
    if head == EMBEDDED:
        return sources.load_head(head, "")
    folder = str(dl_manager.manual_dir)
    packed = os.path.join(folder, ICT_FILE)
    return sources.load_head(head, packed if os.path.exists(packed) else folder)


class RenderedHeads(tfds.core.GeneratorBasedBuilder):
    """`rendered_heads/…`, one configuration for each of `VARIANTS`."""

    # 2.0.0: the template is that of the head `makehuman`.
    # 2.1.0: the places of some landmarks; lids and lips do not cross, opposite face units exclude each other.
    # 2.2.0: more varied people, smiles, moved brows, lids at rest; masks, hands, microphones, headphones.
    # 2.3.0: ICT-FaceKit's brows, and its jaw points, at the places of the embedded head's.
    # 2.4.0: photographs of low resolution; mouths are closed under masks; places of landmarks of nose and lips.
    # 2.5.0: lashes, lids more open, open smiles, photographs from farther away.
    # 2.6.0: noses of every depth; lids shade eyes once.
    VERSION = tfds.core.Version("2.6.0")
    SEED = 20230618

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str | None:
        """The files expected in `manual_dir`; None for the embedded head."""
        return ict_files(self.builder_config.head)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
            "landmarks": float_tensor(68, 2),
            "landmarks_mm": float_tensor(68, 3),
            "visible": tfds.features.Tensor(shape=(68,), dtype=np.bool_),
            "five": float_tensor(5, 2),
            "dense_queries": float_tensor(SURFACE_POINTS, 3),
            "dense": float_tensor(SURFACE_POINTS, 2),
            "dense_visible": tfds.features.Tensor(shape=(SURFACE_POINTS,), dtype=np.bool_),
            "box": float_tensor(4),
            "focal_px": float_tensor(),
            "center_px": float_tensor(2),
            "rotation": float_tensor(3, 3),
            "translation": float_tensor(3),
            "identity": float_tensor(None),
            "expression": float_tensor(None),
            "albedo": float_tensor(None),
            "nose": float_tensor(),
            "gaze": float_tensor(2),
        }
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        head = load_head(self.builder_config.head, dl_manager)
        renderable = scenes.renderable(head)
        on_device = jax.device_put((renderable, canonical_vertices(head), region_samples.region_triangles(renderable)))
        return {name: self._generate_examples(on_device, name) for name in SPLITS}

    def _generate_examples(self, head: HeadArrays, split: str) -> Iterator[tuple[int, dict]]:
        root = jax.random.fold_in(jax.random.key(self.SEED), SPLITS[split])

        def render(i: int) -> dict[str, np.ndarray]:
            return self._example(head, jax.random.fold_in(root, i))

        # The scatters of the rasteriser use one core each.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from enumerate(pool.map(render, range(self.builder_config.count(split))))

    def _example(self, head: HeadArrays, key: jax.Array) -> dict[str, np.ndarray]:
        config = self.builder_config
        example = jax.device_get(render_example(*head, key, config.size, config.capture))
        return {**example, "five": LAYOUT_68.five_points(example["landmarks"])}
