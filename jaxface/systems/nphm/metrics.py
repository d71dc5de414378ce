"""Scores on people who were not trained on: their codes are fitted with the networks frozen, to half of the points."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import lax

from jaxface.system import Batch, Tree
from jaxface.systems.nphm import losses
from jaxface.systems.nphm.model import Identity
from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.deformation import Deformation

MM_PER_UNIT = 250.0


def score_identity(
    model: Identity, config: ml_collections.ConfigDict, params: Tree, model_state: Tree, batch: Batch, constants: Tree
) -> dict[str, jax.Array]:
    """Per example (B,): mean distance in mm of held-out face points to the fitted surface, and of normals in degrees.

    Keys of `config.validation`: `steps` and `lr` of the fit.
    """
    del model_state, constants
    fitted, held = (_every_other(batch, start) for start in (0, 1))
    fitted = losses.add_space_points(fitted, jax.random.key(0), {})
    weights = {**config.loss, "anchors": 0.0}  # a new person's are not known

    def loss(codes: jax.Array) -> jax.Array:
        # A sum, so that everyone's fit is their own.
        return len(codes) * losses.weighted(weights, losses.identity_terms(model, params["identity"], codes, fitted))

    codes = fit_codes(loss, jnp.zeros((len(batch["face_points"]), model.code)), config.validation)
    sdf, gradient = model.sdf_and_gradient(params["identity"], codes, held["face_points"])
    cosine = (safe_norm.direction(gradient) * held["face_normals"]).sum(-1)
    return {
        "surface_mm": MM_PER_UNIT * jnp.abs(sdf).mean(1),
        "normals_deg": jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1))).mean(1),
    }


def score_expression(
    model: Deformation,
    identity: Identity,
    config: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    constants: Tree,
) -> dict[str, jax.Array]:
    """Per example (B,): mean error in mm of held-out posed points, and their distance from the neutral ones.

    The identity code is fitted to the neutral points as to a scan, the expression code to the pairs.
    """
    del model_state
    fitted, held = (_every_other(batch, start) for start in (0, 1))
    people = len(batch["neutral"])

    def surface(codes: jax.Array) -> jax.Array:
        distances = jnp.abs(identity.sdf(constants["identity"], codes, fitted["neutral"])).mean(1).sum()
        return distances + config.validation.code * (codes**2).sum()

    subjects = fit_codes(surface, jnp.zeros((people, identity.code)), config.validation)
    anchors = identity.anchors(constants["identity"], subjects)
    condition = model.condition(params["expression"], subjects, anchors)
    fitted = losses.add_cube_points(fitted, jax.random.key(0), {})

    def loss(codes: jax.Array) -> jax.Array:
        terms = losses.expression_terms(model, params["expression"], condition, codes, fitted)
        return people * losses.weighted(config.loss, terms)

    codes = fit_codes(loss, jnp.zeros((people, model.code)), config.validation)
    offsets = model.offsets(params["expression"], condition, codes, held["neutral"])
    wrong = safe_norm.norm(held["neutral"] + offsets - held["posed"])
    return {
        "posed_mm": MM_PER_UNIT * wrong.mean(1),
        "moved_mm": MM_PER_UNIT * safe_norm.norm(held["neutral"] - held["posed"]).mean(1),
    }


def fit_codes(loss: Callable[[jax.Array], jax.Array], start: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Codes (B,code) after `config.steps` updates of Adam on `loss(codes)`, the rate falling from `config.lr` to 0."""
    adam = optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))

    def body(state: tuple, _: None) -> tuple[tuple, None]:
        codes, moments = state
        updates, moments = adam.update(jax.grad(loss)(codes), moments)
        return (optax.apply_updates(codes, updates), moments), None

    (codes, _), _ = lax.scan(body, (start, adam.init(start)), None, length=config.steps)
    return codes


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each error over all records."""
    return {name: float(values.mean()) for name, values in arrays.items()}


def _every_other(batch: Batch, start: int) -> Batch:
    take = functools.partial(jax.tree.map, lambda leaf: leaf[:, start::2] if leaf.ndim == 3 else leaf)
    return {**take(batch), **({"anchors": batch["anchors"]} if "anchors" in batch else {})}
