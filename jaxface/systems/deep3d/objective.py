"""The training objective of R-Net and C-Net: the hybrid loss on images and their landmarks, without coefficient labels.

Source: Deng et al., CVPRW 2019, §4 (one image) and §5 (several images of one person).
"""

import logging

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.system import Batch, Tree
from jaxface.systems.deep3d import face_model, losses
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.model import RNet, is_set, regress_and_refine
from jaxface.systems.deep3d.multiview import combined_identity
from jaxface.systems.deep3d.networks import map_fit, recognition, size_net
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Coefficients, Rendered

Terms = dict[str, jax.Array]

LOG = logging.getLogger(__name__)


def constants(config: ml_collections.ConfigDict) -> Tree:
    """`System.constants`: "face", the face model, and "recognition", ArcFace's variables if the config names them.

    Without ArcFace weights the perceptual loss is omitted, with a warning. Raises UserError if the head's file is
    missing or `config.loss.recognition` is not a file of ArcFace weights.
    """
    constants = {"face": face_model.from_config(config)}
    if config.loss.recognition:
        constants["recognition"] = recognition.load(config.loss.recognition)
    elif config.loss.weights.perceptual:
        LOG.warning("config.loss.recognition: not set, no perceptual loss; set it to a file of ArcFace weights")
    return constants


def training_loss(
    net: RNet,
    config: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, Terms]]:
    """`System.loss`: the hybrid loss of R-Net, or of the C-Net or the loss of SizeNet if the config has one of them.

    With a C-Net or SizeNet, R-Net is fixed. A model with both trains the C-Net on sets and SizeNet on single images.

    Args:
        net: the network.
        config: the run's configuration.
        params: parameters of R-Net and, if present, C-Net.
        model_state: batch statistics and the constants of `map_fit`.
        batch: `image` (B,S,S,3) in [0,1]; `landmarks` (B,68,2) in pixels of the 224 px crop, y up; `skin` (B,S,S) in
            [0,1] unless `config.loss.attention` is "none"; `dense` (B,K,2) as `landmarks`, NaN where unknown, if the
            network has dense points; `size_mm` (B,), see `size_net.target`, if the network has a SizeNet. For a C-Net
            each array has an axis of N images of a person after the batch axis.
        key: not used.
        step: not used.
        constants: of `constants`.

    Returns:
        The loss (), and (new model_state, unweighted terms).
    """
    del key, step
    if config.model.metric_size and not is_set(batch["image"]):
        terms = _size_terms(net, params, model_state, batch, constants["face"])
        return losses.weighted_sum(terms, config.loss.weights), (model_state, terms)
    if config.model.confidence:
        coefficients = _multiview_coefficients(net, params, model_state, batch["image"], constants["face"])
        batch = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.items()}
        terms = hybrid_terms(constants, coefficients, batch, config.loss)
        return losses.weighted_sum(terms, config.loss.weights), (model_state, terms)
    variables = {"params": params, **model_state}
    mutable = [*model_state, "intermediates"]
    vector, new_state = net.apply(variables, batch["image"], train=True, mutable=mutable)
    sown = new_state.pop("intermediates", {})
    terms = hybrid_terms(constants, image_formation.split(vector, net.sizes), batch, config.loss)
    if sown:
        terms |= _map_fit_terms(net, sown, batch)
    return losses.weighted_sum(terms, config.loss.weights), (new_state, terms)


def _map_fit_terms(net: RNet, sown: Tree, batch: Batch) -> Terms:
    """Ours: losses of the regressor "map_fit" on what its modules have sown.

    "heat_map" supervises the attention of each landmark and dense point, "points" their positions on the fitted face.
    """
    (log_attention,) = sown[map_fit.SOFT_ARGMAX]["log_attention"]
    (points,) = sown[map_fit.NAME]["points"]
    target = batch["landmarks"]
    if net.num_dense_points:
        target = jnp.concatenate([target, batch["dense"]], 1)
    return {
        "heat_map": losses.heat_map_loss(log_attention, target),
        "points": losses.valid_landmark_distance(points, target),
    }


