"""Exports the network of a system as a file that runs without this package: StableHLO (`jax.export`) or ONNX."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxface.errors import UserError
from jaxface.system import System, Tree

PLATFORMS = ("cpu", "cuda", "tpu")
# Free sizes with which an ONNX file is compared with the network, and the largest difference relative to the largest
# number of an output, or to 1.
CHECKED_SIZES, TOLERANCE = {"B": 2, "N": 5}, 1e-4


def serialize(system: System, params: Tree, model_state: Tree) -> bytes:
    """Serialises `System.raw` with its parameters embedded, for any batch size B and number of points N.

    Inputs and outputs are float32 arrays by name, as `System.inputs` and `System.raw` have them; inputs that are
    optional for `raw` are required, because a file has one set of inputs. Products have full float32 precision.
    `jax.export.deserialize(bytearray(data)).call({"image": …})` runs it on every platform of `PLATFORMS`.
    """
    network = jax.jit(functools.partial(system.raw, params, model_state))
    with jax.default_matmul_precision("highest"):
        return bytes(export.export(network, platforms=PLATFORMS)(_abstract_inputs(system)).serialize())


def serialize_onnx(system: System, params: Tree, model_state: Tree) -> bytes:
    """As `serialize`, an ONNX file; it is run by onnxruntime and compared with `System.raw`.

    Raises:
        ModuleNotFoundError: the extra `onnx` is not installed.
        UserError: the network has an operation that cannot be written as ONNX, or the file does not compute the same.
    """
    import onnxruntime

    from jaxface.onnx_graph import jaxpr

    network = functools.partial(system.raw, params, model_state)
    with jax.default_matmul_precision("highest"):
        data = jaxpr.to_onnx(network, _abstract_inputs(system)).SerializeToString()
        arrays = _random_inputs(system)
        expected = jax.device_get(network(arrays))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = dict(zip((output.name for output in session.get_outputs()), session.run(None, arrays), strict=True))
    for name, array in expected.items():
        difference = float(np.abs(found[name] - array).max()) / max(1.0, float(np.abs(array).max()))
        if not difference <= TOLERANCE:
            raise UserError(f"--output: {name} of the ONNX file differs by {difference:.1e}; export StableHLO instead")
    return data


def _abstract_inputs(system: System) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs of a system with symbolic sizes."""
    scope = export.SymbolicScope()
    shapes = {name: export.symbolic_shape(shape, scope=scope) for name, shape in system.inputs.items()}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def _random_inputs(system: System) -> dict[str, Any]:
    """Inputs in [0,1] of CHECKED_SIZES."""
    random, arrays = np.random.default_rng(0), {}
    for name, text in system.inputs.items():
        sizes = [CHECKED_SIZES[size] if size in CHECKED_SIZES else int(size) for size in text.split(", ")]
        arrays[name] = random.random(sizes, np.float32)
    return arrays
