"""Backward deformation: canonical points of observed points, by root finding with implicit differentiation.

NPHM §4.2; official files utils/reconstruction.py and models/iterative_root_finding.py, after SNARF (Chen et al., ICCV
2021). All of it runs in full float32: rounded matrix products do not reach residuals of 1e-6.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.errors import UserError
from jaxface.systems.nphm.networks import safe_norm

MAX_STEPS = 15
# Residuals in model units: a point below CONVERGED has converged, one at or above DIVERGED is abandoned.
CONVERGED = 1e-6
DIVERGED = 0.2
# Keeps the denominator of Broyden's update away from 0.
BROYDEN_EPSILON = 1e-6

Deform = Callable[[Any, jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def warp(deform: Deform, arguments: Any, observed: jax.Array, method: str = "broyden") -> tuple[jax.Array, jax.Array]:
    """Solves x + deform(arguments, x) = observed for x.

    By the implicit function theorem, the derivatives with respect to `arguments` and `observed` are those of the
    solution; they are 0 for points that did not converge.

    Args:
        deform: maps (arguments, points (N,3)) to offsets (N,3), each of which depends on its own point only.
        arguments: pytree of arrays.
        observed: (N,3), also the start of the search.
        method: "broyden" as in the official code, or "newton", which recomputes the Jacobian in every step.

    Returns:
        (x (N,3), valid (N,) bool); points that did not converge keep their last iterate.
    """
    return _solve(deform, arguments, observed, method)


def _warp_forward(deform: Deform, arguments: Any, observed: jax.Array, method: str) -> tuple:
    x, valid = _solve(deform, arguments, observed, method)
    return (x, valid), (arguments, x, valid)


def _warp_backward(deform: Deform, method: str, residuals: tuple, cotangents: tuple) -> tuple:
    """Implicit differentiation: dx = J^-1 (d observed - d deform), with J = d(x + deform(x)) / dx."""
    del method
    arguments, x, valid = residuals
    with jax.default_matmul_precision("highest"):
        inverse = inverse_3x3(jacobian(lambda x: x + deform(arguments, x), x))
        by_observed = jnp.where(valid[:, None], jnp.einsum("nji,nj->ni", inverse, cotangents[0]), 0.0)
        _, pull = jax.vjp(lambda arguments: deform(arguments, x), arguments)
        return pull(-by_observed)[0], by_observed


warp.defvjp(_warp_forward, _warp_backward)


def jacobian(function: Callable[[jax.Array], jax.Array], points: jax.Array) -> jax.Array:
    """Jacobians (N,3,3), rows by output, of a function of points (N,3) that maps each point on its own."""
    push = functools.partial(jax.jvp, function, (points,))
    columns = [push((jnp.zeros_like(points).at[:, axis].set(1.0),))[1] for axis in range(3)]
    return jnp.stack(columns, -1)


def inverse_3x3(matrix: jax.Array) -> jax.Array:
    """Inverses of matrices (…,3,3) by cofactors: one LAPACK call per matrix costs more than the network."""
    rows = [matrix[..., index, :] for index in range(3)]
    cofactors = [jnp.cross(rows[1], rows[2]), jnp.cross(rows[2], rows[0]), jnp.cross(rows[0], rows[1])]
    determinant = (rows[0] * cofactors[0]).sum(-1)
    return jnp.stack(cofactors, -1) / determinant[..., None, None]


def _solve(deform: Deform, arguments: Any, observed: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    def posed(x: jax.Array) -> jax.Array:
        return x + deform(arguments, x)

    solver = {"broyden": _broyden, "newton": _newton}.get(method)
    if solver is None:
        raise UserError(f'config.fit.method: unknown {method!r}; choose "broyden" or "newton"')
    with jax.default_matmul_precision("highest"):
        return solver(posed, lambda x: posed(x) - observed, observed)


def _broyden(posed: Callable, residual: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Broyden's good method: the inverse Jacobian at the start, then rank-1 updates of it."""

    def body(state: tuple) -> tuple:
        count, x, inverse, error, best, active = state
        update = jnp.where(active[:, None], -_matvec(inverse, error), 0.0)
        x = x + update
        change = jnp.where(active[:, None], residual(x) - error, 0.0)
        error = error + change
        best = jnp.minimum(best, safe_norm.norm(error))
        active = active & (best > CONVERGED) & (safe_norm.norm(error) < DIVERGED)
        row = jnp.einsum("ni,nij->nj", update, inverse)
        denominator = (row * change).sum(-1, keepdims=True)
        denominator = denominator + jnp.where(denominator >= 0, BROYDEN_EPSILON, -BROYDEN_EPSILON)
        rank_one = ((update - _matvec(inverse, change)) / denominator)[:, :, None] * row[:, None]
        inverse = jnp.where(active[:, None, None], inverse + rank_one, inverse)
        return count + 1, x, inverse, error, best, active

    error = residual(start)
    active = jnp.ones(len(start), bool)
    state = (0, start, inverse_3x3(jacobian(posed, start)), error, safe_norm.norm(error), active)
    _, x, _, _, best, _ = lax.while_loop(lambda state: (state[0] < MAX_STEPS) & state[5].any(), body, state)
    return x, best < CONVERGED


def _newton(posed: Callable, residual: Callable, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Newton's method: the Jacobian is recomputed in every step."""

    def active(error: jax.Array) -> jax.Array:
        return (safe_norm.norm(error) > CONVERGED) & (safe_norm.norm(error) < DIVERGED)

    def body(state: tuple) -> tuple:
        count, x, error = state
        update = _matvec(inverse_3x3(jacobian(posed, x)), error)
        x = jnp.where(active(error)[:, None], x - update, x)
        return count + 1, x, residual(x)

    state = (0, start, residual(start))
    _, x, error = lax.while_loop(lambda state: (state[0] < MAX_STEPS) & active(state[2]).any(), body, state)
    return x, safe_norm.norm(error) < CONVERGED


def _matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Products (N,3) of matrices (N,3,3) and vectors (N,3)."""
    return (matrix * vector[:, None]).sum(-1)
