"""Reconstruction of the faces in images: align by five points, regress coefficients, decode, make results.

Landmarks come from a function that the caller passes in: the original uses MTCNN, `Predictor` the shipped detector.
Several images of one person share the identity (Deng et al., CVPRW 2019, §5).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxface import crops
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks, FaceReconstruction
from jaxface.systems.deep3d import mouth, reconstruction
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.preprocessing import alignment
from jaxface.systems.deep3d.preprocessing.alignment import Crop
from jaxface.systems.deep3d.reconstruction import LAYOUT
from jaxface.systems.deep3d.rendering import image_formation, texture
from jaxface.systems.deep3d.rendering.image_formation import Sizes

Detect = Callable[..., list[FaceLandmarks]]
Regress = Callable[[Any, np.ndarray, FaceModel], jax.Array]
Combine = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
SizeRatio = Callable[[Any, np.ndarray, np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True)
class Head:
    """The morphable head on the device, and a function that returns its texture atlas, computed on the first call."""

    face: FaceModel
    atlas: Callable[[], texture.Atlas]


@dataclasses.dataclass(frozen=True)
class Network:
    """The parts of a model that prediction needs; see `build_network`."""

    regress: Regress
    head: Callable[[], Head]
    sizes: Sizes
    image_size: int
    combine: Combine | None = None
    size_ratio: SizeRatio | None = None
    closes_lips: bool = False


@dataclasses.dataclass(frozen=True)
class AlignedFace:
    """A detected face in its image, and the crop that aligns it."""

    image: np.ndarray
    landmarks: FaceLandmarks
    crop: Crop


def build_network(
    regress: Regress,
    load_face: Callable[[], FaceModel],
    sizes: Sizes,
    image_size: int,
    combine: Combine | None = None,
    size_ratio: SizeRatio | None = None,
    closes_lips: bool = False,
) -> Network:
    """The model in the form that `predict` and `predict_multiview` take.

    Args:
        regress: `(variables, images (B,S,S,3) in [0,1], face) -> coefficients (B,sizes.total)`, compiled.
        load_face: returns the morphable head or raises UserError if its file is missing; called once.
        sizes: numbers of coefficients.
        image_size: S px.
        combine: `(variables, images (N,S,S,3), coefficients (N,sizes.total)) -> identity (I,)` of the person that all N
            images show; None takes the mean.
        size_ratio: `(variables, images (B,S,S,3), coefficients (B,sizes.total)) -> (B,)`, true size of each head
            relative to that of the reconstruction; None if the model does not predict it.
        closes_lips: whether the expression is adjusted so that the lips of closed mouths touch; see `mouth`.
    """

    @functools.cache
    def head() -> Head:
        face = load_face()
        return Head(jax.device_put(face), functools.cache(functools.partial(texture.unwrap, face)))

    return Network(regress, head, sizes, image_size, combine, size_ratio, closes_lips)


def predict(
    network: Network,
    params: Any,
    model_state: Any,
    image: np.ndarray,
    boxes: Any = None,
    layout: str | None = None,
    detect: Detect | None = None,
    five: np.ndarray | None = None,
    min_score: float | None = None,
    max_faces: int | None = None,
) -> list[FaceReconstruction]:
    """Reconstructions of the faces in an image.

    Detected faces that are too small to align, or whose landmarks are uncertain, are left out.

    Args:
        network: the model.
        params: parameters of the network.
        model_state: its further variables.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px; None detects faces.
        layout: "68", which also draws the points on the overlay, or None.
        detect: `(image, boxes, **options) -> faces` with 68 landmarks.
        five: eyes, nose tip and mouth corners (5,2) px of the face in the box; it is aligned by these, as the original
            aligns by its MTCNN points, and not by its landmarks.
        min_score, max_faces: options of `detect`; see `detection.detect_faces`.

    Returns:
        Faces in the order of `boxes`, or the largest first.

    Raises:
        UserError: another layout, no `detect`, a face in `boxes` that is too small, or a network whose output is not
            finite.
    """
    options = {name: value for name, value in (("min_score", min_score), ("max_faces", max_faces)) if value is not None}
    faces = _aligned_faces(network, image, boxes, layout, detect and functools.partial(detect, **options), five)
    if not faces:
        return []
    variables, cut = {"params": params, **model_state}, _cut(faces)
    vectors = _regress(network, variables, cut)
    sizes = _sizes(network, variables, cut, vectors)
    return _results(network, vectors, faces, sizes, points_drawn=layout is not None)


def predict_multiview(
    network: Network,
    params: Any,
    model_state: Any,
    images: Sequence[np.ndarray],
    boxes: Sequence[Any] | None = None,
    layout: str | None = None,
    detect: Detect | None = None,
    five: Sequence[np.ndarray | None] | None = None,
) -> list[list[FaceReconstruction]]:
    """As `predict`, for several images of one person, reconstructed with one identity.

    The identity is the output of `network.combine`, or the mean over the images; the size is their geometric mean.
    Returns for each image a list with one face, the largest or the one in its box, empty if no face was detected.
    """
    boxes = [None] * len(images) if boxes is None else boxes
    five = [None] * len(images) if five is None else five
    largest = [
        _aligned_faces(network, image, box, layout, detect, points)[:1]
        for image, box, points in zip(images, boxes, five, strict=True)
    ]
    faces = [face for per_image in largest for face in per_image]
    if not faces:
        return [[] for _ in images]
    cut, variables = _cut(faces), {"params": params, **model_state}
    vectors = _regress(network, variables, cut)
    sizes = _sizes(network, variables, cut, vectors)
    if sizes[0] is not None:
        sizes = [float(np.exp(np.mean(np.log(sizes))))] * len(faces)
    identities = vectors[:, : network.sizes.identity]
    combined = identities.mean(0) if network.combine is None else network.combine(variables, cut, vectors)
    vectors = np.concatenate(
        [np.broadcast_to(combined, identities.shape), vectors[:, network.sizes.identity :]], axis=1
    )
    remaining = iter(_results(network, vectors, faces, sizes, points_drawn=layout is not None))
    return [[next(remaining)] if per_image else [] for per_image in largest]


def _aligned_faces(
    network: Network, image: np.ndarray, boxes: Any, layout: str | None, detect: Detect | None, five: np.ndarray | None
) -> list[AlignedFace]:
    """The detector's faces with their crops."""
    if layout not in (None, LAYOUT):
        raise UserError(f"layout: deep3d has the layout {LAYOUT!r} only, not {layout!r}; leave it out")
    if detect is None:
        raise UserError("detect: deep3d needs a detector of 68 landmarks; pass detect=..., as Predictor does")
    aligned = []
    for landmarks in detect(image, boxes):
        if boxes is None and not crops.is_face(landmarks.sigma[None], landmarks.extent[None])[0]:
            continue
        try:
            points = landmarks.points if five is None else five
            crop = alignment.align(points, image.shape[1], image.shape[0], network.image_size)
        except UserError:
            if boxes is not None:
                raise
            continue
        aligned.append(AlignedFace(image, landmarks, crop))
    return aligned


