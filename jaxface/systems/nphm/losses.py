"""The objectives of both phases (NPHM §3.2-3.3; official files scripts/training/*.yaml and models/training*.py)."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.system import Batch, Tree
from jaxface.systems.nphm.networks import safe_norm
from jaxface.systems.nphm.networks.codebook import look_up
from jaxface.systems.nphm.networks.deformation import NOISE, Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import Single

NEAR_SPREAD = 0.01
FAR_CUBED = 0.5  # far points fill a ball: the cube of their radius is uniform below this
NORMAL_LIMIT = 0.75  # hair has no normals to speak of
SPACE_DECAY = 10.0
PAIRS_PER_ZERO, ZERO_CUBE = 10, 1.25

Identity = Ensemble | Single


def add_space_points(batch: Batch, key: jax.Array, constants: Tree, stride: int = 1) -> Batch:
    """The batch of phase 1 with `near` (B,P,3), surface points with noise, and `far` (B,F,3) in a ball.

    Reads `face_points` and `nonface_points`; P is each `stride`-th of both together, F an eighth of the face's.
    """
    del constants
    keys = jax.random.split(key, 3)
    surface = jnp.concatenate([batch["face_points"], batch["nonface_points"]], 1)[:, ::stride]
    count, face = batch["face_points"].shape[:2]
    ball = (count, max(face // 8, 1), 3)
    radius = jnp.cbrt(jax.random.uniform(keys[1], (*ball[:2], 1), maxval=FAR_CUBED))
    far = radius * safe_norm.direction(jax.random.normal(keys[2], ball))
    return {**batch, "near": surface + NEAR_SPREAD * jax.random.normal(keys[0], surface.shape), "far": far}


def add_cube_points(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
    """The batch of phase 2 with `cube` (B,N/10,3) for N pairs, where offsets shall be small."""
    del constants
    count, pairs = batch["neutral"].shape[:2]
    shape = (count, max(pairs // PAIRS_PER_ZERO, 1), 3)
    return {**batch, "cube": jax.random.uniform(key, shape, minval=-ZERO_CUBE, maxval=ZERO_CUBE)}


def identity_terms(model: Identity, params: Tree, codes: jax.Array, batch: Batch, chunk: int = 0) -> dict:
    """The terms of phase 1 for codes (B,code), unweighted.

    Reads face_points, face_normals, nonface_points, nonface_normals, near, far (B,…,3) and anchors (B,A,3). One pass
    gives values and gradients at all points; `chunk` > 0 takes so many at a time and keeps nothing for the backward
    pass, which then does the work again. Single networks have no term for anchors.
    """
    surface = jnp.concatenate([batch["face_points"], batch["nonface_points"]], 1)
    face, count, far = batch["face_points"].shape[1], surface.shape[1], batch["far"].shape[1]
    points = jnp.concatenate([surface, batch["far"], batch["near"]], 1)
    sdf, gradients = in_chunks(model, params, codes, points, chunk)
    apart = functools.partial(jnp.split, indices_or_sections=[face], axis=1)
    faces, others = apart(gradients[:, :count])
    wrong = jnp.concatenate(
        [
            safe_norm.norm(faces - batch["face_normals"]),
            jnp.minimum(safe_norm.norm(others - batch["nonface_normals"]), NORMAL_LIMIT) / 2,
        ],
        1,
    )
    terms = {
        "surface": jnp.abs(sdf[:, :count]).mean(),
        "normals": wrong.mean(),
        "space": jnp.exp(-SPACE_DECAY * jnp.abs(sdf[:, count : count + far])).mean(),
        "eikonal": jnp.abs(safe_norm.norm(gradients) - 1).mean(),
        "code": (codes**2).sum(-1).mean(),
    }
    return terms | _anchor_terms(model, params, codes, batch) if model.anchor_count else terms


def _anchor_terms(model: Ensemble, params: Tree, codes: jax.Array, batch: Batch) -> dict:
    middle = model.locals(codes)[:, 2 * model.pairs : -1]
    # Couples of neighbours without a chain: the last of an odd number is left out.
    first, second = (middle[:, start::2] for start in (0, 1))
    first = first[:, : second.shape[1]]
    return {
        "anchors": ((model.anchors(params, codes) - batch["anchors"]) ** 2).mean(),
        "symmetry": symmetry(model, codes),
        "middle": safe_norm.norm(first - second).mean() if second.shape[1] else jnp.zeros(()),
    }


def symmetry(model: Ensemble, codes: jax.Array) -> jax.Array:
    """Mean distance between the local codes of mirrored anchors, for codes (B,code)."""
    paired = model.locals(codes)[:, : 2 * model.pairs]
    return safe_norm.norm(paired[:, 0::2] - paired[:, 1::2]).mean() if model.pairs else jnp.zeros(())


def in_chunks(model: Identity, params: Tree, codes: jax.Array, points: jax.Array, chunk: int) -> tuple:
    """`model.sdf_and_gradient` at points (B,N,3), `chunk` of N at a time and rematerialised; 0: all at once."""
    count = points.shape[1]
    if not chunk or count <= chunk:
        return model.sdf_and_gradient(params, codes, points)
    padded = jnp.pad(points, ((0, 0), (0, -count % chunk), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(len(points), -1, chunk, 3), 1, 0)
    run = jax.checkpoint(lambda part: model.sdf_and_gradient(params, codes, part))
    sdf, gradients = (jnp.moveaxis(out, 0, 1) for out in lax.map(run, parts))
    return sdf.reshape(len(points), -1)[:, :count], gradients.reshape(*padded.shape)[:, :count]


def identity_loss(
    model: Identity,
    weights: Mapping,
    chunk: int,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key,
    step,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict]]:
    """(loss, (model_state, terms)) of phase 1.

    params {"identity": network, "codes": table}; `subject` (B,) are rows of the table.
    """
    del key, step, constants
    codes = look_up(params["codes"], batch["subject"])
    terms = identity_terms(model, params["identity"], codes, batch, chunk)
    return weighted(weights, terms), (model_state, terms)


def expression_terms(
    model: Deformation, params: Tree, condition: jax.Array, codes: jax.Array, batch: Batch, noise: jax.Array = 0.0
) -> dict:
    """The terms of phase 2, unweighted: condition (B,…), codes (B,code), neutral and posed (B,N,3), cube (B,M,3).

    noise (B,N,compressed) goes to the condition at the correspondences, and its first points to the cube's.
    """
    offsets = functools.partial(model.offsets, params, condition, codes)
    cube = batch["cube"]
    near_zero = offsets(cube, noise[:, : cube.shape[1]] if jnp.ndim(noise) else noise)
    return {
        "correspondence": ((batch["neutral"] + offsets(batch["neutral"], noise) - batch["posed"]) ** 2).mean(),
        "code": (codes**2).sum(-1).mean(),
        "zero": (near_zero**2).mean(),
    }


def expression_loss(
    model: Deformation,
    identity: Identity,
    weights: Mapping,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key,
    step,
    constants,
) -> tuple[jax.Array, tuple[Tree, dict]]:
    """(loss, (model_state, terms)) of phase 2; params {"expression": network, "codes": table}, `scan` (B,) its rows.

    constants {"identity": network, "codes": table} is phase 1; `subject` (B,) are rows of its table.
    """
    del step
    subjects = look_up(constants["codes"], batch["subject"])
    anchors = identity.anchors(constants["identity"], subjects)
    condition = model.condition(params["expression"], subjects, anchors)
    codes = look_up(params["codes"], batch["scan"])
    noise = 0.0
    if model.compressed:
        noise = NOISE * jax.random.normal(key, (*batch["neutral"].shape[:2], model.compressed))
    terms = expression_terms(model, params["expression"], condition, codes, batch, noise)
    return weighted(weights, terms), (model_state, terms)


def weighted(weights: Mapping, terms: dict) -> jax.Array:
    """The sum of the terms, each with its weight of config.loss."""
    return sum(weights[name] * term for name, term in terms.items())
