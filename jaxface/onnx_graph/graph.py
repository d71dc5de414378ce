"""An ONNX graph under construction: values with their shapes, nodes, and sizes that are known only when it runs."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxface.errors import UserError

# Reduce* with axes as inputs, Pad with axes: every runtime since onnxruntime 1.14.
OPSET = 18
# Functions in symbolic sizes; divisions are of positive numbers.
SIZE_FUNCTIONS = {"floordiv": "Div", "max": "Max", "min": "Min", "mod": "Mod"}
Dim = Any  # an int, or a symbolic dimension of `jax.export`


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        shape: as in the traced function; symbolic sizes are those of `jax.export`.
        dtype: numpy's.
        name: of the tensor in the graph; "" for a constant that no node has used yet.
        array: the constant, or None.
        broadcast: axes of size 1 in the graph that stand for larger ones, as element-wise operators allow.
    """

    shape: tuple[Dim, ...]
    dtype: np.dtype
    name: str = ""
    array: np.ndarray | None = None
    broadcast: frozenset[int] = frozenset()

    @property
    def is_static(self) -> bool:
        """Whether all sizes are known."""
        return all(isinstance(size, int) for size in self.shape)


class Graph:
    """Collects the nodes, constants and inputs of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._sizes: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._stored: list[np.ndarray] = []  # kept alive, because their ids are keys of `_names`

    def add_input(self, name: str, shape: Sequence[Dim]) -> Value:
        """A float32 input; its symbolic sizes are read from it when the graph runs."""
        sizes = [size if isinstance(size, int) else str(size) for size in shape]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        value = Value(tuple(shape), np.dtype(np.float32), name)
        for axis, size in enumerate(sizes):
            if isinstance(size, str) and size.isidentifier():
                self._sizes.setdefault(size, (name, axis))
        return value

    def constant(self, array: np.ndarray) -> Value:
        """A constant; it is stored in the file when a node uses it."""
        array = np.asarray(array)
        return Value(array.shape, array.dtype, array=array)

    def name_of(self, value: Value) -> str:
        """The tensor of a value, in its graph shape."""
        return value.name if value.array is None else self._store(value.array)

    def _store(self, array: np.ndarray) -> str:
        key = (array.shape, array.dtype.str, array.tobytes()) if array.size < 64 else id(array)
        if key not in self._names:
            self._names[key] = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), self._names[key]))
            self._stored.append(array)
        return self._names[key]

    def node(self, operator: str, inputs: Sequence[Any], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or names of several.

        Inputs are names, values, "" for an absent one, or integer lists, which become int64 constants.
        """
        names = [self._input_name(value) for value in inputs]
        results = [f"{operator}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, results, **attributes))
        return results[0] if outputs == 1 else results

    def _input_name(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, Value):
            return self.name_of(value)
        return self._store(np.asarray(value, np.int64))

    def expanded(self, value: Value) -> Value:
        """The value with all its axes at full size."""
        if not value.broadcast:
            return value
        if value.array is not None and value.is_static:
            return self.constant(np.broadcast_to(value.array, value.shape))
        # An axis of size 1 in the target keeps the size that the value has.
        target = [size if axis in value.broadcast else 1 for axis, size in enumerate(value.shape)]
        name = self.node("Expand", [value, self.sizes(target)])
        return Value(value.shape, value.dtype, name)

    def sizes(self, shape: Sequence[Dim]) -> Any:
        """A shape as node input: integers, or a tensor that is computed when the graph runs."""
        if all(isinstance(size, int) for size in shape):
            return list(shape)
        return self.node("Concat", [self.size(size) for size in shape], axis=0)

    def size(self, size: Dim) -> str:
        """The name of a tensor (1,) int64 of a size."""
        return self._input_name([size]) if isinstance(size, int) else self._term(ast.parse(str(size), mode="eval").body)

    def _term(self, term: ast.expr) -> str:
        """The tensor of a term of a symbolic size such as `2*B + floordiv(N, 3)`."""
        operators = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        if isinstance(term, ast.Constant):
            return self._input_name([term.value])
        if isinstance(term, ast.Name) and term.id in self._sizes:
            return self._size_of_input(term.id)
        if isinstance(term, ast.UnaryOp) and isinstance(term.op, ast.USub):
            return self.node("Neg", [self._term(term.operand)])
        if isinstance(term, ast.BinOp) and type(term.op) in operators:
            return self.node(operators[type(term.op)], [self._term(term.left), self._term(term.right)])
        if isinstance(term, ast.Call) and ast.unparse(term.func) in SIZE_FUNCTIONS:
            operator = SIZE_FUNCTIONS[ast.unparse(term.func)]
            return self.node(operator, [self._term(part) for part in term.args])
        raise UserError(f"--output: the size {ast.unparse(term)} cannot be written as ONNX; export StableHLO")

    def _size_of_input(self, variable: str) -> str:
        if variable not in self._names:
            name, axis = self._sizes[variable]
            self._names[variable] = self.node("Shape", [name], start=axis, end=axis + 1)
        return self._names[variable]

    def model(self, name: str, outputs: dict[str, Value]) -> onnx.ModelProto:
        """The finished model. Raises onnx.checker.ValidationError if it is not valid."""
        declared = []
        for output, value in outputs.items():
            expanded = self.expanded(value)
            self.nodes.append(helper.make_node("Identity", [self.name_of(expanded)], [output]))
            sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            declared.append(helper.make_tensor_value_info(output, kind, sizes))
        graph = helper.make_graph(self.nodes, name, self.inputs, declared, self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="jaxface")
        model.ir_version = helper.find_min_ir_version_for([opset])
        onnx.checker.check_model(model)
        return model
