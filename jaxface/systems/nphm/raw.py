"""The networks on prepared arrays, as `launch.infer --raw` calls them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import core, lax

from jaxface.errors import UserError
from jaxface.system import Tree
from jaxface.systems.nphm.model import Identity
from jaxface.systems.nphm.networks.deformation import Deformation

# Points at a time: what stays in a CPU's caches.
CHUNK = 2000

Arrays = dict[str, Any]


def identity_raw(model: Identity, last_is_one: bool) -> Callable[[Tree, Tree, Arrays], Arrays]:
    """`raw` of phase 1: points (B,N,3) and identity (B,code) in; sdf (B,N), gradient (B,N,3) by position, anchors
    (B,A,3) and offsets (B,N,3), which are 0, out. In full precision."""
    run = jax.jit(lambda params, points, codes: _distances(model, params["identity"], points, codes, last_is_one))

    def raw(params: Tree, model_state: Tree, arrays: Arrays) -> Arrays:
        del model_state
        if "expression" in arrays:
            raise UserError("expression: this workdir holds an identity model only; give one of an expression model")
        points, codes = _checked(arrays, points=3, identity=model.code)
        with jax.default_matmul_precision("highest"):
            out = run(params, points, codes)
        return {**out, "offsets": jnp.zeros_like(points)}

    return raw


def expression_raw(
    identity: Identity, model: Deformation, constants: Callable[[], Tree], last_is_one: bool
) -> Callable[[Tree, Tree, Arrays], Arrays]:
    """`raw` of phase 2: points are canonical; sdf, gradient and anchors are the identity model's there, offsets those
    of `expression` (B,code) if given, else 0."""
    alone = identity_raw(identity, last_is_one)

    @jax.jit
    def deform(params: Tree, points: jax.Array, codes: jax.Array, anchors: jax.Array, expression: jax.Array):
        condition = model.condition(params["expression"], codes, anchors)
        return model.offsets(params["expression"], condition, expression, points)

    def raw(params: Tree, model_state: Tree, arrays: Arrays) -> Arrays:
        rest = {name: array for name, array in arrays.items() if name != "expression"}
        # Numbers, also where this is being traced.
        with jax.ensure_compile_time_eval():
            known = constants()
        out = alone(known, model_state, rest)
        if "expression" in arrays:
            points, codes, expression = _checked(arrays, points=3, identity=identity.code, expression=model.code)
            with jax.default_matmul_precision("highest"):
                out["offsets"] = deform(params, points, codes, out["anchors"], expression)
        return out

    return raw


def _distances(model: Identity, params: Tree, points: jax.Array, codes: jax.Array, last_is_one: bool) -> dict:
    batch, count, _ = points.shape
    # The reference's fault is one of a whole call.
    chunk = count if last_is_one else core.min_dim(CHUNK, count)
    chunks = -(-count // chunk)
    padded = jnp.pad(points, ((0, 0), (0, chunks * chunk - count), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(batch, chunks, chunk, 3), 1, 0)
    sdf, gradient = lax.map(lambda part: model.sdf_and_gradient(params, codes, part, last_is_one), parts)
    return {
        "sdf": jnp.moveaxis(sdf, 0, 1).reshape(batch, -1)[:, :count],
        "gradient": jnp.moveaxis(gradient, 0, 1).reshape(batch, -1, 3)[:, :count],
        "anchors": model.anchors(params, codes),
    }


def _checked(arrays: Arrays, **widths: int) -> list[jax.Array]:
    """The named arrays as float32. UserError where one is missing or of a wrong shape."""
    made = []
    for name, width in widths.items():
        if name not in arrays:
            raise UserError(f"needs the array {name!r}; there are {', '.join(arrays) or 'none'}")
        array = jnp.asarray(arrays[name], jnp.float32)
        if array.ndim != (3 if name == "points" else 2) or array.shape[-1] != width or not array.size:
            expected = "(B,N,3)" if name == "points" else f"(B,{width})"
            raise UserError(f"{name} is {array.shape}; it must be {expected}")
        made.append(array)
    if len({array.shape[0] for array in made}) > 1:
        raise UserError(f"{', '.join(widths)} differ in their first axis: {[array.shape[0] for array in made]}")
    return made