def _cut(faces: Sequence[AlignedFace]) -> np.ndarray:
    """Crops (B,S,S,3) in [0,1]."""
    return np.stack([face.crop.cut(face.image) for face in faces]).astype(np.float32) / 255


def _regress(network: Network, variables: Any, images: np.ndarray) -> np.ndarray:
    """Coefficients (B,n) float32 of images (B,S,S,3)."""
    face = network.head().face

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(network.regress(variables, batch, face), np.float32)

    vectors = crops.run_in_batches(run, images)
    crops.check_finite(vectors)
    return vectors


def _sizes(network: Network, variables: Any, images: np.ndarray, vectors: np.ndarray) -> list[float | None]:
    """`network.size_ratio` of images (B,S,S,3) with coefficients (B,n), or None for each."""
    size_ratio = network.size_ratio
    if size_ratio is None:
        return [None] * len(images)
    ratios = crops.run_in_batches(lambda batch: size_ratio(variables, *batch), (images, vectors))
    return ratios.tolist()


def _results(
    network: Network,
    vectors: np.ndarray,
    faces: Sequence[AlignedFace],
    sizes: Sequence[float | None],
    points_drawn: bool,
) -> list[FaceReconstruction]:
    head, results = network.head(), []
    for vector, face, size in zip(vectors, faces, sizes, strict=True):
        if network.closes_lips:
            vector = _with_closed_lips(network, vector, face)
        decoded = reconstruct(head.face, network.sizes, vector, face.crop)
        result = reconstruction.to_result(decoded, face.landmarks, face.image, head.atlas, size)
        results.append(dataclasses.replace(result, points_drawn=points_drawn))
    return results


def _with_closed_lips(network: Network, vector: np.ndarray, face: AlignedFace) -> np.ndarray:
    rotation = image_formation.rotation(network.sizes.split(vector)["angles"][None])[0]
    return mouth.close_lips(
        network.head().face, network.sizes, vector, np.asarray(rotation), face.crop, face.landmarks.points
    )


def reconstruct(face: FaceModel, sizes: Sizes, vector: np.ndarray, crop: Crop) -> reconstruction.Reconstruction:
    """The decoded head of one coefficient vector (sizes.total,), seen through `crop`."""
    shape, neutral, rotation, decoded = jax.device_get(_decode(face, sizes, vector[None]))
    return reconstruction.Reconstruction(
        coefficients=sizes.split(vector),
        crop=crop,
        shape=shape[0],
        neutral=neutral[0],
        vertices=decoded.vertices[0],
        normals=decoded.normals[0],
        albedo=decoded.albedo[0],
        colors=decoded.colors[0],
        landmarks=decoded.landmarks[0],
        rotation=rotation[0],
        triangles=np.asarray(face.triangles),
        shown=face.shown_triangles(),
    )


@functools.partial(jax.jit, static_argnums=1)
def _decode(
    face: FaceModel, sizes: Sizes, vectors: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, image_formation.Decoded]:
    """Shapes with and without expression, rotations, and posed and lit faces."""
    coefficients = image_formation.split(vectors, sizes)
    expressions = coefficients.expression, jnp.zeros_like(coefficients.expression)
    shape, neutral = (image_formation.canonical_shape(face, coefficients.identity, e) for e in expressions)
    rotation = image_formation.rotation(coefficients.angles)
    return shape, neutral, rotation, image_formation.decode(face, coefficients)
