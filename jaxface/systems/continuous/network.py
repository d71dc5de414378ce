"""The compiled network applied to square crops of faces: several sets of queries from one encoding."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxface import crops, detection
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.heads.sources import EMBEDDED
from jaxface.systems.continuous import crop_units

# Numbers of queries for which the predictor is compiled; fewer queries are padded, more are split.
QUERY_SIZES = (128, 512, 2048)
# Queries of a mirrored crop have x negated, as have its answers.
MIRROR_QUERY, MIRROR_POINT = np.float32([-1, 1, 1]), np.array([-1, 1])
# Points (F,N,2) and sigma (F,N) of F faces.
Answer = tuple[np.ndarray, np.ndarray]


def _no_layouts(params: Any) -> Mapping[str, np.ndarray]:
    del params
    return {}


@dataclasses.dataclass(frozen=True)
class Network:
    """The two compiled functions of a network.

    Attributes:
        encode: `(variables, image (B,S,S,3)) -> features`.
        query: `(variables, features, queries (B,N,3), valid (B,N)) -> points (B,N,2), sigma (B,N)`, both in
            `crop_units`.
        image_size: side S of the crops in pixels.
        named_layouts: `params -> {name: template points (N,3)}`, the model's own layouts.
        template: the template that the network was trained on, see `canonical.in_template`.
        regions: the regions of the head that it was trained on. () accepts every query; visibility and the
            applications, which need a predicted surface, are then not available.
    """

    encode: Callable[..., jax.Array]
    query: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int
    template: str = EMBEDDED
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts
    regions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SquareCrops:
    """Square crops of F faces: center (F,2) and side (F,) in pixels of the image, angle_rad (F,) of the eye line."""

    center: np.ndarray
    side: np.ndarray
    angle_rad: np.ndarray

    @classmethod
    def around(cls, faces: detection.Faces) -> Self:
        """The crops of faces as they are detected or given."""
        half = faces.size / 2
        upright = np.concatenate([faces.center - half, faces.center + half], axis=1)
        return cls(*alignment.square_crop(upright), faces.angle_rad)

    def __getitem__(self, index: np.ndarray) -> Self:
        """The crops of an index array."""
        return dataclasses.replace(self, **{name: value[index] for name, value in vars(self).items()})

    def replaced(self, index: np.ndarray, others: Self) -> Self:
        """A copy in which the crops of an index array are those of `others`."""
        values = {name: value.copy() for name, value in vars(self).items()}
        for name, value in values.items():
            value[index] = getattr(others, name)
        return dataclasses.replace(self, **values)

    def cut(self, images: Sequence[np.ndarray], size: int) -> np.ndarray:
        """The crops (F,size,size,3) float32 in [0,1], each from its own image."""
        regions = zip(images, self.center, self.side, self.angle_rad, strict=True)
        pixels = [crops.cut(image, center, side, angle, size) for image, center, side, angle in regions]
        return np.stack(pixels).astype(np.float32) / 255


@dataclasses.dataclass(frozen=True, eq=False)
class QuerySet:
    """Queries (N,3) of all faces; `mirror` adds mirror test-time augmentation: the mean with the mirrored crop."""

    queries: np.ndarray
    mirror: bool = False

    def in_template(self, template: str) -> Self:
        """The queries in the coordinates of an earlier template; see `canonical.in_template`."""
        return dataclasses.replace(self, queries=canonical.in_template(self.queries, template))


def locate(
    network: Network, variables: Any, images: np.ndarray, squares: SquareCrops, sets: Sequence[QuerySet]
) -> list[Answer]:
    """The answers to each set of queries in crops (F,S,S,3), in pixels of the image."""
    in_template = [one.in_template(network.template) for one in sets]
    matrices = alignment.crop_matrix(squares.center, squares.side, network.image_size, squares.angle_rad)
    to_image = alignment.invert_affine(matrices)
    answers = []
    for points, sigma in run_network(network, variables, images, in_template):
        crops.check_finite(points, sigma)
        crop_px = crop_units.to_pixels(points, network.image_size)
        answers.append((alignment.apply_affine(to_image, crop_px), sigma * squares.side[:, None] / 2))
    return answers


def run_network(network: Network, variables: Any, images: np.ndarray, sets: Sequence[QuerySet]) -> list[Answer]:
    """The answers to each set of queries in `crop_units` for images (F,S,S,3) in [0,1].

    An image, and its mirror image if a set needs it, is encoded once. More than 2048 queries are split into groups.
    """

    def run(batch: np.ndarray) -> list[Answer]:
        features = network.encode(variables, batch)
        mirrored = network.encode(variables, batch[:, :, ::-1]) if any(one.mirror for one in sets) else None
        answers = []
        for one in sets:
            points, sigma = _query(network, variables, features, one.queries, len(batch))
            if one.mirror:
                other, other_sigma = _query(network, variables, mirrored, one.queries * MIRROR_QUERY, len(batch))
                points, sigma = (points + other * MIRROR_POINT) / 2, (sigma + other_sigma) / 2
            answers.append((points, sigma))
        return answers

    return crops.run_in_batches(run, images)


def _query(network: Network, variables: Any, features: Any, queries: np.ndarray, batch: int) -> Answer:
    """The answers to queries (N,3) from the features of `batch` images."""
    groups = np.split(queries, range(QUERY_SIZES[-1], len(queries), QUERY_SIZES[-1]))
    answers = [_query_group(network, variables, features, group, batch) for group in groups]
    points, sigma = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
    return points, sigma


def _query_group(network: Network, variables: Any, features: Any, queries: np.ndarray, batch: int) -> Answer:
    """As `_query`, float64, for queries that are padded to one of QUERY_SIZES."""
    count = len(queries)
    size = next(size for size in QUERY_SIZES if size >= count)
    padded = np.repeat(crops.pad_rows(queries, size)[None], batch, axis=0)
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    points, sigma = network.query(variables, features, padded, valid)
    return np.asarray(points, np.float64)[:, :count], np.asarray(sigma, np.float64)[:, :count]
