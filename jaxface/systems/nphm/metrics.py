"""Training-time evaluation on unseen subjects: errors at held-out points after fitting codes with frozen networks.

Codes are fitted to every other point of a record; the remaining points are scored. (`jaxface.protocols.nphm` is the
published evaluation of fitted meshes.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import lax

from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.system import Batch, Tree
from jaxface.systems.nphm import losses
from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import IdentityModel


def score_identity(
    model: IdentityModel,
    config: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    constants: Tree,
) -> dict[str, jax.Array]:
    """`Evaluator.predict` of the identity model.

    Args:
        model: the identity model.
        config: reads `loss`, and `validation.steps` and `validation.lr` of the code fit.
        params: {"identity": network}.
        model_state, constants: unused.
        batch: an evaluation batch of `data.identity_eval`.

    Returns:
        Per example (B,): `surface_mm`, mean distance of held-out face points to the fitted surface, and `normals_deg`,
        mean angle between the SDF gradient and their normals.
    """
    del model_state, constants
    fitted, held_out = (_every_other(batch, start) for start in (0, 1))
    fitted = losses.add_space_points(fitted, jax.random.key(0), {})
    weights = {**config.loss, "anchors": 0.0}  # the anchors of a new subject are unknown

    def loss(codes: jax.Array) -> jax.Array:
        # The sum over examples, so that the gradient of each code does not depend on the batch size.
        terms = losses.identity_terms(model, params["identity"], codes, fitted)
        return len(codes) * losses.weighted_sum(weights, terms)

    codes = fit_codes(loss, jnp.zeros((len(batch["face_points"]), model.code_dim)), config.validation)
    sdf, gradient = model.sdf_and_gradient(params["identity"], codes, held_out["face_points"])
    cosine = (safe_norm.normalize(gradient) * held_out["face_normals"]).sum(-1)
    return {
        "surface_mm": MM_PER_UNIT * jnp.abs(sdf).mean(1),
        "normals_deg": jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1))).mean(1),
    }


def score_expression(
    model: Deformation,
    identity: IdentityModel,
    config: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    constants: Tree,
) -> dict[str, jax.Array]:
    """`Evaluator.predict` of the expression model.

    The identity code is fitted to the neutral points as surface points, the expression code to the correspondences.

    Args:
        model: the deformation network.
        identity: the identity model.
        config: reads `loss`, and `validation.steps`, `.lr` and `.code` (weight of the identity code's squared norm).
        params: {"expression": network}.
        model_state: unused.
        batch: an evaluation batch of `data.expression_eval`.
        constants: {"identity": network}.

    Returns:
        Per example (B,): `posed_mm`, mean error of held-out posed points, and `moved_mm`, their mean distance from the
        neutral points (the error of a model without deformation).
    """
    del model_state
    fitted, held_out = (_every_other(batch, start) for start in (0, 1))
    batch_size = len(batch["neutral"])

    def surface_loss(codes: jax.Array) -> jax.Array:
        distances = jnp.abs(identity.sdf(constants["identity"], codes, fitted["neutral"])).mean(1).sum()
        return distances + config.validation.code * (codes**2).sum()

    subjects = fit_codes(surface_loss, jnp.zeros((batch_size, identity.code_dim)), config.validation)
    anchors = identity.anchors(constants["identity"], subjects)
    condition = model.condition(params["expression"], subjects, anchors)
    fitted = losses.add_cube_points(fitted, jax.random.key(0), {})

    def loss(codes: jax.Array) -> jax.Array:
        terms = losses.expression_terms(model, params["expression"], condition, codes, fitted)
        return batch_size * losses.weighted_sum(config.loss, terms)

    codes = fit_codes(loss, jnp.zeros((batch_size, model.code_dim)), config.validation)
    offsets = model.offsets(params["expression"], condition, codes, held_out["neutral"])
    error = safe_norm.norm(held_out["neutral"] + offsets - held_out["posed"])
    return {
        "posed_mm": MM_PER_UNIT * error.mean(1),
        "moved_mm": MM_PER_UNIT * safe_norm.norm(held_out["neutral"] - held_out["posed"]).mean(1),
    }


def fit_codes(loss: Callable[[jax.Array], jax.Array], start: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Minimises `loss(codes)` over codes (B,C) by `config.steps` steps of Adam, cosine decay from `config.lr` to 0."""
    adam = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))

    def body(state: tuple, _: None) -> tuple[tuple, None]:
        codes, moments = state
        updates, moments = adam.update(jax.grad(loss)(codes), moments)
        return (optax.apply_updates(codes, updates), moments), None

    (codes, _), _ = lax.scan(body, (start, adam.init(start)), None, length=config.steps)
    return codes


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean of each error over all records."""
    return {name: float(values.mean()) for name, values in arrays.items()}


def _every_other(batch: Batch, start: int) -> Batch:
    """Every second point of the batch's points and normals (B,N,3), from `start`; anchors and numbers unchanged."""
    half = jax.tree.map(lambda leaf: leaf[:, start::2] if leaf.ndim == 3 else leaf, batch)
    return {**half, **({"anchors": batch["anchors"]} if "anchors" in batch else {})}
