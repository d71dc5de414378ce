"""Dictionaries and numpy arrays of the inert nodes of `pickle_tree`, from checked shape, dtype and bytes."""

import math
import re
from typing import Any

import numpy as np

from jaxface.pickle_tree import Call, Global

MAPPINGS = {"OrderedDict", "defaultdict", "Counter", "dict"}
DTYPE = re.compile(r"\|?([biuf]\d{1,2}|b|\?)")


def mapping(node: Any) -> dict | None:
    """The entries of a dictionary, or of one of its standard variants; None for other nodes."""
    if isinstance(node, Call) and node.kind.name in MAPPINGS:
        return node.items
    return node if isinstance(node, dict) else None


def array(node: Any) -> np.ndarray | None:
    """The numeric array of a node: a numpy array or scalar, or a flat list of numbers; None for other nodes.

    Raises ValueError if an array does not fit its bytes.
    """
    if isinstance(node, list | tuple):
        numbers = node and all(isinstance(value, int | float) for value in node)
        found = np.array(node) if numbers else None
        return found if found is not None and found.dtype.kind in "biuf" else None
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return None
    if not node.function.module.startswith("numpy"):
        return None
    if node.function.name == "_reconstruct" and isinstance(node.state, tuple) and len(node.state) == 5:
        _, shape, dtype, fortran, data = node.state
        return _array(data, dtype, shape, bool(fortran))
    if node.function.name == "_frombuffer" and len(node.arguments) == 4:
        data, dtype, shape, order = node.arguments
        return _array(data, dtype, shape, order == "F")
    if node.function.name == "scalar" and len(node.arguments) == 2:
        dtype, data = node.arguments
        return _array(data, dtype, (), False)
    return None


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray | None:
    kind, content = _dtype(dtype), _bytes(data)
    if kind is None or content is None:
        return None
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array has the shape {str(shape)[:40]}")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array {shape} of {kind} has {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _dtype(node: Any) -> np.dtype | None:
    """A number type; None for objects, text and records."""
    if not isinstance(node, Call) or node.kind.name != "dtype" or not node.arguments:
        return None
    code, state = node.arguments[0], node.state
    if isinstance(code, bytes):
        code = code.decode("latin1")
    if not isinstance(code, str) or not DTYPE.fullmatch(code):
        return None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    order = order.decode("latin1") if isinstance(order, bytes) else order
    return np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")


def _bytes(node: Any) -> bytes | None:
    """Bytes, also as text (Python 2) or as a call of `_codecs.encode` or `bytes`."""
    if isinstance(node, Call) and node.kind.name in ("encode", "bytes", "bytearray"):
        node = node.arguments[0] if node.arguments else b""
    if isinstance(node, str):
        return node.encode("latin1")
    return node if isinstance(node, bytes) else None
