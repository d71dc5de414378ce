"""`System.raw`: the networks on prepared arrays, as `launch.infer --raw` calls them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import core, lax

from jaxface.errors import UserError
from jaxface.system import Tree
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import IdentityModel

# Points evaluated at a time: what fits into a CPU's caches.
CHUNK = 2000

Arrays = dict[str, Any]


def identity_raw(model: IdentityModel, replicate_last_point_bug: bool) -> Callable[[Tree, Tree, Arrays], Arrays]:
    """`raw` of the identity model, in full float32.

    Args:
        model: the identity model; its codes have C entries, and it has A anchors.
        replicate_last_point_bug: see `Ensemble.sdf_and_gradient`.

    Returns:
        A function from `points` (B,N,3) and `identity` (B,C) to `sdf` (B,N), its spatial `gradient` (B,N,3), `anchors`
        (B,A,3) and `offsets` (B,N,3), which are 0.
    """

    @jax.jit
    def evaluate(params: Tree, points: jax.Array, codes: jax.Array) -> Arrays:
        return _evaluate(model, params["identity"], points, codes, replicate_last_point_bug)

    def raw(params: Tree, model_state: Tree, arrays: Arrays) -> Arrays:
        del model_state
        if "expression" in arrays:
            raise UserError("expression: this workdir holds an identity model; use the workdir of an expression model")
        points, codes = _checked(arrays, points=3, identity=model.code_dim)
        with jax.default_matmul_precision("highest"):
            outputs = evaluate(params, points, codes)
        return {**outputs, "offsets": jnp.zeros_like(points)}

    return raw


def expression_raw(
    identity: IdentityModel, model: Deformation, constants: Callable[[], Tree], replicate_last_point_bug: bool
) -> Callable[[Tree, Tree, Arrays], Arrays]:
    """`raw` of the expression model, in full float32.

    Args:
        identity: the identity model that it deforms.
        model: the deformation network; its codes have E entries.
        constants: returns the parameters of the identity model.
        replicate_last_point_bug: see `Ensemble.sdf_and_gradient`.

    Returns:
        As from `identity_raw`, at canonical points; `offsets` are those of `expression` (B,E) if it is given.
    """
    evaluate_identity = identity_raw(identity, replicate_last_point_bug)

    @jax.jit
    def deform(params: Tree, points: jax.Array, codes: jax.Array, anchors: jax.Array, expression: jax.Array):
        condition = model.condition(params["expression"], codes, anchors)
        return model.offsets(params["expression"], condition, expression, points)

    def raw(params: Tree, model_state: Tree, arrays: Arrays) -> Arrays:
        identity_arrays = {name: array for name, array in arrays.items() if name != "expression"}
        # Concrete values even while `raw` is traced for an export.
        with jax.ensure_compile_time_eval():
            identity_params = constants()
        outputs = evaluate_identity(identity_params, model_state, identity_arrays)
        if "expression" in arrays:
            widths = {"points": 3, "identity": identity.code_dim, "expression": model.code_dim}
            points, codes, expression = _checked(arrays, **widths)
            with jax.default_matmul_precision("highest"):
                outputs["offsets"] = deform(params, points, codes, outputs["anchors"], expression)
        return outputs

    return raw


def _evaluate(
    model: IdentityModel, params: Tree, points: jax.Array, codes: jax.Array, replicate_last_point_bug: bool
) -> Arrays:
    """SDF, gradient and anchors, CHUNK points at a time; the number of points may be symbolic (`jax.export`)."""
    batch, count, _ = points.shape
    # The bug of the official code concerns the last point of a call, so all points must be one chunk.
    chunk = count if replicate_last_point_bug else core.min_dim(CHUNK, count)
    chunks = -(-count // chunk)
    padded = jnp.pad(points, ((0, 0), (0, chunks * chunk - count), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(batch, chunks, chunk, 3), 1, 0)
    sdf, gradient = lax.map(lambda part: model.sdf_and_gradient(params, codes, part, replicate_last_point_bug), parts)
    return {
        "sdf": jnp.moveaxis(sdf, 0, 1).reshape(batch, -1)[:, :count],
        "gradient": jnp.moveaxis(gradient, 0, 1).reshape(batch, -1, 3)[:, :count],
        "anchors": model.anchors(params, codes),
    }


def _checked(arrays: Arrays, **widths: int) -> list[jax.Array]:
    """The named arrays as float32. UserError if one is missing or has the wrong shape."""
    checked = []
    for name, width in widths.items():
        if name not in arrays:
            raise UserError(f"{name}: missing; found {', '.join(arrays) or 'no arrays'}")
        array = jnp.asarray(arrays[name], jnp.float32)
        if array.ndim != (3 if name == "points" else 2) or array.shape[-1] != width or not array.size:
            expected = "(B,N,3)" if name == "points" else f"(B,{width})"
            raise UserError(f"{name}: shape {array.shape}; it must be {expected}")
        checked.append(array)
    if len({array.shape[0] for array in checked}) > 1:
        raise UserError(
            f"{', '.join(widths)}: different batch sizes {[array.shape[0] for array in checked]}; give equal ones"
        )
    return checked
