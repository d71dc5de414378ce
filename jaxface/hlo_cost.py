"""What a compiled program costs, from its HLO: FLOPs, bytes, matrix products and collectives of one run.

Counted as by XLA's HloCostAnalysis, except that bodies of loops count times their trip count (XLA counts them once) and
custom calls by their operands and results (XLA counts nothing). Bytes are operands and results of every operation that
is not fused into another, with the padding of their tiles, also of those that stay in on-chip memory: an upper bound of
the traffic. The moves between HBM and on-chip memory that the compiler adds are not counted again.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from jaxface.hlo_loops import Frame, trip_count
from jaxface.hlo_text import Computation, Instruction, Module

# One operation per element of the result.
_ELEMENTWISE = frozenset(
    "abs add and ceil clamp compare complex convert count-leading-zeros divide floor imag is-finite map maximum "
    "minimum multiply negate not or popcnt real reduce-precision remainder round-nearest-afz round-nearest-even select "
    "shift-left shift-right-arithmetic shift-right-logical sign subtract xor".split()
)
# Neither read nor write memory of their own.
_FREE = frozenset(
    "add-dependency after-all async-update bitcast call conditional constant domain get-tuple-element opt-barrier "
    "parameter partition-id replica-id tuple while".split()
)
_NO_WORK_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding", "SPMDFullToShardShape")
_PRODUCTS = ("convolution", "dot")
_SLICES = ("dynamic-slice", "gather", "slice")
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}  # operation -> operand that is written into the first one


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a computation.

    Attributes:
        flops: floating-point operations; a multiply-add counts two, transcendental functions none.
        bytes: bytes read and written.
        products: FLOPs of convolutions and matrix products by the types of their operands, "bf16" or "f32*bf16".
        all_reduces, all_reduce_bytes: number of all-reduces, and bytes that they reduce, without padding.
        unknown_loops: loops whose trip count depends on data; their bodies are counted once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    products: Mapping[str, float] = dataclasses.field(default_factory=dict)
    all_reduces: int = 0
    all_reduce_bytes: float = 0.0
    unknown_loops: int = 0

    def plus(self, other: "Cost", times: int = 1) -> "Cost":
        """This cost and `times` the other; a loop that is repeated is still one unknown loop."""
        names = self.products.keys() | other.products.keys()
        return Cost(
            self.flops + times * other.flops,
            self.bytes + times * other.bytes,
            {name: self.products.get(name, 0.0) + times * other.products.get(name, 0.0) for name in names},
            self.all_reduces + times * other.all_reduces,
            self.all_reduce_bytes + times * other.all_reduce_bytes,
            self.unknown_loops + other.unknown_loops,
        )


def cost(module: Module) -> Cost:
    """Cost of one run of the module."""
    return _Accountant(module).frame(Frame(module.computations[module.entry]))


class _Accountant:
    """Costs of the computations of a module."""

    def __init__(self, module: Module):
        self._module = module

    def frame(self, frame: Frame, fused: bool = False) -> Cost:
        """Cost of a computation; one that is `fused` has no memory traffic of its own."""
        total = Cost()
        for instruction in frame.computation.instructions.values():
            total = total.plus(self._instruction(frame, instruction, fused))
        return total

    @functools.cache  # noqa: B019 - lives as long as one call of `cost`
    def _fused(self, name: str) -> Cost:
        return self.frame(Frame(self._module.computations[name]), True)

    def _instruction(self, frame: Frame, one: Instruction, fused: bool) -> Cost:
        computation = frame.computation
        flops = self._flops(computation, one)
        total = self._inner(frame, one, fused).plus(Cost(flops=flops))
        if one.opcode in _PRODUCTS:
            types = dict.fromkeys(self._operand(computation, one, number).arrays[0].dtype for number in (0, 1))
            total = total.plus(Cost(products={"*".join(sorted(types)): flops}))
        if one.opcode in ("all-reduce", "all-reduce-start"):
            arrays = [array for name in one.operands for array in computation.instructions[name].arrays]
            size = sum(array.size * array.bits / 8 for array in arrays)
            total = total.plus(Cost(all_reduces=1, all_reduce_bytes=size))
        return total if fused else total.plus(Cost(bytes=self._bytes(computation, one)))

    def _inner(self, frame: Frame, one: Instruction, fused: bool) -> Cost:
        """Cost of the computations that an instruction runs."""
        if one.opcode == "while":
            trips = trip_count(self._module, one, frame)
            body, condition = (self._called(one.called(key), frame, one) for key in ("body", "condition"))
            return Cost(unknown_loops=int(trips is None)).plus(body.plus(condition), 1 if trips is None else trips)
        if one.opcode == "conditional":
            branches = [self._called(name, frame) for name in _branches(one)]
            return max(branches, key=lambda branch: (branch.bytes, branch.flops), default=Cost())
        if one.opcode == "fusion":
            return self._fused(one.called("calls"))
        key = {"call": "to_apply", "async-start": "calls"}.get(one.opcode)
        if key is None:
            return Cost()
        return self._fused(one.called(key)) if fused else self._called(one.called(key), frame)

    def _called(self, name: str, frame: Frame, loop: Instruction | None = None) -> Cost:
        return self.frame(Frame(self._module.computations[name], loop, frame))

    def _operand(self, computation: Computation, one: Instruction, number: int) -> Instruction:
        return computation.instructions[one.operands[number]]

    def _flops(self, computation: Computation, one: Instruction) -> float:
        """Operations of one instruction without those of the computations that it runs."""
        size = sum(array.size for array in one.arrays[:1])
        if one.opcode in _ELEMENTWISE:
            return size
        if one.opcode == "dot":
            dims = self._operand(computation, one, 0).arrays[0].dims
            return 2.0 * size * math.prod(dims[axis] for axis in one.numbers("lhs_contracting_dims"))
        if one.opcode == "convolution":
            return _convolution_flops(one, *(self._operand(computation, one, k).arrays[0].dims for k in (0, 1)))
        if one.opcode in ("reduce", "all-reduce", "reduce-scatter", "reduce-window"):
            work = self._fused(one.called("to_apply")).flops
            if one.opcode == "reduce-window":
                return work * size * max(math.prod(_window(one, "size")) - 1, 0)
            inputs = sum(computation.instructions[name].arrays[0].size for name in one.operands[: len(one.arrays)])
            return work * (inputs / len(one.arrays) - (size if one.opcode == "reduce" else 0))
        if one.opcode == "scatter":
            updates = self._operand(computation, one, len(one.operands) - 1).arrays[0].size
            return updates * self._fused(one.called("to_apply")).flops
        return 0.0

    def _bytes(self, computation: Computation, one: Instruction) -> float:
        """Bytes that an instruction of a computation that is not fused reads and writes."""
        if (
            one.opcode in _FREE
            or one.opcode.endswith("-done")
            or (one.opcode == "custom-call" and any(f'"{n}"' in one.attributes for n in _NO_WORK_CALLS))
        ):
            return 0.0
        operands = [computation.instructions[name].bytes for name in one.operands]
        if one.opcode == "fusion":
            return self._fusion_bytes(one, operands)
        if one.opcode.endswith("-start"):
            return _start_bytes(one, sum(operands))
        if one.opcode in _SLICES:
            return 2 * one.bytes + (sum(operands[1:]) if one.opcode != "slice" else 0.0)
        if one.opcode == "dynamic-update-slice":
            return 2 * operands[1]
        if one.opcode == "scatter":
            count = (len(operands) - 1) // 2
            return operands[count] + 3 * sum(operands[count + 1 :])
        return sum(operands) + one.bytes

    def _fusion_bytes(self, one: Instruction, operands: list[float]) -> float:
        """Operands and results of a fusion; of an operand that is only sliced, and a result in place, the part."""
        inner = self._module.computations[one.called("calls")]
        read = sum(min(size, self._read(inner, number)) for number, size in enumerate(operands))
        root = inner.instructions[inner.root]
        results = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
        return read + sum(_written(inner, result) for result in results)

    def _read(self, computation: Computation, number: int) -> float:
        """Bytes that a fused computation reads of its parameter `number`."""
        parameter = computation.parameters.get(number)
        return math.inf if parameter is None else self._read_of(computation, parameter)

    def _read_of(self, computation: Computation, value: Instruction) -> float:
        total = math.inf if value.name == computation.root else 0.0
        for user in computation.users[value.name]:
            is_first = user.operands[0] == value.name and value.name not in user.operands[1:]
            if user.opcode in _SLICES and is_first:
                total += user.bytes
            elif user.opcode in _IN_PLACE and is_first:
                continue
            elif user.opcode == "bitcast":
                total += self._read_of(computation, user)
            elif user.opcode == "fusion":
                inner = self._module.computations[user.called("calls")]
                places = [place for place, name in enumerate(user.operands) if name == value.name]
                total += sum(self._read(inner, place) for place in places)
            else:
                return math.inf
        return total


def _written(computation: Computation, result: Instruction) -> float:
    """Bytes that a fusion writes for one result."""
    while result.opcode == "bitcast":
        result = computation.instructions[result.operands[0]]
    if result.opcode in _IN_PLACE:
        return computation.instructions[result.operands[_IN_PLACE[result.opcode]]].bytes
    return result.bytes


def _start_bytes(one: Instruction, operands: float) -> float:
    """Bytes of an asynchronous operation, whose result may also hold its operands.

    Copies and slices are moves between HBM and on-chip memory for an operation that counts the same bytes itself; what
    an "async-start" calls is counted there.
    """
    if one.opcode.removesuffix("-start") in ("async", "copy", *_SLICES):
        return 0.0
    return operands + (max(one.bytes - operands, 0.0) or one.bytes)


def _branches(one: Instruction) -> list[str]:
    """Names of the computations of a conditional."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return [one.called(key) for key in ("true_computation", "false_computation")]


