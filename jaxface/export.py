"""Exports the network of a system, or a part of it, as a StableHLO file that runs without this package."""

import jax
import jax.numpy as jnp
from jax import export

from jaxface.system import Part, System, Tree

PLATFORMS = ("cpu", "cuda", "tpu")
# The name of the exported function, by which `outputs.write_file` knows the file as an output of jaxface.
FUNCTION_NAME = "written_by_jaxface"


def serialize(system: System | Part, params: Tree, model_state: Tree) -> bytes:
    """Serialises `raw` of a system or part with its parameters embedded, for any batch size B and number of points N.

    Inputs and outputs are float32 arrays by name, as `System.inputs` and `System.raw` have them; inputs that are
    optional for `raw` are required, because a file has one set of inputs. Products have full float32 precision.
    `jax.export.deserialize(bytearray(data)).call({"image": …})` runs it on every platform of `PLATFORMS`.
    """
    scope = export.SymbolicScope()
    shapes = {name: export.symbolic_shape(shape, scope=scope) for name, shape in system.inputs.items()}
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def network(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return system.raw(params, model_state, arrays)

    network.__name__ = FUNCTION_NAME
    with jax.default_matmul_precision("highest"):
        return bytes(export.export(jax.jit(network), platforms=PLATFORMS)(arrays).serialize())
