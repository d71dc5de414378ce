"""ONNX nodes for the primitives of JAX that networks use.

A translation takes the graph, the values of the inputs, the abstract values of the outputs and the parameters of the
primitive (`jax.lax`), and returns the value of the result, or a list of values.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from jaxface.errors import UserError
from jaxface.onnx_graph import indexing
from jaxface.onnx_graph.graph import Graph, Value

UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log",
    "logistic": "Sigmoid", "neg": "Neg", "not": "Not", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tan": "Tan",
    "tanh": "Tanh",
}  # fmt: skip
BINARY = {
    "add": "Add", "add_any": "Add", "and": "And", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "or": "Or",
    "pow": "Pow", "sub": "Sub", "xor": "Xor",
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}
IDENTITIES = ("copy", "copy_p", "optimization_barrier", "stop_gradient")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _result(output: Any, name: str, broadcast: frozenset[int] = frozenset()) -> Value:
    return Value(tuple(output.shape), np.dtype(output.dtype), name, broadcast=broadcast)


def _elementwise(
    operator: str, graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **attributes: Any
) -> Value:
    """A node that broadcasts its inputs; axes at which all of them have size 1 in the graph stay so."""
    shape = outputs[0].shape
    short = [
        value.broadcast | {axis for axis, size in enumerate(value.shape) if str(size) == "1" != str(shape[axis])}
        for value in inputs
        if value.shape
    ]
    common = functools.reduce(frozenset.intersection, map(frozenset, short)) if short else frozenset()
    return _result(outputs[0], graph.node(operator, inputs, **attributes), common)


def _unary(operator: str) -> Callable[..., Value]:
    def translate(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
        return _elementwise(operator, graph, inputs, outputs)

    return translate


def _like(value: Value, number: float) -> np.ndarray:
    return np.asarray(number, value.dtype)


def _rsqrt(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    root = _elementwise("Sqrt", graph, inputs, outputs)
    return _elementwise("Reciprocal", graph, [root], outputs)


def _square(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    return _elementwise("Mul", graph, [inputs[0], inputs[0]], outputs)


def _integer_pow(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], y: int, **_: Any) -> Value:
    if y == 2:
        return _square(graph, inputs, outputs)
    return _elementwise("Pow", graph, [inputs[0], graph.constant(_like(inputs[0], y))], outputs)


def _log1p(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    one = graph.constant(_like(inputs[0], 1))
    return _elementwise("Log", graph, [_elementwise("Add", graph, [inputs[0], one], outputs)], outputs)


def _expm1(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    one = graph.constant(_like(inputs[0], 1))
    return _elementwise("Sub", graph, [_elementwise("Exp", graph, inputs, outputs), one], outputs)


def _not_equal(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    return _elementwise("Not", graph, [_elementwise("Equal", graph, inputs, outputs)], outputs)


def _remainder(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    return _elementwise("Mod", graph, inputs, outputs, fmod=1)


def _select(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    which, *cases = inputs
    if len(cases) != 2 or which.dtype != bool:
        raise UserError("--output: a choice among more than two cases cannot be written as ONNX; export StableHLO")
    return _elementwise("Where", graph, [which, cases[1], cases[0]], outputs)


def _clamp(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    low, value, high = inputs
    return _elementwise("Min", graph, [_elementwise("Max", graph, [value, low], outputs), high], outputs)


def _cast(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], new_dtype: Any, **_: Any) -> Value:
    return _elementwise("Cast", graph, inputs, outputs, to=helper.np_dtype_to_tensor_dtype(np.dtype(new_dtype)))


def _identity(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> list[Value]:
    del graph, outputs
    return list(inputs)


def _reduce(operator: str) -> Callable[..., Value]:
    def translate(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], axes: Any, **_: Any) -> Value:
        return _result(outputs[0], graph.node(operator, [graph.expanded(inputs[0]), list(axes)], keepdims=0))

    return translate


def _arg_reduce(operator: str) -> Callable[..., Value]:
    def translate(
        graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], axes: Any, index_dtype: Any, **_: Any
    ) -> Value:
        name = graph.node(operator, [graph.expanded(inputs[0])], axis=int(axes[0]), keepdims=0)
        return _result(
            outputs[0], graph.node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(index_dtype)))
        )

    return translate


def _broadcast(
    graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], broadcast_dimensions: Any, **_: Any
) -> Value:
    """Only adds axes of size 1: element-wise nodes broadcast, and others expand their inputs first."""
    value, shape = inputs[0], tuple(outputs[0].shape)
    kept = {int(axis): source for source, axis in enumerate(broadcast_dimensions)}
    added = [axis for axis in range(len(shape)) if axis not in kept]
    widened = {
        axis
        for axis, source in kept.items()
        if source in value.broadcast or str(value.shape[source]) != str(shape[axis])
    }
    widened |= {axis for axis in added if str(shape[axis]) != "1"}
    if value.array is not None:
        array = np.expand_dims(value.array, added) if added else value.array
        return Value(shape, value.dtype, array=array, broadcast=frozenset(widened))
    name = graph.node("Unsqueeze", [value, added]) if added else graph.name_of(value)
    return _result(outputs[0], name, frozenset(widened))


def _reshape(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], **_: Any) -> Value:
    shape = tuple(outputs[0].shape)
    unknown = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if len(unknown) == 1:
        target: Any = [-1 if axis in unknown else size for axis, size in enumerate(shape)]
    else:
        target = graph.sizes(shape)
    return _result(outputs[0], graph.node("Reshape", [graph.expanded(inputs[0]), target]))


def _transpose(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], permutation: Any, **_: Any) -> Value:
    moved = frozenset(axis for axis, source in enumerate(permutation) if source in inputs[0].broadcast)
    return _result(outputs[0], graph.node("Transpose", [inputs[0]], perm=[int(axis) for axis in permutation]), moved)


def _squeeze(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimensions: Any, **_: Any) -> Value:
    axes = [int(axis) for axis in dimensions]
    return _result(outputs[0], graph.node("Squeeze", [graph.expanded(inputs[0]), axes]))


def _concatenate(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimension: int, **_: Any) -> Value:
    return _result(outputs[0], graph.node("Concat", [graph.expanded(value) for value in inputs], axis=dimension))


def stack(graph: Graph, values: Sequence[Value], axis: int) -> Value:
    """The values along a new axis."""
    first = values[0]
    shape = (*first.shape[:axis], len(values), *first.shape[axis:])
    rows = [graph.node("Unsqueeze", [graph.expanded(value), [axis]]) for value in values]
    return Value(shape, first.dtype, graph.node("Concat", rows, axis=axis))


def _stack(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], axis: int = 0, **_: Any) -> Value:
    del outputs
    return stack(graph, inputs, axis)


def take(graph: Graph, value: Value, index: int) -> Value:
    """Row `index` of the first axis."""
    if value.array is not None and not value.broadcast:
        return graph.constant(value.array[index])
    whole = graph.expanded(value)
    name = graph.node("Gather", [whole, graph.constant(np.int64(index))], axis=0)
    return Value(value.shape[1:], value.dtype, name)


def _split(
    graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], sizes: Any, axis: int, **_: Any
) -> list[Value]:
    whole = graph.expanded(inputs[0])
    names = graph.node("Split", [whole, [int(size) for size in sizes]], len(sizes), axis=axis)
    names = [names] if isinstance(names, str) else names
    return [_result(output, name) for output, name in zip(outputs, names, strict=True)]


def _pad(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], padding_config: Any, **_: Any) -> Value:
    if any(interior for _, _, interior in padding_config):
        raise UserError("--output: padding between elements cannot be written as ONNX; export StableHLO")
    pads = graph.sizes([low for low, _, _ in padding_config] + [high for _, high, _ in padding_config])
    return _result(outputs[0], graph.node("Pad", [graph.expanded(inputs[0]), pads, inputs[1]]))


def _iota(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimension: int, **_: Any) -> Value:
    """Counts along one axis; the size of that axis must be known."""
    del inputs
    shape, dtype = tuple(outputs[0].shape), np.dtype(outputs[0].dtype)
    if not isinstance(shape[dimension], int):
        raise UserError("--output: counting along a free size cannot be written as ONNX; export StableHLO")
    others = [axis for axis in range(len(shape)) if axis != dimension]
    array = np.expand_dims(np.arange(shape[dimension]).astype(dtype), others)
    return Value(shape, dtype, array=array, broadcast=frozenset(axis for axis in others if shape[axis] != 1))


def _dot(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimension_numbers: Any, **_: Any) -> Value:
    """A matrix product; Einsum where MatMul does not have its axes."""
    (left_axes, right_axes), (left_batch, right_batch) = dimension_numbers
    left, right = (graph.expanded(value) for value in inputs)
    ranks = len(left.shape), len(right.shape)
    if not left_batch and tuple(left_axes) == (ranks[0] - 1,) and tuple(right_axes) == (0,) and ranks[1] == 2:
        return _result(outputs[0], graph.node("MatMul", [left, right]))
    count = len(left_batch)
    leading = tuple(range(count))
    is_batched = tuple(left_batch) == tuple(right_batch) == leading and ranks == (count + 2, count + 2)
    if is_batched and tuple(left_axes) == (count + 1,) and tuple(right_axes) == (count,):
        return _result(outputs[0], graph.node("MatMul", [left, right]))
    letters = iter(LETTERS)
    names: tuple[dict[int, str], dict[int, str]] = {}, {}
    for first, second in zip((*left_batch, *left_axes), (*right_batch, *right_axes), strict=True):
        names[0][first] = names[1][second] = next(letters)
    texts = []
    for rank, known in zip(ranks, names, strict=True):
        for axis in range(rank):
            if axis not in known:
                known[axis] = next(letters)
        texts.append("".join(known[axis] for axis in range(rank)))
    batch = "".join(names[0][axis] for axis in left_batch)
    not_free = {*batch, *(names[0][axis] for axis in left_axes)}
    free = "".join(letter for letter in "".join(texts) if letter not in not_free)
    return _result(outputs[0], graph.node("Einsum", [left, right], equation=f"{texts[0]},{texts[1]}->{batch}{free}"))


def _convolution(
    graph: Graph,
    inputs: Sequence[Value],
    outputs: Sequence[Any],
    dimension_numbers: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> Value:
    if any(step != 1 for step in lhs_dilation) or batch_group_count != 1:
        raise UserError("--output: a transposed convolution cannot be written as ONNX; export StableHLO")
    image = graph.node("Transpose", [graph.expanded(inputs[0])], perm=list(map(int, dimension_numbers.lhs_spec)))
    kernel = graph.expanded(inputs[1])
    order = list(map(int, dimension_numbers.rhs_spec))
    if kernel.array is None:
        moved: Any = graph.node("Transpose", [kernel], perm=order)
    else:
        moved = graph.constant(np.transpose(kernel.array, order))
    pads = [int(low) for low, _ in padding] + [int(high) for _, high in padding]
    result = graph.node(
        "Conv",
        [image, moved],
        strides=list(map(int, window_strides)),
        pads=pads,
        dilations=list(map(int, rhs_dilation)),
        group=int(feature_group_count),
    )
    back = np.argsort(dimension_numbers.out_spec).tolist()
    return _result(outputs[0], graph.node("Transpose", [result], perm=back))


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    **{name: _unary(operator) for name, operator in (UNARY | BINARY).items()},
    **{name: _reduce(operator) for name, operator in REDUCTIONS.items()},
    **dict.fromkeys(IDENTITIES, _identity),
    "argmax": _arg_reduce("ArgMax"),
    "argmin": _arg_reduce("ArgMin"),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "expm1": _expm1,
    "gather": indexing.gather,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "log1p": _log1p,
    "ne": _not_equal,
    "pad": _pad,
    "rem": _remainder,
    "reshape": _reshape,
    "rev": indexing.reverse,
    "rsqrt": _rsqrt,
    "scatter": indexing.scatter,
    "scatter-add": functools.partial(indexing.scatter, adds=True),
    "select_n": _select,
    "slice": indexing.slice_,
    "split": _split,
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
}
