"""Training-time evaluation of Deep3D: errors per example on the device, summaries on the host.

Shape errors are mean distances over the face's vertices in millimetres. A photo determines neither size nor distance,
so scale and translation are always aligned first; each error states whether the rotation is aligned too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import alignment
from jaxface.system import Batch, Tree
from jaxface.systems.deep3d.face_model import EXPRESSION_DEVIATION, MM_PER_DM, FaceModel
from jaxface.systems.deep3d.model import RNet, regress_and_refine
from jaxface.systems.deep3d.networks import confidence_net
from jaxface.systems.deep3d.rendering import image_formation

Score = Callable[[Tree, Tree, Batch, Tree], dict[str, jax.Array]]


def score(net: RNet, comparable: bool, sets: bool) -> Score:
    """`Evaluator.predict`.

    Args:
        net: the regressor.
        comparable: whether the images are renderings of the configured head, so that vertices correspond.
        sets: whether examples are sets of images of one person.
    """
    return functools.partial(_score_sets if sets else _score_images, net, comparable)


def _score_images(
    net: RNet, comparable: bool, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """Errors of single images: landmarks (B,) px of the 224 px crop, `head_errors` if comparable, and "picture"."""
    face = constants["face"]
    vector, *_ = regress_and_refine(net, {"params": params, **model_state}, batch["image"], face)
    coefficients = image_formation.split(vector, net.sizes)
    decoded = image_formation.decode(face, coefficients)
    rendered = image_formation.render(face, decoded, batch["image"].shape[1])
    errors = {"landmarks": jnp.linalg.norm(decoded.landmarks - batch["landmarks"], axis=-1).mean(-1)}
    if comparable and _has_model_coefficients(face, batch):
        errors |= head_errors(face, coefficients, batch)
    overlay = jnp.where(rendered.covered[..., None], jnp.clip(rendered.image, 0, 1), batch["image"])
    return {**errors, "picture": jnp.concatenate([batch["image"], overlay], axis=2)}


def _has_model_coefficients(face: FaceModel, batch: Batch) -> bool:
    """Whether the ground-truth identity has the model's number of modes."""
    return "identity" in batch and batch["identity"].shape[-1] == len(face.identity)


def head_errors(
    face: FaceModel, coefficients: image_formation.Coefficients, truth: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Shape errors (B,) mm of reconstructed heads, and of baselines.

    Args:
        face: the face model.
        coefficients: the predictions.
        truth: identity (B,I), expression weights (B,E), rotation (B,3,3).

    Returns:
        vertex: posed head in camera space, rotation as predicted. shape: posed head, rotation aligned.
        vertex_of_mean: mean head, rotation aligned. vertex_of_frontal: mean head facing the camera, rotation not
        aligned. identity: neutral shape, rotation aligned. identity_of_mean: the same of the mean head.
    """
    true_weights = truth["identity"], truth["expression"] / EXPRESSION_DEVIATION
    true_shape = image_formation.canonical_shape(face, *true_weights)
    true_posed = image_formation.rotate(true_shape, truth["rotation"])[:, face.face_vertices]
    shape = image_formation.canonical_shape(face, coefficients.identity, coefficients.expression)
    posed = image_formation.rotate(shape, image_formation.rotation(coefficients.angles))[:, face.face_vertices]
    mean = jnp.broadcast_to(jnp.asarray(face.mean)[face.face_vertices], posed.shape)
    true_neutral, neutral = neutral_shapes(face, truth["identity"]), neutral_shapes(face, coefficients.identity)
    return {
        "vertex": distance_mm(posed, true_posed, rotate=False),
        "shape": distance_mm(posed, true_posed, rotate=True),
        "vertex_of_mean": distance_mm(mean, true_posed, rotate=True),
        "vertex_of_frontal": distance_mm(mean, true_posed, rotate=False),
        "identity": distance_mm(neutral, true_neutral, rotate=True),
        "identity_of_mean": distance_mm(mean, true_neutral, rotate=True),
    }


def neutral_shapes(face: FaceModel, identity: jax.Array) -> jax.Array:
    """Neutral faces (B,N,3) dm of identities (B,I)."""
    expression = jnp.zeros((len(identity), len(face.expression)))
    return image_formation.canonical_shape(face, identity, expression)[:, face.face_vertices]


def distance_mm(points: jax.Array, truth: jax.Array, rotate: bool) -> jax.Array:
    """Mean distances (B,) mm of corresponding points after alignment in the least-squares sense.

    Args:
        points: (B,N,3) dm, which are aligned.
        truth: (B,N,3) dm.
        rotate: align rotation, scale and translation (Umeyama); otherwise only scale and translation.
    """
    if rotate:
        scale, rotation, translation = alignment.similarity(points, truth)
        aligned = scale[:, None, None] * image_formation.rotate(points, rotation) + translation[:, None]
    else:
        center, true_center = points.mean(1, keepdims=True), truth.mean(1, keepdims=True)
        centered = points - center
        scale = (centered * (truth - true_center)).sum((1, 2)) / (centered**2).sum((1, 2))
        aligned = scale[:, None, None] * centered + true_center
    return MM_PER_DM * jnp.linalg.norm(aligned - truth, axis=-1).mean(-1)


def _score_sets(
    net: RNet, comparable: bool, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """Identity errors (S,) mm of sets: of single images, their average, the C-Net's weighted mean and the mean head.

    `confidence_spread` (S,) is the standard deviation of the C-Net's confidences over the images of a set.
    """
    face, image = constants["face"], batch["image"]
    sets, count = image.shape[:2]
    images = image.reshape(-1, *image.shape[2:])
    vector, pooled, early = regress_and_refine(net, {"params": params, **model_state}, images, face)
    identity = vector[:, : net.sizes.identity].reshape(sets, count, -1)
    confidence = confidence_net.apply(params, net.sizes.identity, pooled, early).reshape(identity.shape)
    spread = confidence.std(1).mean(-1)
    if not (comparable and _has_model_coefficients(face, batch)):
        return {"confidence_spread": spread}
    true_neutral = neutral_shapes(face, batch["identity"])

    def error(identity: jax.Array) -> jax.Array:
        return distance_mm(neutral_shapes(face, identity), true_neutral, rotate=True)

    single = jnp.stack([error(identity[:, index]) for index in range(count)]).mean(0)
    return {
        "identity_single": single,
        "identity_average": error(identity.mean(1)),
        "identity_cnet": error(confidence_net.weighted_mean(identity, confidence)),
        "identity_of_mean": error(jnp.zeros_like(batch["identity"])),
        "confidence_spread": spread,
    }


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over all examples, and the ratios of the camera-space vertex error to those of the mean head."""
    result = {name: float(np.mean(values, dtype=np.float64)) for name, values in arrays.items()}
    for baseline in ("mean", "frontal"):
        if f"vertex_of_{baseline}" in result:
            result[f"vertex_to_{baseline}"] = result["vertex"] / result[f"vertex_of_{baseline}"]
    return result
