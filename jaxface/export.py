"""The network of a system as one file that runs without this package: StableHLO, by `jax.export`."""

import functools

import jax
import jax.numpy as jnp
from jax import export

from jaxface.system import System, Tree

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(system: System, params: Tree, model_state: Tree) -> bytes:
    """`System.raw` with these parameters in it: the inputs `System.inputs` in, outputs by name, for any B and N.

    `jax.export.deserialize(bytearray(data)).call({"image": …})` runs it on every platform of `PLATFORMS`, arrays are
    float32 by name on both sides and multiplied in full. What `raw` can do without is asked for as well: a file has one
    set of inputs.
    """
    scope = export.SymbolicScope()
    shapes = {name: export.symbolic_shape(shape, scope=scope) for name, shape in system.inputs.items()}
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    network = jax.jit(functools.partial(system.raw, params, model_state))
    with jax.default_matmul_precision("highest"):
        return bytes(export.export(network, platforms=PLATFORMS)(arrays).serialize())
