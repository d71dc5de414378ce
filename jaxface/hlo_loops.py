"""Trip counts of loops in HLO: a counter that is compared with a bound, both known when the program is compiled."""

import dataclasses
import math
import re

from jaxface.hlo_text import Computation, Instruction, Module

# Operations whose result is their first operand, for the value of a scalar.
_COPIES = ("bitcast", "convert", "copy", "copy-done", "copy-start", "reshape")


@dataclasses.dataclass(frozen=True)
class Frame:
    """A computation that is run: by the program (`loop` None), or as the body of a loop in the frame `outer`."""

    computation: Computation
    loop: Instruction | None = None
    outer: "Frame | None" = None


@dataclasses.dataclass(frozen=True)
class _Carried:
    """Element `index` of the state of a loop, plus `offset`."""

    index: int
    offset: int = 0


def trip_count(module: Module, loop: Instruction, frame: Frame) -> int | None:
    """How often the body of the `while` instruction `loop` of `frame` runs; None if that depends on data.

    XLA's own annotation is used where there is one. Otherwise the condition must compare a counter, to which the body
    adds a constant, with a bound. Start, step and bound are constants, possibly carried through this or outer loops.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")]
    body = Frame(module.computations[loop.called("body")], loop, frame)
    test = condition.instructions[condition.root]
    if test.opcode == "fusion":
        inner = module.computations[test.called("calls")]
        compared = inner.instructions[inner.root]
        sides = [_value(module, inner, name, condition, test.operands) for name in compared.operands]
    else:
        compared = test
        sides = [_value(module, condition, name) for name in compared.operands]
    if compared.opcode != "compare" or len(sides) != 2:
        return None
    ends = [_start_and_step(module, body, side) for side in sides]
    return None if None in ends else _steps(compared.attribute("direction"), *ends)


def _steps(direction: str, first: tuple[int, int], second: tuple[int, int]) -> int | None:
    """Steps for which two counters, each (start, step), compare as `direction` says."""
    (start, step), (bound, bound_step) = first, second
    distance, rate = bound - start, step - bound_step
    if direction in ("GT", "GE") or (direction == "NE" and rate < 0):
        distance, rate = -distance, -rate
    if direction in ("LE", "GE"):
        distance += 1
    if direction == "EQ" or rate <= 0:
        return None
    return max(0, math.ceil(distance / rate))


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
        return _Carried(one.number("index", 0)) if source.opcode == "parameter" else None
    if one.opcode == "fusion" and outer is None:
        inner = module.computations[one.called("calls")]
        return _value(module, inner, inner.root, computation, one.operands)
    if one.opcode in ("add", "subtract"):
        left, right = (_value(module, computation, operand, outer, arguments) for operand in one.operands)
        if one.opcode == "add" and isinstance(left, int):
            left, right = right, left
        if isinstance(left, _Carried) and isinstance(right, int):
            return _Carried(left.index, left.offset + (right if one.opcode == "add" else -right))
    return None


def _start_and_step(module: Module, body: Frame, value: int | _Carried | None) -> tuple[int, int] | None:
    """(value before the first trip, change per trip) of one side of a condition; None if it is not such a counter."""
    if value is None or isinstance(value, int):
        return None if value is None else (value, 0)
    start, step = _initial(module, body, value.index), _step(module, body, value.index)
    return None if start is None or step is None else (start + value.offset, step)


def _step(module: Module, body: Frame, index: int) -> int | None:
    """What the body adds to an element of the loop's state."""
    after = _result(module, body, index)
    if isinstance(after, _Carried) and after.index == index:
        return after.offset
    root = body.computation.instructions[body.computation.root]
    one = body.computation.instructions[root.operands[index]] if root.opcode == "tuple" else root
    if one.opcode != "add":
        return None
    # The step may be a constant that is itself carried through the loop.
    parts = [_value(module, body.computation, operand) for operand in one.operands]
    steps = [part for part in parts if isinstance(part, _Carried) and part != _Carried(index)]
    if len(steps) != 1 or _Carried(index) not in parts or _result(module, body, steps[0].index) != steps[0]:
        return None
    return _initial(module, body, steps[0].index)


def _result(module: Module, body: Frame, index: int) -> int | _Carried | None:
    """Value of an element of the loop's state after a trip, from the values before it."""
    root = body.computation.instructions[body.computation.root]
    return _value(module, body.computation, root.operands[index]) if root.opcode == "tuple" else None


def _initial(module: Module, body: Frame, index: int) -> int | None:
    """The constant with which an element of the loop's state starts."""
    frame = body.outer
    if body.loop is None or frame is None:
        return None
    instructions = frame.computation.instructions
    state = instructions[body.loop.operands[0]]
    if state.opcode != "tuple":
        return None
    value = _value(module, frame.computation, state.operands[index])
    if isinstance(value, _Carried) and _result(module, frame, value.index) == _Carried(value.index):
        start = _initial(module, frame, value.index)
        return None if start is None else start + value.offset
    return value if isinstance(value, int) else None
