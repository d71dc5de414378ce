"""From photographs to heads: find the face, align it by five points, regress, decode, and tell what was found.

The points come from outside, by a function that is passed in: the original leaves them to MTCNN, the launchers pass the
detector that ships. Several pictures of one person share the shape (Deng et al., CVPRW 2019, §5).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxface.errors import UserError
from jaxface.systems.deep3d import results
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.preprocessing import alignment
from jaxface.systems.deep3d.preprocessing.alignment import Crop
from jaxface.systems.deep3d.rendering import image_formation, texture
from jaxface.systems.deep3d.rendering.image_formation import Sizes

LAYOUT = "68"
# Pictures go through the network in batches of a power of two up to this.
MAX_BATCH = 16

Face = dict[str, Any]
Detect = Callable[[np.ndarray, Any], list[Face]]

Regress = Callable[[Any, np.ndarray, FaceModel], jax.Array]
Combine = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Head:
    """The head that coefficients are of, on the device, and its atlas, made when a texture is asked for."""

    face: FaceModel
    atlas: Callable[[], texture.Atlas]


@dataclasses.dataclass(frozen=True)
class Network:
    """What predicting needs of a model; see `network`."""

    regress: Regress
    head: Callable[[], Head]
    sizes: Sizes
    image_size: int
    combine: Combine | None = None


def network(
    regress: Regress,
    load_face: Callable[[], FaceModel],
    sizes: Sizes,
    image_size: int,
    combine: Combine | None = None,
) -> Network:
    """A model as `predict` and `predict_multiview` want it.

    regress(variables, images (B,S,S,3) in [0,1], face) -> coefficients (B,sizes.total), compiled. load_face() -> the
    head, a UserError where its file is missing; called once, when it is needed. combine(variables, images (N,S,S,3),
    coefficients (N,sizes.total)) -> the identity (I,) of the person that all N pictures show; None takes the mean.
    """

    @functools.cache
    def head() -> Head:
        face = load_face()
        return Head(jax.device_put(face), functools.cache(functools.partial(texture.unwrap, face)))

    return Network(regress, head, sizes, image_size, combine)


def predict(
    network: Network,
    params: Any,
    model_state: Any,
    pixels: np.ndarray,
    boxes: Any = None,
    layout: str = LAYOUT,
    detect: Detect | None = None,
) -> list[Face]:
    """The faces in `pixels` (H,W,3) uint8 RGB, the largest first, or those in `boxes` (4,) or (F,4), in their order.

    detect(pixels, boxes or None) gives the faces to reconstruct as dicts of box [4], extent [4], points (68,2) and
    sigma (68,) px. A face is a dict of these, where points are those of the reconstructed head and sigma says how far
    they lie from the detector's, and of what `results.describe` adds. Faces too small to align are left out, unless
    they are in `boxes`.
    UserError: another layout than "68", no `detect`, a network that gives no numbers.
    """
    found = _located(network, pixels, boxes, layout, detect)
    if not found:
        return []
    images = np.stack([crop.cut(pixels) for _, crop in found]).astype(np.float32) / 255
    vectors = _regressed(network, {"params": params, **model_state}, images)
    return _told(network, vectors, found, [pixels] * len(found))


def predict_multiview(
    network: Network,
    params: Any,
    model_state: Any,
    pictures: Sequence[np.ndarray],
    boxes: Sequence[Any] | None = None,
    layout: str = LAYOUT,
    detect: Detect | None = None,
) -> list[list[Face]]:
    """As `predict`, of several `pictures` of one person: of each the largest face, or that in its box, or none.

    All of them get the same identity: the network's own combination, or the mean.
    """
    boxes = [None] * len(pictures) if boxes is None else boxes
    located = [_located(network, *one, layout, detect)[:1] for one in zip(pictures, boxes, strict=True)]
    found = [face for faces in located for face in faces]
    if not found:
        return [[] for _ in pictures]
    shown = [pixels for pixels, faces in zip(pictures, located, strict=True) if faces]
    images = np.stack([crop.cut(pixels) for pixels, (_, crop) in zip(shown, found, strict=True)])
    images, variables = images.astype(np.float32) / 255, {"params": params, **model_state}
    vectors = _regressed(network, variables, images)
    own = vectors[:, : network.sizes.identity]
    combined = own.mean(0) if network.combine is None else network.combine(variables, images, vectors)
    vectors = np.concatenate([np.broadcast_to(combined, own.shape), vectors[:, network.sizes.identity :]], axis=1)
    told = iter(_told(network, vectors, found, shown))
    return [[next(told)] if faces else [] for faces in located]


def _located(network: Network, pixels: np.ndarray, boxes: Any, layout: str, detect: Detect | None) -> list:
    """The detector's faces with their crops."""
    if layout != LAYOUT:
        raise UserError(f"deep3d gives the layout {LAYOUT!r}, not {layout!r}")
    if detect is None:
        raise UserError(
            "deep3d needs a function that finds 68 points, as detect=...; Predictor passes the one that ships"
        )
    located = []
    for face in detect(pixels, boxes):
        try:
            crop = alignment.align(face["points"], pixels.shape[1], pixels.shape[0], network.image_size)
        except UserError:
            if boxes is not None:
                raise
            continue
        located.append((face, crop))
    return located


