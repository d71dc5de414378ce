"""The compiled network applied to square crops of faces: several sets of queries from one encoding."""

import dataclasses
import functools
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
QUERY_SIZES = (72, 128, 512, 2048)
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
        mirror: whether predictions are averaged with those of the realigned and mirrored crop, which takes one more
            pass and lowers the error on photographs by 2 %.
        sigma_scale: factor on the predicted standard deviations.
    """

    encode: Callable[..., jax.Array]
    query: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int
    template: str = EMBEDDED
    named_layouts: Callable[[Any], Mapping[str, np.ndarray]] = _no_layouts
    regions: tuple[str, ...] = ()
    mirror: bool = True
    sigma_scale: float = 1.0


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


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Crops of F faces that the network has encoded: queries are answered from `features`, without the images.

    Attributes:
        network: the compiled network.
        variables: its variables.
        squares: the crops.
        mirrored: whether the network saw mirrored crops. Their queries have x negated, as have its answers.
        features: (F,…), see `Network.encode`.
    """

    network: Network
    variables: Any
    squares: SquareCrops
    mirrored: bool
    features: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Self:
        """The crops of an index array: copies, which do not keep the features of the others in memory."""
        return dataclasses.replace(self, squares=self.squares[index], features=self.features[index])

    def replaced(self, index: np.ndarray, others: Self) -> Self:
        """A copy in which the crops of an index array are those of `others`."""
        features = self.features.copy()
        features[index] = others.features
        return dataclasses.replace(self, squares=self.squares.replaced(index, others.squares), features=features)

    def answers(self, query_sets: Sequence[np.ndarray]) -> list[Answer]:
        """The answers to each set of queries (N,3), in pixels of the images."""
        side, size, squares = np.float32([-1 if self.mirrored else 1, 1, 1]), self.network.image_size, self.squares
        asked = [canonical.in_template(queries, self.network.template) * side for queries in query_sets]
        to_image = alignment.invert_affine(alignment.crop_matrix(squares.center, squares.side, size, squares.angle_rad))
        answers = []
        for points, sigma in self._in_crop_units(asked):
            crops.check_finite(points, sigma)
            crop_px = crop_units.to_pixels(points * side[:2], size)
            answers.append((alignment.apply_affine(to_image, crop_px), sigma * squares.side[:, None] / 2))
        return answers

    def _in_crop_units(self, query_sets: Sequence[np.ndarray]) -> list[Answer]:
        """The answers of the network; more than 2048 queries are split into groups."""

        def run(features: np.ndarray) -> list[Answer]:
            return [_answer(self.network, self.variables, features, queries) for queries in query_sets]

        return crops.run_in_batches(run, self.features)


def encode(
    network: Network, variables: Any, images: Sequence[np.ndarray], squares: SquareCrops, mirror: bool = False
) -> Encoded:
    """Encodes the crops of faces, each from its own image; with `mirror` the mirrored crops."""
    pixels = squares.cut(images, network.image_size)
    run = functools.partial(network.encode, variables)
    features = crops.run_in_batches(run, pixels[:, :, ::-1] if mirror else pixels)
    return Encoded(network, variables, squares, mirror, features)


def _answer(network: Network, variables: Any, features: Any, queries: np.ndarray) -> Answer:
    """The answers to queries (N,3) in the images with these features."""
    groups = np.split(queries, range(QUERY_SIZES[-1], len(queries), QUERY_SIZES[-1]))
    answers = [_answer_group(network, variables, features, group) for group in groups]
    points, sigma = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
    return points, sigma


def _answer_group(network: Network, variables: Any, features: Any, queries: np.ndarray) -> Answer:
    """As `_answer`, float64, for queries that are padded to one of QUERY_SIZES."""
    batch, count = len(features), len(queries)
    size = next(size for size in QUERY_SIZES if size >= count)
    padded = np.broadcast_to(crops.pad_rows(queries, size), (batch, size, 3))
    valid = np.broadcast_to(np.arange(size) < count, (batch, size))
    points, sigma = network.query(variables, features, padded, valid)
    return np.asarray(points, np.float64)[:, :count], np.asarray(sigma, np.float64)[:, :count]
