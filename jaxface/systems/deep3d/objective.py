"""What R-Net and C-Net are trained on: pictures, points in them and the hybrid loss; never a coefficient.

Deng et al., CVPRW 2019, §4 (one picture) and §5 (sets of pictures of one person).
"""

import sys

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.errors import UserError
from jaxface.system import Batch, Tree
from jaxface.systems.deep3d import face_model, losses
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.model import RNet, answer
from jaxface.systems.deep3d.networks import confidence_net, map_fit, recognition
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import SIZE, Coefficients, Rendered

Result = tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]


def constants(config: ml_collections.ConfigDict) -> Tree:
    """`System.constants`: the face model, and ArcFace where `config.loss.recognition` names its weights.

    Without them the perceptual loss is off, and a line says so. UserError: a head without its file, other weights.
    """
    constants = {"face": face_model.from_config(config)}
    if config.loss.recognition:
        return {**constants, "recognition": recognition.load(config.loss.recognition)}
    if config.loss.weights.perceptual:
        note = "no ArcFace weights (config.loss.recognition), so the perceptual loss is off"
        print(note, file=sys.stderr)
    return constants


def check(config: ml_collections.ConfigDict) -> None:
    """UserError for an attention or a distance that does not exist."""
    for key, allowed in (("attention", losses.ATTENTIONS), ("distance", losses.DISTANCES)):
        if config.loss[key] not in allowed:
            raise UserError(f"config.loss.{key} is {config.loss[key]!r}; use one of {', '.join(allowed)}")


def training_loss(
    net: RNet,
    config: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> Result:
    """`System.loss`: the hybrid loss of R-Net on image (B,S,S,3), or, where the config has a C-Net, of that on sets.

    A reader that fits adds two terms, on the 68 landmarks and, where `net.num_dense_points`, on dense (B,K,2) of the batch, NaN
    where unknown: "heat_map", where it looks, and "points", where the fitted face has them.

    A set's arrays have an axis of N pictures after the batch's: image (B,N,S,S,3), landmarks (B,N,68,2), skin
    (B,N,S,S). R-Net then is fixed and uses its running statistics.
    """
    del key, step
    if config.model.confidence:
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch.items()}
        coefficients, changed = _of_sets(net, params, model_state, batch["image"], constants["face"]), model_state
        looked = {}
    else:
        flat = batch
        variables = {"params": params, **model_state}
        vector, changed = net.apply(variables, batch["image"], train=True, mutable=[*model_state, "intermediates"])
        looked = changed.pop("intermediates", {})
        coefficients = image_formation.split(vector, net.sizes)
    measured = hybrid(constants, coefficients, flat, config.loss)
    if looked:
        (log_attention,), (points,) = looked["reader"]["log_attention"], looked[map_fit.NAME]["points"]
        known = jnp.concatenate([flat["landmarks"], flat["dense"]], 1) if net.num_dense_points else flat["landmarks"]
        measured["heat_map"] = losses.heat_map(log_attention, known)
        measured["points"] = losses.known_distance(points, known)
    return losses.weighted(measured, config.loss.weights), (changed, measured)


def _of_sets(net: RNet, params: Tree, model_state: Tree, image: jax.Array, face: FaceModel) -> Coefficients:
    """Coefficients of all pictures of sets (B,N,S,S,3), one identity a set; gradients reach the C-Net only."""
    sets, count = image.shape[:2]
    fixed = jax.lax.stop_gradient({"params": params, **model_state})
    vector, pooled, early = answer(net, fixed, image.reshape(-1, *image.shape[2:]), face)
    confidence = confidence_net.apply(params, net.sizes.identity, pooled, early)
    coefficients = image_formation.split(vector, net.sizes)

    def grouped(values: jax.Array) -> jax.Array:
        return values.reshape(sets, count, -1)

    person = confidence_net.weighted_mean(grouped(coefficients.identity), grouped(confidence))
    return coefficients.replace(identity=jnp.repeat(person, count, axis=0))


def hybrid(
    constants: Tree, coefficients: Coefficients, batch: Batch, settings: ml_collections.ConfigDict
) -> dict[str, jax.Array]:
    """The unweighted terms of the hybrid loss; "perceptual" among them where `constants` holds ArcFace.

    `settings.num_rendered`: how many of the batch's pictures are rendered, for the terms that need it; 0: all.
    """
    face, size = constants["face"], batch["image"].shape[1]
    shown, seen = jax.tree.map(lambda values: values[: settings.num_rendered or None], (coefficients, batch))
    decoded = image_formation.decode(face, shown)
    rendered = image_formation.render(face, decoded, size)
    if settings.num_rendered:
        decoded = decoded.replace(landmarks=image_formation.landmarks(face, coefficients))
    measured = losses.terms(face, coefficients, decoded, rendered, batch, settings)
    if "recognition" in constants:
        landmarks = decoded.landmarks[: len(rendered.image)]
        measured["perceptual"] = _perceptual(constants["recognition"], rendered, landmarks, seen)
    return measured


def _perceptual(variables: Tree, rendered: Rendered, landmarks: jax.Array, batch: Batch) -> jax.Array:
    """Both pictures are aligned by their own landmarks; gradients pass through the rendered picture only."""
    scale = batch["image"].shape[1] / SIZE
    found = recognition.features(variables, rendered.image, scale * landmarks)
    wanted = recognition.features(variables, batch["image"], scale * batch["landmarks"])
    return losses.cosine_distance(found, jax.lax.stop_gradient(wanted))