def _window(one: Instruction, key: str) -> list[int]:
    """A list of a window attribute, `size=3x3`; [] if it is absent."""
    window = re.search(r"window=\{([^}]*)\}", one.attributes)
    found = re.search(rf"\b{key}=([\dx]+)", window[1]) if window else None
    return [int(number) for number in found[1].split("x")] if found else []


def _convolution_flops(one: Instruction, image: tuple[int, ...], kernel: tuple[int, ...]) -> float:
    """Two operations for every pair of an input and a kernel value, without those that meet padding or dilation."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    image_labels, kernel_labels, output_labels = labels.groups()
    output = one.arrays[0].dims
    axes = sorted(label for label in kernel_labels if label.isdigit())
    ones = [1] * len(axes)
    stride, in_dilation, kernel_dilation = (_window(one, key) or ones for key in ("stride", "lhs_dilate", "rhs_dilate"))
    window = re.search(r"\bpad=([\d_x\-]+)", one.attributes)
    pads = [int(pair.split("_")[0]) for pair in window[1].split("x")] if window else [0] * len(axes)
    pairs = 1
    for axis, label in enumerate(axes):
        outputs = np.arange(output[output_labels.index(label)]) * stride[axis] - pads[axis]
        taps = np.arange(kernel[kernel_labels.index(label)]) * kernel_dilation[axis]
        last = (image[image_labels.index(label)] - 1) * in_dilation[axis]
        pairs *= _valid_pairs(outputs, taps, last, in_dilation[axis])
    batch = image[image_labels.index("b")] // one.number("batch_group_count", 1)
    return 2.0 * pairs * batch * kernel[kernel_labels.index("i")] * output[output_labels.index("f")]


def _valid_pairs(outputs: np.ndarray, taps: np.ndarray, last: int, dilation: int) -> int:
    """Number of pairs whose sum is in [0, last] and a multiple of `dilation`."""
    places = outputs[:, None] + taps
    return int(((places >= 0) & (places <= last) & (places % dilation == 0)).sum())
