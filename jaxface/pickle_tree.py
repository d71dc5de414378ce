"""Reads pickles without executing them: the opcodes of a file become a tree of inert nodes, and nothing is called.

Python's unpickler calls what a file names, and its C implementation allocates what a file claims. Here a pickle is
interpreted by a small stack machine whose objects are plain containers, `Global`, `Call` and `Reference`. Memory is
bounded by the size of the file, and nesting costs no recursion. `pickle_arrays` rebuilds numpy arrays from the nodes.
"""

import codecs
import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

# Names of builtins and of the standard library that saved data uses; they become inert nodes.
CONTAINERS = frozenset(
    "object set frozenset bytes bytearray list dict tuple str unicode int long float complex bool slice range".split()
)
STANDARD = {
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
}
NUMPY_NAMES = {"dtype", "ndarray", "matrix", "_reconstruct", "scalar", "_frombuffer"}


class Refused(Exception):
    """A pickle names `name`, "module.function", which data of its kind does not need."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function that the file names; it is never looked up."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """An object that the file would make by calling `function`.

    Attributes:
        function: usually a `Global`.
        arguments: of the call.
        state: what the file would pass to `__setstate__`.
        items: entries set on the object by scalar key.
        elements: elements appended or added to the object.
    """

    function: Any
    arguments: tuple
    state: Any = None
    items: dict = dataclasses.field(default_factory=dict)
    elements: list = dataclasses.field(default_factory=list)

    @property
    def kind(self) -> Global:
        """The class of the object."""
        function = self.function
        if isinstance(function, Global) and function.name == "_reconstructor" and self.arguments:
            function = self.arguments[0]
        return function if isinstance(function, Global) else Global("", "")


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A persistent reference, such as one to a storage of a PyTorch file."""

    key: Any


def is_standard(module: str, name: str) -> bool:
    """Whether a name belongs to plain containers of the standard library or to numpy's arrays."""
    if module in ("builtins", "__builtin__"):
        return name in CONTAINERS
    if module.split(".")[0] == "numpy":
        return name in NUMPY_NAMES
    return name in STANDARD.get(module, ())


def load(file: BinaryIO, allowed: Callable[[str, str], bool] = is_standard) -> Any:
    """The tree of the next pickle of a file in memory, which is left behind the pickle.

    Dictionaries keep the entries whose keys are text, numbers or None. Byte strings of Python 2 become text (Latin-1).

    Args:
        file: an `io.BytesIO`.
        allowed: whether a name (module, name) may occur.

    Raises:
        Refused: the file has a name that is not allowed.
        ValueError, LookupError, TypeError: the pickle is damaged.
    """
    return _Machine(file, allowed).run()


class _Machine:
    """Stack machine of the pickle opcodes."""

    def __init__(self, file: BinaryIO, allowed: Callable[[str, str], bool]):
        self._file, self._allowed = file, allowed
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self._file.read(1)
            if not code:
                raise ValueError("the pickle is truncated")
            opcode = pickletools.code2op.get(code.decode("latin1"))
            if opcode is None:
                raise ValueError(f"not a pickle, opcode {code!r}")
            if opcode.name == "STOP":
                return self._stack.pop()
            argument = None
            if opcode.arg is not None:
                argument = _text(self._file) if opcode.name == "STRING" else opcode.arg.reader(self._file)
            self._step(opcode.name, argument)

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[int(argument)])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_do_{name.lower()}", None)
            if action is None:
                raise ValueError(f"the pickle uses the unsupported opcode {name}")
            action() if argument is None else action(argument)

    def _until_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _global(self, module: str, name: str) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name in the pickle is not text")
        if not self._allowed(module, name):
            raise Refused(f"{module}.{name}")
        return Global(module, name)

    def _call(self, function: Any, arguments: Any) -> None:
        self._stack.append(Call(function, arguments if isinstance(arguments, tuple) else ()))

    def _do_mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _do_pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._until_mark()

    def _do_pop_mark(self) -> None:
        self._until_mark()

    def _do_dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _do_empty_list(self) -> None:
        self._stack.append([])

    def _do_empty_dict(self) -> None:
        self._stack.append({})

    def _do_empty_set(self) -> None:
        self._stack.append(Call(Global("builtins", "set"), ()))

    def _do_list(self) -> None:
        values = self._until_mark()
        self._stack.append(values)

    def _do_tuple(self) -> None:
        values = tuple(self._until_mark())
        self._stack.append(values)

    def _do_frozenset(self) -> None:
        values = self._until_mark()
        self._stack.append(Call(Global("builtins", "frozenset"), (), elements=values))

    def _do_tuple1(self) -> None:
        self._tuple(1)

    def _do_tuple2(self) -> None:
        self._tuple(2)

    def _do_tuple3(self) -> None:
        self._tuple(3)

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("the stack is too short")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _do_dict(self) -> None:
        values = self._until_mark()
        self._stack.append({})
        self._set_items(values)

    def _do_setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _do_setitems(self) -> None:
        self._set_items(self._until_mark())

    def _set_items(self, values: list[Any]) -> None:
        owner = self._stack[-1]
        items = owner.items if isinstance(owner, Call) else owner
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing a nested key would recurse.
            if key is None or isinstance(key, str | bytes | int | float):
                items[key] = value

    def _do_append(self) -> None:
        value = self._stack.pop()
        self._append([value])

    def _do_appends(self) -> None:
        self._append(self._until_mark())

    def _do_additems(self) -> None:
        self._append(self._until_mark())

    def _append(self, values: list[Any]) -> None:
        owner = self._stack[-1]
        (owner.elements if isinstance(owner, Call) else owner).extend(values)

    def _do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._global(module, name))

    def _do_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._global(module, name))

    def _do_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        arguments = tuple(self._until_mark())
        self._call(self._global(module, name), arguments)

    def _do_obj(self) -> None:
        function, *arguments = self._until_mark()
        self._call(function, tuple(arguments))

    def _do_reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self) -> None:
        self._stack.pop()
        self._do_reduce()

    def _do_build(self) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Call):
            self._stack[-1].state = state

    def _do_persid(self, argument: str) -> None:
        self._stack.append(Reference(argument))

    def _do_binpersid(self) -> None:
        self._stack.append(Reference(self._stack.pop()))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)


def _text(file: BinaryIO) -> str:
    """The argument of STRING, a quoted and escaped byte string, as Latin-1; `pickletools` accepts ASCII only."""
    line = file.readline()
    if not line.endswith(b"\n") or len(line) < 3 or line[:1] not in (b"'", b'"'):
        raise ValueError("a string of the pickle is damaged")
    return codecs.escape_decode(line.strip()[1:-1])[0].decode("latin1")


def loads(data: bytes, allowed: Callable[[str, str], bool] = is_standard) -> Any:
    """`load` of bytes."""
    return load(io.BytesIO(data), allowed)
