"""Parser of XLA's optimised HLO text (`jax.stages.Compiled.as_text()`), and trip counts of its loops."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
# Operations whose result is their first operand, for the value of a scalar.
_COPIES = ("bitcast", "convert", "copy", "copy-done", "reshape")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
        dtype: element type, "f32".
        dims: dimensions.
        order: dimensions from minor to major; () for the last one first.
        tile: trailing physical dimensions are padded to multiples of these, on TPUs; () for none.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Size in memory in bytes, with the padding of its tiles."""
        bits = 8 if self.dtype == "pred" else int((re.search(r"\d+", self.dtype) or ["0"])[0])
        sides = [self.dims[axis] for axis in self.order or range(len(self.dims))[::-1]]
        tile = self.tile[::-1]
        sides += [1] * (len(tile) - len(sides))
        padded = [-(-side // unit) * unit for side, unit in zip(sides, tile, strict=False)]
        return math.prod(padded + sides[len(tile) :]) * bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction; `text` is what stands between the parentheses, `attributes` what follows them."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    attributes: str

    @property
    def bytes(self) -> float:
        """Bytes of the result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, key: str) -> str:
        """Name of the computation in the attribute `key`."""
        return _attribute(self.attributes, key).lstrip("%")

    def numbers(self, key: str) -> tuple[int, ...]:
        """The integers of an attribute `key={1,2}`; () if it is absent."""
        found = re.search(rf"\b{key}={{([\d,]*)}}", self.attributes)
        return _integers(found[1]) if found else ()

    def number(self, key: str, default: int) -> int:
        """The integer of an attribute `key=1`."""
        found = re.search(rf"\b{key}=(\d+)", self.attributes)
        return int(found[1]) if found else default


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order, and the name of the root."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        found = (one for one in self.instructions.values() if one.opcode == "parameter")
        return {int(one.text): one for one in found}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that read each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program: its computations by name, and the name of the one that runs."""

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """The module of `text`. Raises ValueError if it has no entry computation."""
    computations, entry, lines = {}, "", []
    name = ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}") and name:
            computations[name] = _computation(name, lines)
        else:
            lines.append(line)
    if entry not in computations:
        raise ValueError("HLO text without an entry computation")
    return Module(computations, entry)


def trip_count(module: Module, loop: Instruction, caller: Computation) -> int | None:
    """How often the body of a `while` runs; None if that depends on data.

    XLA's own annotation is used where there is one. Otherwise the condition must compare a counter, to which the body
    adds a constant, with a bound; start, step and bound are constants, possibly carried through the loop.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition, body = (module.computations[loop.called(key)] for key in ("condition", "body"))
    test = condition.instructions[condition.root]
    if test.opcode == "fusion":
        inner = module.computations[test.called("calls")]
        test, arguments = inner.instructions[inner.root], test.operands
        where = [_value(module, inner, name, condition, arguments) for name in test.operands]
    else:
        where = [_value(module, condition, name) for name in test.operands]
    if test.opcode != "compare" or len(where) != 2:
        return None
    direction = _attribute(test.attributes, "direction")
    ends = [_loop_values(module, body, loop, caller, value) for value in where]
    return None if None in ends else _count(direction, *ends)


def _count(direction: str, first: tuple[int, int], second: tuple[int, int]) -> int | None:
    """Steps until (start, step) of two counters no longer compare as `direction` says."""
    (start, step), (bound, bound_step) = first, second
    difference, rate = bound - start, step - bound_step
    if direction in ("GT", "GE"):
        difference, rate = -difference, -rate
    if direction in ("LE", "GE"):
        difference += 1
    if direction == "EQ" or rate == 0:
        return None
    return max(0, math.ceil(difference / rate)) if rate * (1 if difference >= 0 else rate) > 0 else None


# A scalar in a loop: an integer, or element `index` of the loop's state plus `offset`.
@dataclasses.dataclass(frozen=True)
class _Carried:
    index: int
    offset: int


def _value(
    module: Module,
    computation: Computation,
    name: str,
    outer: Computation | None = None,
    arguments: tuple[str, ...] = (),
) -> int | _Carried | None:
    """Value of a scalar of a loop's condition or body, or of a fusion in `outer` with these arguments."""
    one = computation.instructions[name]
    if one.opcode == "constant":
        return int(one.text) if re.fullmatch(r"-?\d+", one.text) else None
    if one.opcode == "parameter" and outer is not None:
        return _value(module, outer, arguments[int(one.text)])
    if one.opcode in _COPIES:
        return _value(module, computation, one.operands[0], outer, arguments)
    if one.opcode == "get-tuple-element":
        source = computation.instructions[one.operands[0]]
        return _Carried(one.number("index", 0), 0) if source.opcode == "parameter" else None
    if one.opcode == "fusion" and outer is None:
        inner = module.computations[one.called("calls")]
        return _value(module, inner, inner.root, computation, one.operands)
    if one.opcode in ("add", "subtract"):
        left, right = (_value(module, computation, operand, outer, arguments) for operand in one.operands)
        if isinstance(left, int) and isinstance(right, _Carried) and one.opcode == "add":
            left, right = right, left
        if isinstance(left, _Carried) and isinstance(right, int):
            return _Carried(left.index, left.offset + (right if one.opcode == "add" else -right))
    return None


def _loop_values(
    module: Module, body: Computation, loop: Instruction, caller: Computation, value: int | _Carried | None
) -> tuple[int, int] | None:
    """(value before the first step, change per step) of a scalar of the condition; None if it is not such a counter."""
    if value is None or isinstance(value, int):
        return None if value is None else (value, 0)
    start = _initial(caller, loop, value.index)
    step = _step(module, body, loop, caller, value.index)
    return None if start is None or step is None else (start + value.offset, step)


def _step(module: Module, body: Computation, loop: Instruction, caller: Computation, index: int) -> int | None:
    """What the body adds to an element of the loop's state."""
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return None
    after = _value(module, body, root.operands[index])
    if isinstance(after, _Carried) and after.index == index:
        return after.offset
    # The step may be a constant that is itself carried through the loop.
    one = body.instructions[root.operands[index]]
    if one.opcode != "add":
        return None
    parts = [_value(module, body, operand) for operand in one.operands]
    others = [part for part in parts if isinstance(part, _Carried) and part.index != index and not part.offset]
    if len(others) != 1 or _Carried(index, 0) not in parts:
        return None
    unchanged = _value(module, body, root.operands[others[0].index]) == others[0]
    return _initial(caller, loop, others[0].index) if unchanged else None


def _initial(caller: Computation, loop: Instruction, index: int) -> int | None:
    """The constant with which an element of the loop's state starts."""
    state = caller.instructions[loop.operands[0]]
    if state.opcode != "tuple":
        return None
    one = caller.instructions[state.operands[index]]
    while one.opcode in _COPIES:
        one = caller.instructions[one.operands[0]]
    return int(one.text) if one.opcode == "constant" and re.fullmatch(r"-?\d+", one.text) else None


def _attribute(attributes: str, key: str) -> str:
    found = re.search(rf"\b{key}=([^,\s]+)", attributes)
    return found[1] if found else ""


def _computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, ""
    for line in lines:
        head = _INSTRUCTION.match(line)
        if head:
            one = _instruction(head[2], line[head.end() :], instructions)
            instructions[one.name] = one
            root = one.name if head[1] or not root else root
    return Computation(name, instructions, root)


def _instruction(name: str, text: str, earlier: Mapping[str, Instruction]) -> Instruction:
    """The instruction of `SHAPE opcode(OPERANDS), ATTRIBUTES`."""
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = opening + _closing(rest[opening:])
    inside = rest[opening + 1 : closing]
    names = _NAME.findall(inside) or re.findall(r"[\w.\-]+", inside)
    arrays = tuple(
        Array(dtype, *(_integers(numbers) for numbers in (dims.replace("<=", ""), order, tile)))
        for dtype, dims, order, tile in _ARRAY.findall(shape)
        if dtype not in ("token", "opaque")
    )
    operands = tuple(operand for operand in names if operand in earlier)
    return Instruction(name, rest[:opening], arrays, operands, inside, rest[closing + 1 :])


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the one at the start of `text`."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"HLO text with unbalanced parentheses: {text[:80]}")
