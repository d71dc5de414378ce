"""ONNX nodes for indexing: slices, gathers and scatters with constant indices, and `take_along_axis`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from jaxface.errors import UserError
from jaxface.onnx_graph.graph import Graph, Value

# A slice that ends here ends at the end of its axis.
TO_END = np.iinfo(np.int64).max


def _unsupported(what: str) -> UserError:
    return UserError(f"--output: {what} cannot be written as ONNX; export StableHLO instead")


def slice_(
    graph: Graph,
    inputs: Sequence[Value],
    outputs: Sequence[Any],
    start_indices: Any,
    limit_indices: Any,
    strides: Any,
    **_: Any,
) -> Value:
    """`lax.slice`; along axes of free size only slices to their end are possible."""
    value = graph.expanded(inputs[0])
    steps = strides or (1,) * len(start_indices)
    axes = [
        axis
        for axis, (start, limit, step) in enumerate(zip(start_indices, limit_indices, steps, strict=True))
        if not (step == 1 and isinstance(start, int) and start == 0 and str(limit) == str(value.shape[axis]))
    ]
    ends = [TO_END if str(limit_indices[axis]) == str(value.shape[axis]) else limit_indices[axis] for axis in axes]
    starts, chosen_steps = [start_indices[axis] for axis in axes], [int(steps[axis]) for axis in axes]
    return _sliced(graph, value, outputs[0], starts, ends, axes, chosen_steps)


def _sliced(
    graph: Graph, value: Value, output: Any, starts: list[Any], ends: list[Any], axes: list[int], steps: list[int]
) -> Value:
    bounds = [graph.sizes(starts), graph.sizes(ends)] if axes else []
    name = graph.node("Slice", [value, *bounds, axes, steps]) if axes else graph.name_of(value)
    return Value(tuple(output.shape), value.dtype, name)


def reverse(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimensions: Any, **_: Any) -> Value:
    """`lax.rev`."""
    axes = [int(axis) for axis in dimensions]
    ends = [-TO_END] * len(axes)
    return _sliced(graph, graph.expanded(inputs[0]), outputs[0], [-1] * len(axes), ends, axes, [-1] * len(axes))


def gather(
    graph: Graph, inputs: Sequence[Value], outputs: Sequence[Any], dimension_numbers: Any, slice_sizes: Any, **_: Any
) -> Value:
    """`lax.gather` with constant indices, or as `jnp.take_along_axis` uses it."""
    value, indices = graph.expanded(inputs[0]), inputs[1]
    if dimension_numbers.operand_batching_dims:
        return _along_axis(graph, value, graph.expanded(indices), outputs[0], dimension_numbers, slice_sizes)
    if indices.array is None:
        raise _unsupported("indexing by computed positions")
    array, indexed = graph.expanded(indices).array, [int(axis) for axis in dimension_numbers.start_index_map]
    if array.ndim == 1:
        return _window(graph, value, array, outputs[0], dimension_numbers, slice_sizes)
    if sorted(indexed) != sorted(dimension_numbers.collapsed_slice_dims):
        raise _unsupported("gathering of windows")
    rest = [axis for axis in range(len(value.shape)) if axis not in indexed]
    if any(str(slice_sizes[axis]) != str(value.shape[axis]) for axis in rest):
        raise _unsupported("gathering of parts of rows")
    sizes = [int(value.shape[axis]) for axis in indexed]
    # Indices beyond the last one are clipped; JAX's other modes agree within the array.
    flat = np.ravel_multi_index(tuple(np.moveaxis(array, -1, 0)), sizes, mode="clip")
    rows = graph.constant(np.asarray(flat, np.int64))
    rank, offsets = len(outputs[0].shape), [int(axis) for axis in dimension_numbers.offset_dims]
    gathered = [axis for axis in range(rank) if axis not in offsets]
    if len(indexed) == 1 and gathered == list(range(indexed[0], indexed[0] + flat.ndim)):
        return Value(tuple(outputs[0].shape), value.dtype, graph.node("Gather", [value, rows], axis=indexed[0]))
    name = graph.node("Transpose", [value], perm=[*indexed, *rest])
    if len(indexed) > 1:
        free = [value.shape[axis] for axis in rest]
        name = graph.node("Reshape", [name, graph.sizes([int(np.prod(sizes)), *free])])
    name = graph.node("Gather", [name, rows], axis=0)
    order = gathered + offsets
    return Value(tuple(outputs[0].shape), value.dtype, graph.node("Transpose", [name], perm=np.argsort(order).tolist()))


def _window(
    graph: Graph, value: Value, start: np.ndarray, output: Any, dimension_numbers: Any, slice_sizes: Any
) -> Value:
    """One window that starts at constant positions, without its collapsed axes."""
    axes, starts, ends = [], [], []
    for axis, position in zip(dimension_numbers.start_index_map, start, strict=True):
        size, whole = slice_sizes[axis], value.shape[axis]
        if str(size) == str(whole):
            continue
        if isinstance(whole, int):
            position = np.clip(position, 0, whole - size)
        axes, starts, ends = [*axes, int(axis)], [*starts, int(position)], [*ends, int(position) + size]
    sliced = _sliced(graph, value, output, starts, ends, axes, [1] * len(axes))
    collapsed = [int(axis) for axis in dimension_numbers.collapsed_slice_dims]
    name = graph.node("Squeeze", [sliced, collapsed]) if collapsed else graph.name_of(sliced)
    return Value(tuple(output.shape), value.dtype, name)


def _along_axis(
    graph: Graph, value: Value, indices: Value, output: Any, dimension_numbers: Any, slice_sizes: Any
) -> Value:
    """`take_along_axis`: one indexed axis, all others in step with the indices or taken whole."""
    batch = [int(axis) for axis in dimension_numbers.operand_batching_dims]
    indexed = [int(axis) for axis in dimension_numbers.start_index_map]
    if len(indexed) != 1 or list(dimension_numbers.start_indices_batching_dims) != batch:
        raise _unsupported("this way of indexing by computed positions")
    name = graph.node("Squeeze", [indices, [-1]])
    window = [axis for axis in range(len(value.shape)) if axis not in batch and axis not in indexed]
    whole = all(str(slice_sizes[axis]) == str(value.shape[axis]) for axis in window)
    if not whole or list(dimension_numbers.offset_dims) != window:
        raise _unsupported("gathering of parts of rows by computed positions")
    if window:
        name = graph.node("Unsqueeze", [name, window])
        target = [size if axis in window else 1 for axis, size in enumerate(value.shape)]
        name = graph.node("Expand", [name, graph.sizes(target)])
    name = graph.node("Cast", [name], to=TensorProto.INT64)
    return Value(tuple(output.shape), value.dtype, graph.node("GatherElements", [value, name], axis=indexed[0]))


def scatter(
    graph: Graph,
    inputs: Sequence[Value],
    outputs: Sequence[Any],
    dimension_numbers: Any,
    adds: bool = False,
    **_: Any,
) -> Value:
    """`lax.scatter` and `lax.scatter_add` of one window at constant positions."""
    value, indices, update = inputs[0], inputs[1], graph.expanded(inputs[2])
    if indices.array is None or indices.array.ndim != 1 or dimension_numbers.operand_batching_dims:
        raise _unsupported("writing to computed positions")
    inserted = [int(axis) for axis in dimension_numbers.inserted_window_dims]
    name = graph.node("Unsqueeze", [update, inserted]) if inserted else graph.name_of(update)
    rank = len(value.shape)
    lows, highs, mask = [0] * rank, [0] * rank, np.ones((1,) * rank, bool)
    window = [axis for axis in range(rank) if axis not in inserted]
    sizes = {axis: 1 for axis in inserted} | {axis: update.shape[number] for number, axis in enumerate(window)}
    for axis, position in zip(dimension_numbers.scatter_dims_to_operand_dims, indices.array, strict=True):
        whole, size = value.shape[axis], sizes[int(axis)]
        if not (isinstance(whole, int) and isinstance(size, int)) or not 0 <= position <= whole - size:
            raise _unsupported("writing beyond the end, or along a free size,")
        lows[axis], highs[axis] = int(position), int(whole - size - position)
        written = (np.arange(whole) >= position) & (np.arange(whole) < position + size)
        mask = mask & np.expand_dims(written, [other for other in range(rank) if other != axis])
    padded = graph.node("Pad", [name, [*lows, *highs]])
    whole_value = graph.expanded(value)
    if adds:
        result = graph.node("Add", [whole_value, padded])
    else:
        result = graph.node("Where", [graph.constant(mask), padded, whole_value])
    return Value(tuple(outputs[0].shape), value.dtype, result)
