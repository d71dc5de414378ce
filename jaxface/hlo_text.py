"""Parser of XLA's optimised HLO text, `jax.stages.Compiled.as_text()`."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")


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
    def bits(self) -> int:
        """Bits of an element."""
        return 8 if self.dtype == "pred" else int((re.search(r"\d+", self.dtype) or ["0"])[0])

    @property
    def bytes(self) -> float:
        """Size in memory in bytes, with the padding of its tiles."""
        sides = [self.dims[axis] for axis in self.order or range(len(self.dims))[::-1]]
        tile = self.tile[::-1]
        sides += [1] * (len(tile) - len(sides))
        padded = [-(-side // unit) * unit for side, unit in zip(sides, tile, strict=False)]
        return math.prod(padded + sides[len(tile) :]) * self.bits / 8


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
        return self.attribute(key).lstrip("%")

    def attribute(self, key: str) -> str:
        """Text of the attribute `key`, up to the next comma or space; "" if it is absent."""
        found = re.search(rf"\b{key}=([^,\s]+)", self.attributes)
        return found[1] if found else ""

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