def _regressed(network: Network, variables: Any, images: np.ndarray) -> np.ndarray:
    """Coefficients (B,n) float32 of images (B,S,S,3)."""
    face, parts = network.head().face, []
    for chunk in np.split(images, range(MAX_BATCH, len(images), MAX_BATCH)):
        padding = 2 ** math.ceil(math.log2(len(chunk))) - len(chunk)
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], padding, axis=0)])
        parts.append(np.asarray(network.regress(variables, padded, face), np.float32)[: len(chunk)])
    vectors = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise UserError("the network gives numbers that are not finite: its parameters are damaged")
    return vectors


def _told(network: Network, vectors: np.ndarray, found: list, pictures: list[np.ndarray]) -> list[Face]:
    head, faces = network.head(), []
    for vector, (face, crop), pixels in zip(vectors, found, pictures, strict=True):
        made = reconstruct(head.face, network.sizes, vector, crop)
        points = made.points_px
        sigma = np.hypot(np.linalg.norm(points - face["points"], axis=1), face["sigma"])
        faces.append(
            {
                **{key: face[key] for key in ("box", "extent") if key in face},
                "layout": LAYOUT,
                "points": points,
                "sigma": sigma,
                **results.describe(made, pixels, head.atlas),
            }
        )
    return faces


def reconstruct(face: FaceModel, sizes: Sizes, vector: np.ndarray, crop: Crop) -> results.Reconstruction:
    """The head of one coefficient vector (sizes.total,), seen through `crop`."""
    shape, rotation, decoded = jax.device_get(_decode(face, sizes, vector[None]))
    return results.Reconstruction(
        coefficients=results.split_coefficients(vector, sizes),
        crop=crop,
        shape=shape[0],
        vertices=decoded.vertices[0],
        normals=decoded.normals[0],
        albedo=decoded.albedo[0],
        colors=decoded.colors[0],
        landmarks=decoded.landmarks[0],
        rotation=rotation[0],
        triangles=np.asarray(face.triangles),
    )


@functools.partial(jax.jit, static_argnums=1)
def _decode(face: FaceModel, sizes: Sizes, vectors: jax.Array) -> tuple[jax.Array, jax.Array, image_formation.Decoded]:
    coefficients = image_formation.split(vectors, sizes)
    shape = image_formation.canonical_shape(face, coefficients.identity, coefficients.expression)
    return shape, image_formation.rotation(coefficients.angles), image_formation.decode(face, coefficients)
