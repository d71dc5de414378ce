"""Training objectives of the identity and the expression model.

NPHM §3.2-3.3; official files scripts/configs/*.yaml (weights) and src/NPHM/models/loss_functions.py (terms).
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.system import Batch, Tree
from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.codebook import look_up
from jaxface.systems.nphm.networks.deformation import NOISE_STD, Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import IdentityModel

# Standard deviation, in model units, of points near the surface.
NEAR_STD = 0.01
# The cube of the radius of far points is uniform in [0, FAR_CUBED_RADIUS], so they are uniform in a ball.
FAR_CUBED_RADIUS = 0.5
# One far point for this many face points.
FACE_PER_FAR = 8
# Upper bound of the normal error outside the face, where hair has no well-defined normals.
MAX_NONFACE_NORMAL_ERROR = 0.75
# Decay of the penalty exp(-SPACE_DECAY |sdf|) at far points, per model unit.
SPACE_DECAY = 10.0
# The zero-offset regulariser uses one point per 10 pairs, in the cube [-1.25, 1.25]^3.
PAIRS_PER_CUBE_POINT, CUBE_HALF_SIDE = 10, 1.25


def add_space_points(batch: Batch, key: jax.Array, constants: Tree, stride: int = 1) -> Batch:
    """Adds off-surface points to a batch of the identity model.

    Args:
        batch: `face_points` (B,F,3), `nonface_points` (B,G,3) and more.
        key: random key.
        constants: unused.
        stride: near points are sampled around every `stride`-th surface point.

    Returns:
        The batch with `near` (B,P,3), surface points with Gaussian noise, and `far` (B,max(F//8,1),3), uniform in a
        ball.
    """
    del constants
    keys = jax.random.split(key, 3)
    surface = jnp.concatenate([batch["face_points"], batch["nonface_points"]], 1)[:, ::stride]
    batch_size, face = batch["face_points"].shape[:2]
    shape = (batch_size, max(face // FACE_PER_FAR, 1), 3)
    radius = jnp.cbrt(jax.random.uniform(keys[1], (*shape[:2], 1), maxval=FAR_CUBED_RADIUS))
    far = radius * safe_norm.normalize(jax.random.normal(keys[2], shape))
    return {**batch, "near": surface + NEAR_STD * jax.random.normal(keys[0], surface.shape), "far": far}


def add_cube_points(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
    """Adds `cube` (B,max(N//10,1),3), where offsets are regularised to 0, to an expression batch of N pairs."""
    del constants
    batch_size, pairs = batch["neutral"].shape[:2]
    shape = (batch_size, max(pairs // PAIRS_PER_CUBE_POINT, 1), 3)
    return {**batch, "cube": jax.random.uniform(key, shape, minval=-CUBE_HALF_SIDE, maxval=CUBE_HALF_SIDE)}


def identity_terms(model: IdentityModel, params: Tree, codes: jax.Array, batch: Batch, chunk: int = 0) -> dict:
    """Unweighted loss terms of the identity model.

    Args:
        model: the identity model; NPM has no anchor terms.
        params: its parameters.
        codes: identity codes (B,C).
        batch: face_points, face_normals, nonface_points, nonface_normals, near, far (B,…,3) and anchors (B,A,3).
        chunk: points evaluated at a time, see `in_chunks`.

    Returns:
        Scalars: `surface` (mean |sdf| on the surface), `normals` (error of the SDF gradient), `space` (penalises zeros
        off the surface), `eikonal`, `code` (squared norm of the codes), and of ensembles those of `_anchor_terms`.
    """
    surface = jnp.concatenate([batch["face_points"], batch["nonface_points"]], 1)
    face, count, far = batch["face_points"].shape[1], surface.shape[1], batch["far"].shape[1]
    points = jnp.concatenate([surface, batch["far"], batch["near"]], 1)
    sdf, gradients = in_chunks(model, params, codes, points, chunk)
    face_gradients, nonface_gradients = jnp.split(gradients[:, :count], [face], axis=1)
    face_error = safe_norm.norm(face_gradients - batch["face_normals"])
    nonface_error = safe_norm.norm(nonface_gradients - batch["nonface_normals"])
    nonface_error = jnp.minimum(nonface_error, MAX_NONFACE_NORMAL_ERROR) / 2
    terms = {
        "surface": jnp.abs(sdf[:, :count]).mean(),
        "normals": jnp.concatenate([face_error, nonface_error], 1).mean(),
        "space": jnp.exp(-SPACE_DECAY * jnp.abs(sdf[:, count : count + far])).mean(),
        "eikonal": jnp.abs(safe_norm.norm(gradients) - 1).mean(),
        "code": (codes**2).sum(-1).mean(),
    }
    return terms | _anchor_terms(model, params, codes, batch) if model.anchor_count else terms


def _anchor_terms(model: Ensemble, params: Tree, codes: jax.Array, batch: Batch) -> dict:
    """`anchors` (squared error), `symmetry`, and `middle` (distance of codes of neighbours on the mid-plane)."""
    middle = model.local_codes(codes)[:, 2 * model.pairs : -1]
    # Disjoint couples (0,1), (2,3), …: the last of an odd number of members is left out.
    first, second = (middle[:, start::2] for start in (0, 1))
    first = first[:, : second.shape[1]]
    return {
        "anchors": ((model.anchors(params, codes) - batch["anchors"]) ** 2).mean(),
        "symmetry": symmetry(model, codes),
        "middle": safe_norm.norm(first - second).mean() if second.shape[1] else jnp.zeros(()),
    }


def symmetry(model: Ensemble, codes: jax.Array) -> jax.Array:
    """Symmetry regulariser: mean distance between the local codes of mirrored anchors, for codes (B,C)."""
    paired = model.local_codes(codes)[:, : 2 * model.pairs]
    return safe_norm.norm(paired[:, 0::2] - paired[:, 1::2]).mean() if model.pairs else jnp.zeros(())


def in_chunks(model: IdentityModel, params: Tree, codes: jax.Array, points: jax.Array, chunk: int) -> tuple:
    """`model.sdf_and_gradient` at points (B,N,3), `chunk` points at a time with gradient checkpointing; 0 for all."""
    count = points.shape[1]
    if not chunk or count <= chunk:
        return model.sdf_and_gradient(params, codes, points)
    padded = jnp.pad(points, ((0, 0), (0, -count % chunk), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(len(points), -1, chunk, 3), 1, 0)
    evaluate = jax.checkpoint(lambda part: model.sdf_and_gradient(params, codes, part))
    sdf, gradients = (jnp.moveaxis(out, 0, 1) for out in lax.map(evaluate, parts))
    return sdf.reshape(len(points), -1)[:, :count], gradients.reshape(*padded.shape)[:, :count]


def identity_loss(
    model: IdentityModel,
    weights: Mapping,
    chunk: int,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key,
    step,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict]]:
    """`System.loss` of the identity model.

    Args:
        model: the identity model.
        weights: `config.loss`, weights of the terms.
        chunk: see `identity_terms`.
        params: {"identity": network, "codes": codebook}.
        model_state: returned unchanged.
        batch: as for `identity_terms`, and `subject` (B,), rows of the codebook.
        key, step, constants: unused.

    Returns:
        (loss, (model_state, unweighted terms)).
    """
    del key, step, constants
    codes = look_up(params["codes"], batch["subject"])
    terms = identity_terms(model, params["identity"], codes, batch, chunk)
    return weighted_sum(weights, terms), (model_state, terms)


def expression_terms(
    model: Deformation, params: Tree, condition: jax.Array, codes: jax.Array, batch: Batch, noise: jax.Array = 0.0
) -> dict:
    """Unweighted loss terms of the expression model.

    Args:
        model: the deformation network.
        params: its parameters.
        condition: conditioning on the identities (B,…).
        codes: expression codes (B,E).
        batch: neutral and posed (B,N,3), corresponding points, and cube (B,M,3).
        noise: (B,N,compressed), added to the condition; its first M points apply to `cube`.

    Returns:
        Scalars: `correspondence` (squared error of posed points), `code` (squared norm of the codes) and `zero`
        (squared offsets at `cube`).
    """
    offsets = functools.partial(model.offsets, params, condition, codes)
    cube = batch["cube"]
    cube_offsets = offsets(cube, noise[:, : cube.shape[1]] if jnp.ndim(noise) else noise)
    return {
        "correspondence": ((batch["neutral"] + offsets(batch["neutral"], noise) - batch["posed"]) ** 2).mean(),
        "code": (codes**2).sum(-1).mean(),
        "zero": (cube_offsets**2).mean(),
    }


def expression_loss(
    model: Deformation,
    identity: IdentityModel,
    weights: Mapping,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key,
    step,
    constants,
) -> tuple[jax.Array, tuple[Tree, dict]]:
    """`System.loss` of the expression model; the identity model is constant.

    Args:
        model: the deformation network.
        identity: the identity model.
        weights: `config.loss`, weights of the terms.
        params: {"expression": network, "codes": codebook}.
        model_state: returned unchanged.
        batch: as for `expression_terms`, and `subject` and `scan` (B,), rows of the identity and expression codebooks.
        key: random key of the noise on the compressed identity.
        step: unused.
        constants: {"identity": network, "codes": codebook} of the identity model.

    Returns:
        (loss, (model_state, unweighted terms)).
    """
    del step
    subjects = look_up(constants["codes"], batch["subject"])
    anchors = identity.anchors(constants["identity"], subjects)
    condition = model.condition(params["expression"], subjects, anchors)
    codes = look_up(params["codes"], batch["scan"])
    noise = 0.0
    if model.compressed:
        noise = NOISE_STD * jax.random.normal(key, (*batch["neutral"].shape[:2], model.compressed))
    terms = expression_terms(model, params["expression"], condition, codes, batch, noise)
    return weighted_sum(weights, terms), (model_state, terms)


def weighted_sum(weights: Mapping, terms: dict) -> jax.Array:
    """Sum of the terms with their weights in `config.loss`."""
    return sum(weights[name] * term for name, term in terms.items())
