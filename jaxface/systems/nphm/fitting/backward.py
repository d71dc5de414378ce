"""The backward warp: canonical points of observed ones, by root finding with implicit gradients (NPHM §4.2).

Official files: utils/reconstruction.py and models/iterative_root_finding.py, after SNARF (Chen et al., ICCV 2021). All
of it runs in full float32: residuals of 1e-6 are out of reach of rounded matrix products.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.systems.nphm.networks import safe_norm

STEPS = 15
CONVERGED = 1e-6
DIVERGED = 0.2
EPSILON = 1e-6

Deform = Callable[[Any, jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def warp(deform: Deform, arguments: Any, observed: jax.Array, method: str = "broyden") -> tuple[jax.Array, jax.Array]:
    """(points x with x + deform(arguments, x) = observed, bool valid), for observed (N,3).

    deform(arguments, x) gives offsets (N,3), each of its own point only. `method` is "broyden", the reference's, or
    "newton", which takes the Jacobian anew at every step. The derivative by `arguments` and `observed` is that of the
    implicit function at x; it is 0 for points that did not converge (`valid` False), which stay where the search left
    them.
    """
    return _solve(deform, arguments, observed, method)


def _warp_forward(deform: Deform, arguments: Any, observed: jax.Array, method: str) -> tuple:
    x, valid = _solve(deform, arguments, observed, method)
    return (x, valid), (arguments, x, valid)


def _warp_backward(deform: Deform, method: str, kept: tuple, cotangents: tuple) -> tuple:
    del method
    arguments, x, valid = kept
    with jax.default_matmul_precision("highest"):
        inverse = inverse_3x3(jacobian(lambda x: x + deform(arguments, x), x))
        turned = jnp.where(valid[:, None], jnp.einsum("nji,nj->ni", inverse, cotangents[0]), 0.0)
        _, pull = jax.vjp(lambda arguments: deform(arguments, x), arguments)
        return pull(-turned)[0], turned


warp.defvjp(_warp_forward, _warp_backward)


def jacobian(posed: Callable[[jax.Array], jax.Array], points: jax.Array) -> jax.Array:
    """d posed / d point (N,3,3) at points (N,3), rows by output, for a map that takes each point by itself."""
    push = functools.partial(jax.jvp, posed, (points,))
    columns = [push((jnp.zeros_like(points).at[:, axis].set(1.0),))[1] for axis in range(3)]
    return jnp.stack(columns, -1)


def inverse_3x3(matrix: jax.Array) -> jax.Array:
    """Inverses of matrices (…,3,3) by cofactors: a call into LAPACK per matrix costs more than the network."""
    rows = [matrix[..., index, :] for index in range(3)]
    cofactors = [jnp.cross(rows[1], rows[2]), jnp.cross(rows[2], rows[0]), jnp.cross(rows[0], rows[1])]
    determinant = (rows[0] * cofactors[0]).sum(-1)
    return jnp.stack(cofactors, -1) / determinant[..., None, None]


def _solve(deform: Deform, arguments: Any, observed: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    def posed(x: jax.Array) -> jax.Array:
        return x + deform(arguments, x)

    find = {"broyden": _broyden, "newton": _newton}[method]
    with jax.default_matmul_precision("highest"):
        return find(posed, lambda x: posed(x) - observed, observed)


def _broyden(posed: Callable, residual: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Broyden's good method: the inverse Jacobian at the start, then rank-1 updates of it."""

    def body(state: tuple) -> tuple:
        count, x, inverse, error, best, active = state
        update = jnp.where(active[:, None], -_times(inverse, error), 0.0)
        x = x + update
        change = jnp.where(active[:, None], residual(x) - error, 0.0)
        error = error + change
        best = jnp.minimum(best, safe_norm.norm(error))
        active = active & (best > CONVERGED) & (safe_norm.norm(error) < DIVERGED)
        row = jnp.einsum("ni,nij->nj", update, inverse)
        scale = (row * change).sum(-1, keepdims=True)
        scale = scale + jnp.where(scale >= 0, EPSILON, -EPSILON)
        rank_one = ((update - _times(inverse, change)) / scale)[:, :, None] * row[:, None]
        inverse = jnp.where(active[:, None, None], inverse + rank_one, inverse)
        return count + 1, x, inverse, error, best, active

    error = residual(start)
    active = jnp.ones(len(start), bool)
    state = (0, start, inverse_3x3(jacobian(posed, start)), error, safe_norm.norm(error), active)
    _, x, _, _, best, _ = lax.while_loop(lambda state: (state[0] < STEPS) & state[5].any(), body, state)
    return x, best < CONVERGED


def _newton(posed: Callable, residual: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Newton's method: the Jacobian anew at every step."""

    def active(error: jax.Array) -> jax.Array:
        return (safe_norm.norm(error) > CONVERGED) & (safe_norm.norm(error) < DIVERGED)

    def body(state: tuple) -> tuple:
        count, x, error = state
        update = _times(inverse_3x3(jacobian(posed, x)), error)
        x = jnp.where(active(error)[:, None], x - update, x)
        return count + 1, x, residual(x)

    state = (0, start, residual(start))
    _, x, error = lax.while_loop(lambda state: (state[0] < STEPS) & active(state[2]).any(), body, state)
    return x, safe_norm.norm(error) < CONVERGED


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return (matrix * vector[:, None]).sum(-1)
