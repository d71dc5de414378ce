"""How near reconstructed heads are to the true ones, where these are known, and to the landmarks, where they are not.

Distances of shapes are means over the face's vertices in millimetres. A photograph tells neither size nor distance, so
scale and place are always fitted first; whether the rotation is fitted too is said in each name's line.
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


def score(net: RNet, own_head: bool, sets: bool) -> Score:
    """`Evaluator.predict`. `own_head`: the pictures show heads of the model's kind, so that vertices correspond."""
    return functools.partial(_score_sets if sets else _score_pictures, net, own_head)


def _score_pictures(net, own_head, params, model_state, batch, constants) -> dict[str, jax.Array]:
    face = constants["face"]
    vector, *_ = regress_and_refine(net, {"params": params, **model_state}, batch["image"], face)
    coefficients = image_formation.split(vector, net.sizes)
    decoded = image_formation.decode(face, coefficients)
    rendered = image_formation.render(face, decoded, batch["image"].shape[1])
    errors = {"landmarks": jnp.linalg.norm(decoded.landmarks - batch["landmarks"], axis=-1).mean(-1)}
    if own_head and _comparable(face, batch):
        errors |= head_errors(face, coefficients, batch)
    shown = jnp.where(rendered.covered[..., None], jnp.clip(rendered.image, 0, 1), batch["image"])
    return {**errors, "picture": jnp.concatenate([batch["image"], shown], axis=2)}


def _comparable(face: FaceModel, batch: Batch) -> bool:
    """Whether the pictures were made with just the model's modes."""
    return "identity" in batch and batch["identity"].shape[-1] == len(face.identity)


def head_errors(
    face: FaceModel, coefficients: image_formation.Coefficients, truth: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Errors (B,) mm of reconstructed heads. `truth`: identity (B,I), expression weights (B,E), rotation (B,3,3).

    vertex: the posed head in camera space, with its own rotation. shape: the same, with the best rotation.
    vertex_of_mean: the mean head turned as well as can be in each picture; vertex_of_frontal: the mean head looking at
    the camera in all of them. identity, identity_of_mean: the neutral shape, best rotation, and the mean head's.
    """
    known = truth["identity"], truth["expression"] / EXPRESSION_DEVIATION
    wanted = image_formation.rotate(image_formation.canonical_shape(face, *known), truth["rotation"])[
        :, face.face_vertices
    ]
    found = image_formation.canonical_shape(face, coefficients.identity, coefficients.expression)
    found = image_formation.rotate(found, image_formation.rotation(coefficients.angles))[:, face.face_vertices]
    mean = jnp.broadcast_to(jnp.asarray(face.mean)[face.face_vertices], found.shape)
    person, own = identity_shapes(face, truth["identity"]), identity_shapes(face, coefficients.identity)
    return {
        "vertex": distance_mm(found, wanted, rotate=False),
        "shape": distance_mm(found, wanted, rotate=True),
        "vertex_of_mean": distance_mm(mean, wanted, rotate=True),
        "vertex_of_frontal": distance_mm(mean, wanted, rotate=False),
        "identity": distance_mm(own, person, rotate=True),
        "identity_of_mean": distance_mm(mean, person, rotate=True),
    }


def identity_shapes(face: FaceModel, identity: jax.Array) -> jax.Array:
    """Neutral faces (B,N,3) dm of identities (B,I)."""
    expression = jnp.zeros((len(identity), len(face.expression)))
    return image_formation.canonical_shape(face, identity, expression)[:, face.face_vertices]


def distance_mm(found: jax.Array, wanted: jax.Array, rotate: bool) -> jax.Array:
    """Mean distances (B,) in mm of points (B,N,3) dm after the best scale and shift, with `rotate` also rotation."""
    if rotate:
        scale, rotation, shift = alignment.similarity(found, wanted)
        fitted = scale[:, None, None] * image_formation.rotate(found, rotation) + shift[:, None]
    else:
        middle, goal = found.mean(1, keepdims=True), wanted.mean(1, keepdims=True)
        centered = found - middle
        scale = (centered * (wanted - goal)).sum((1, 2)) / (centered**2).sum((1, 2))
        fitted = scale[:, None, None] * centered + goal
    return MM_PER_DM * jnp.linalg.norm(fitted - wanted, axis=-1).mean(-1)


def _score_sets(net, own_head, params, model_state, batch, constants) -> dict[str, jax.Array]:
    """Errors of the identity of sets: of each picture's own, of the plain average, of the C-Net's, of the mean head."""
    face, image = constants["face"], batch["image"]
    sets, count = image.shape[:2]
    vector, pooled, early = regress_and_refine(
        net, {"params": params, **model_state}, image.reshape(-1, *image.shape[2:]), face
    )
    identity = vector[:, : net.sizes.identity].reshape(sets, count, -1)
    confidence = confidence_net.apply(params, net.sizes.identity, pooled, early).reshape(identity.shape)
    spread = confidence.std(1).mean(-1)
    if not (own_head and _comparable(face, batch)):
        return {"confidence_spread": spread}
    person = identity_shapes(face, batch["identity"])

    def error(identity: jax.Array) -> jax.Array:
        return distance_mm(identity_shapes(face, identity), person, rotate=True)

    single = jnp.stack([error(identity[:, index]) for index in range(count)]).mean(0)
    return {
        "identity_single": single,
        "identity_average": error(identity.mean(1)),
        "identity_cnet": error(confidence_net.weighted_mean(identity, confidence)),
        "identity_of_mean": error(jnp.zeros_like(batch["identity"])),
        "confidence_spread": spread,
    }


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over all examples, and of the camera-space vertex error its ratios to the mean head's."""
    result = {name: float(np.mean(values, dtype=np.float64)) for name, values in arrays.items()}
    for baseline in ("mean", "frontal"):
        if f"vertex_of_{baseline}" in result:
            result[f"vertex_to_{baseline}"] = result["vertex"] / result[f"vertex_of_{baseline}"]
    return result
