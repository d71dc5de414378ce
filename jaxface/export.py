"""Exports the network of a system, or a part of it, as a file that runs without this package.

The formats are StableHLO (`jax.export`) and ONNX.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxface import outputs
from jaxface.errors import UserError
from jaxface.system import Part, System, Tree

PLATFORMS = ("cpu", "cuda", "tpu")
# The name of the exported function, by which `outputs.write_file` knows the file as an output of jaxface.
FUNCTION_NAME = "written_by_jaxface"
# Free sizes with which an ONNX file is compared with the network, and the largest difference relative to the largest
# number of an output, or to 1.
CHECKED_SIZES, TOLERANCE = {"B": 2, "N": 5}, 1e-4
# Free sizes with which the time is measured, and the number of runs.
TIMED_SIZES, RUNS = {"B": 1, "N": 68}, 9


def serialize(system: System | Part, params: Tree, model_state: Tree) -> bytes:
    """Serialises `raw` of a system or part with its parameters embedded, for any batch size B and number of points N.

    Inputs and outputs are float32 arrays by name, as `System.inputs` and `System.raw` have them; inputs that are
    optional for `raw` are required, because a file has one set of inputs. Products have full float32 precision.
    `jax.export.deserialize(bytearray(data)).call({"image": …})` runs it on every platform of `PLATFORMS`.
    """

    def network(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return system.raw(params, model_state, arrays)

    network.__name__ = FUNCTION_NAME
    with jax.default_matmul_precision("highest"):
        return bytes(export.export(jax.jit(network), platforms=PLATFORMS)(_abstract_inputs(system)).serialize())


@dataclasses.dataclass(frozen=True)
class OnnxExport:
    """An ONNX file, and how long it and the network take for one picture.

    Attributes:
        data: content of the file.
        ms: milliseconds of onnxruntime on this machine's CPU, the median of RUNS runs.
        network_ms: those of the compiled network on JAX's default device, between these runs.
    """

    data: bytes
    ms: float
    network_ms: float


def serialize_onnx(system: System | Part, params: Tree, model_state: Tree) -> OnnxExport:
    """As `serialize`, an ONNX file; it is run by onnxruntime and compared with `System.raw`.

    Raises:
        ModuleNotFoundError: the extra `onnx` is not installed.
        UserError: the network has an operation that cannot be written as ONNX, or the file does not compute the same.
    """
    import onnxruntime

    from jaxface.onnx_graph import jaxpr

    network = functools.partial(system.raw, params, model_state)
    with jax.default_matmul_precision("highest"):
        graph = jaxpr.to_onnx(network, _abstract_inputs(system))
        graph.doc_string = outputs.MARKS[0].decode()
        data = graph.SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        arrays = _random_inputs(system, CHECKED_SIZES)
        expected = jax.device_get(network(arrays))
        found = dict(zip((one.name for one in session.get_outputs()), session.run(None, arrays), strict=True))
        for name, array in expected.items():
            difference = float(np.abs(found[name] - array).max()) / max(1.0, float(np.abs(array).max()))
            if not difference <= TOLERANCE:
                raise UserError(f"--output: {name} of the ONNX file differs by {difference:.1e}; export StableHLO")
        arrays = _random_inputs(system, TIMED_SIZES)
        compiled = jax.jit(network)
        runs = {"ms": lambda: session.run(None, arrays), "network_ms": lambda: jax.block_until_ready(compiled(arrays))}
        return OnnxExport(data, **_medians(runs))


def _medians(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median time in milliseconds of each function, which run by turns; the first runs do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + RUNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def _abstract_inputs(system: System | Part) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs of a system with symbolic sizes."""
    scope = export.SymbolicScope()
    shapes = {name: export.symbolic_shape(shape, scope=scope) for name, shape in system.inputs.items()}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def _random_inputs(system: System | Part, free_sizes: dict[str, int]) -> dict[str, Any]:
    """Inputs in [0,1]."""
    random, arrays = np.random.default_rng(0), {}
    for name, text in system.inputs.items():
        sizes = [free_sizes[size] if size in free_sizes else int(size) for size in text.split(", ")]
        arrays[name] = random.random(sizes, np.float32)
    return arrays
