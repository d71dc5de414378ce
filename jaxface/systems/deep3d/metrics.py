"""Training-time evaluation of Deep3D: errors per example on the device, summaries on the host.

Shape errors are mean distances over the face's vertices in millimetres. A photo determines neither size nor distance,
so scale and translation are always aligned first; each error states whether the rotation is aligned too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import alignment
from jaxface.system import Batch, Tree
from jaxface.systems.deep3d.face_model import EXPRESSION_DEVIATION, MM_PER_DM, FaceModel
from jaxface.systems.deep3d.model import RNet, is_set, regress_and_refine
from jaxface.systems.deep3d.multiview import combined_identity
from jaxface.systems.deep3d.networks import size_net
from jaxface.systems.deep3d.rendering import image_formation

# Errors that are NaN for examples without a known size.
SIZE_ERRORS = ("size", "size_of_model")

Score = Callable[[Tree, Tree, Batch, Tree], dict[str, jax.Array]]


def score(net: RNet, comparable: bool, sets: bool, sizes: bool = False) -> Score:
    """`Evaluator.predict`.

    Args:
        net: the regressor.
        comparable: whether the images are renderings of the configured head, so that vertices correspond.
        sets: whether examples are sets of images of one person.
        sizes: whether the model predicts sizes; they are scored on images whose true size is known.
    """

    def predict(params: Tree, model_state: Tree, batch: Batch, constants: Tree) -> dict[str, jax.Array]:
        if sets and is_set(batch["image"]):
            return _score_sets(net, comparable, params, model_state, batch, constants)
        return _score_images(net, comparable, sizes, params, model_state, batch, constants)

    return predict


def _score_images(
    net: RNet, comparable: bool, sizes: bool, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """Errors of single images: landmarks (B,) px of the 224 px crop, `head_errors` if comparable, and "picture".

    With `sizes` also the absolute error of the log size in percent, predicted ("size") and if every head had the size
    of its reconstruction ("size_of_model"); NaN where the size is not known.
    """
    face = constants["face"]
    regression = regress_and_refine(net, {"params": params, **model_state}, batch["image"], face)
    coefficients = image_formation.split(regression.coefficients, net.sizes)
    decoded = image_formation.decode(face, coefficients)
    rendered = image_formation.render(face, decoded, batch["image"].shape[1])
    errors = {"landmarks": jnp.linalg.norm(decoded.landmarks - batch["landmarks"], axis=-1).mean(-1)}
    if comparable and _has_model_coefficients(face, batch):
        errors |= head_errors(face, coefficients, batch)
    if sizes:
        points = image_formation.canonical_landmarks(face, coefficients.identity, coefficients.expression)
        target = size_net.target(points, batch["size_mm"])
        predicted = size_net.apply(params, regression.pooled, coefficients.identity)
        errors |= {"size": 100 * jnp.abs(predicted - target), "size_of_model": 100 * jnp.abs(target)}
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
    """Identity errors (S,) mm of sets: of single images, their average, `combined_identity` and the mean head.

    `confidence_spread` (S,) is the standard deviation of the C-Net's confidences over the images of a set.
    """
    face, image = constants["face"], batch["image"]
    sets, count = image.shape[:2]
    images = image.reshape(-1, *image.shape[2:])
    variables = {"params": params, **model_state}
    regression = regress_and_refine(net, variables, images, face)
    identity = regression.coefficients[:, : net.sizes.identity].reshape(sets, count, -1)
    combined, confidence = combined_identity(net, variables, regression, sets, True)
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
        "identity_cnet": error(combined),
        "identity_of_mean": error(jnp.zeros_like(batch["identity"])),
        "confidence_spread": spread,
    }


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over all examples, and the ratios of the camera-space vertex error to those of the mean head.

    The errors of the size are means over the examples whose size is known.
    """
    result = {}
    for name, values in arrays.items():
        known = values[np.isfinite(values)] if name in SIZE_ERRORS else values
        if len(known):
            result[name] = float(np.mean(known, dtype=np.float64))
    for baseline in ("mean", "frontal"):
        if f"vertex_of_{baseline}" in result:
            result[f"vertex_to_{baseline}"] = result["vertex"] / result[f"vertex_of_{baseline}"]
    return result