def _multiview_coefficients(
    net: RNet, params: Tree, model_state: Tree, image: jax.Array, face: FaceModel
) -> Coefficients:
    """Coefficients of all images (B,N,S,S,3), each with the combined identity of its person.

    R-Net is fixed and uses its running statistics: gradients reach the C-Net only. Returns a batch of B * N.
    """
    persons, count = image.shape[:2]
    fixed = jax.lax.stop_gradient({"params": params, **model_state})
    regression = regress_and_refine(net, fixed, image.reshape(-1, *image.shape[2:]), face)
    identity, _ = combined_identity(net, {"params": params, **model_state}, regression, persons, True)
    coefficients = image_formation.split(regression.coefficients, net.sizes)
    return coefficients.replace(identity=jnp.repeat(identity, count, axis=0))


def _size_terms(net: RNet, params: Tree, model_state: Tree, batch: Batch, face: FaceModel) -> Terms:
    """The loss of SizeNet; R-Net is fixed and uses its running statistics."""
    fixed = jax.lax.stop_gradient({"params": params, **model_state})
    regression = regress_and_refine(net, fixed, batch["image"], face)
    coefficients = image_formation.split(regression.coefficients, net.sizes)
    log_ratio = size_net.apply(params, regression.pooled, coefficients.identity)
    landmarks = image_formation.canonical_landmarks(face, coefficients.identity, coefficients.expression)
    return {"size": losses.size_loss(log_ratio, size_net.target(landmarks, batch["size_mm"]))}


def hybrid_terms(
    constants: Tree, coefficients: Coefficients, batch: Batch, settings: ml_collections.ConfigDict
) -> Terms:
    """The unweighted terms of the hybrid loss.

    Args:
        constants: of `constants`; the perceptual loss is included if it holds "recognition".
        coefficients: of B images.
        batch: as in `training_loss`, without the axis of images of a person.
        settings: `config.loss`. With `num_rendered` > 0 only that many images are rendered, for the photometric,
            perceptual and reflectance loss; all other terms use the whole batch.
    """
    face, size = constants["face"], batch["image"].shape[1]
    first = slice(settings.num_rendered or None)
    rendered_coefficients, rendered_batch = jax.tree.map(lambda values: values[first], (coefficients, batch))
    decoded = image_formation.decode(face, rendered_coefficients)
    rendered = image_formation.render(face, decoded, size)
    landmarks = decoded.landmarks
    if settings.num_rendered:
        landmarks = image_formation.project_landmarks(face, coefficients)
    mask = jax.lax.stop_gradient(rendered.crop_mask.astype(jnp.float32))
    if settings.attention != "none":
        mask *= losses.skin_attention(rendered_batch["skin"], settings.attention)
    terms = {
        "photometric": losses.photometric_loss(rendered.image, rendered_batch["image"], mask),
        "landmarks": losses.landmark_loss(landmarks, batch["landmarks"], settings.distance),
        "coefficients": losses.coefficient_loss(coefficients, settings.coefficient_weights),
        "light": losses.monochromatic_light_loss(coefficients.light),
        "reflectance": losses.reflectance_loss(decoded.albedo, face.skin),
    }
    if "recognition" in constants:
        terms["perceptual"] = _perceptual(constants["recognition"], rendered, landmarks[first], rendered_batch)
    return terms


def _perceptual(variables: Tree, rendered: Rendered, landmarks: jax.Array, batch: Batch) -> jax.Array:
    """Perceptual loss of rendered images, aligned by predicted landmarks, and inputs, aligned by those of the batch.

    Gradients pass through the rendered image only.
    """
    scale = batch["image"].shape[1] / REFERENCE_SIZE
    predicted = recognition.features(variables, rendered.image, scale * landmarks)
    target = recognition.features(variables, batch["image"], scale * batch["landmarks"])
    return losses.perceptual_loss(predicted, jax.lax.stop_gradient(target))
