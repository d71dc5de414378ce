"""Translates a traced JAX function to an ONNX graph: inlines calls, folds constants, unrolls loops of fixed length."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from jaxface.errors import UserError
from jaxface.onnx_graph import operators
from jaxface.onnx_graph.graph import Graph, Value

# Parameters of primitives that hold the jaxpr of a call.
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# Larger results are computed when the graph runs, so that files stay small.
MAX_FOLDED = 4_000_000


def to_onnx(function: Callable[..., Mapping[str, Any]], arrays: Mapping[str, jax.ShapeDtypeStruct]) -> onnx.ModelProto:
    """The ONNX model of a function that maps float32 arrays by name to arrays by name.

    Args:
        function: `({name: array}) -> {name: array}`, traceable.
        arrays: shapes of the inputs; their sizes may be symbolic (`jax.export`), also of several of them.

    Raises:
        UserError: the function has an operation that this translation lacks.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(dict(arrays))
    graph = Graph()
    names = sorted(arrays)  # jaxprs take dictionaries in the order of their keys
    values = [graph.add_input(name, arrays[name].shape) for name in names]
    results = _Translator(graph).inline(closed, values)
    return graph.model("network", dict(zip(sorted(shapes), results, strict=True)))


class _Translator:
    """Runs a jaxpr on values of a graph."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def inline(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
        """The results of a closed jaxpr."""
        constants = [self.graph.constant(np.asarray(array)) for array in closed.consts]
        return self._run(closed.jaxpr, constants, arguments)

    def _run(self, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        known = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Value:
            if isinstance(variable, core.Literal):
                return self.graph.constant(np.asarray(variable.val, variable.aval.dtype))
            return known[variable]

        for equation in jaxpr.eqns:
            results = self._apply(equation, [read(variable) for variable in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _apply(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, parameters = equation.primitive.name, equation.params
        if name in CONTROL:
            return CONTROL[name](self, inputs, **parameters)
        called = next((parameters[key] for key in CALLED if key in parameters), None)
        if called is not None and name not in operators.TRANSLATIONS:
            closed = called if hasattr(called, "consts") else core.ClosedJaxpr(called, ())
            return self.inline(closed, inputs)
        outputs = [variable.aval for variable in equation.outvars]
        if self._is_constant(name, inputs, outputs):
            return self._folded(equation, inputs)
        if name not in operators.TRANSLATIONS:
            raise UserError(f"--output: the operation {name} cannot be written as ONNX; export StableHLO instead")
        results = operators.TRANSLATIONS[name](self.graph, inputs, outputs, **parameters)
        return results if isinstance(results, list) else [results]

    def _is_constant(self, name: str, inputs: Sequence[Value], outputs: Sequence[Any]) -> bool:
        if any(value.array is None or not value.is_static for value in inputs):
            return False
        sizes = [size for aval in outputs for size in aval.shape]
        if not all(isinstance(size, int) for size in sizes):
            return False
        return name != "broadcast_in_dim" and all(np.prod(aval.shape) <= MAX_FOLDED for aval in outputs)

    def _folded(self, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        arrays = [self.graph.expanded(value).array for value in inputs]
        with jax.default_matmul_precision("highest"):
            results = equation.primitive.bind(*arrays, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        return [self.graph.constant(np.asarray(result)) for result in results]

    def _platform_index(self, _inputs: Sequence[Value], platforms: Sequence[Any], **_: Any) -> list[Value]:
        """The branch for any platform: it has the operators that runtimes know."""
        chosen = next(index for index, names in enumerate(platforms) if names is None or "cpu" in names)
        general = [index for index, names in enumerate(platforms) if names is None]
        return [self.graph.constant(np.int32((general or [chosen])[0]))]

    def _cond(self, inputs: Sequence[Value], branches: Sequence[Any], **_: Any) -> list[Value]:
        which, *arguments = inputs
        if which.array is None:
            raise UserError("--output: a branch that depends on the input cannot be written as ONNX; export StableHLO")
        return self.inline(branches[int(np.clip(which.array, 0, len(branches) - 1))], arguments)

    def _custom_linear_solve(self, inputs: Sequence[Value], const_lengths: Any, jaxprs: Any) -> list[Value]:
        first = const_lengths.matvec + const_lengths.vecmat
        total = first + const_lengths.solve + const_lengths.transpose_solve
        return self.inline(jaxprs.solve, [*inputs[first : first + const_lengths.solve], *inputs[total:]])

    def _scan(
        self,
        inputs: Sequence[Value],
        jaxpr: Any,
        length: int,
        reverse: bool,
        num_consts: int,
        num_carry: int,
        **_: Any,
    ) -> list[Value]:
        """Unrolls a loop of fixed length."""
        constants = inputs[:num_consts]
        carry, stacked = inputs[num_consts : num_consts + num_carry], inputs[num_consts + num_carry :]
        rows: list[list[Value]] = []
        for step in range(length)[:: -1 if reverse else 1]:
            slices = [operators.take(self.graph, value, step) for value in stacked]
            results = self.inline(jaxpr, [*constants, *carry, *slices])
            carry, row = results[:num_carry], results[num_carry:]
            rows.append(row)
        columns = zip(*(rows[::-1] if reverse else rows), strict=True)
        return [*carry, *(operators.stack(self.graph, column, 0) for column in columns)]

    def _while(
        self,
        inputs: Sequence[Value],
        cond_jaxpr: Any,
        body_jaxpr: Any,
        cond_nconsts: int,
        body_nconsts: int,
        **_: Any,
    ) -> list[Value]:
        """Unrolls a loop whose number of steps does not depend on the input."""
        conditions, constants = inputs[:cond_nconsts], inputs[cond_nconsts : cond_nconsts + body_nconsts]
        carry = inputs[cond_nconsts + body_nconsts :]
        proceed = functools.partial(self.inline, cond_jaxpr)
        while (goes_on := proceed([*conditions, *carry])[0]).array is not None and goes_on.array:
            carry = self.inline(body_jaxpr, [*constants, *carry])
        if goes_on.array is None:
            raise UserError("--output: a loop that depends on the input cannot be written as ONNX; export StableHLO")
        return list(carry)


# Primitives whose jaxprs are run here.
CONTROL = {
    "cond": _Translator._cond,
    "custom_linear_solve": _Translator._custom_linear_solve,
    "platform_index": _Translator._platform_index,
    "scan": _Translator._scan,
    "while": _Translator._while,
}
