"""Maps the entries of PyTorch checkpoints to our parameters, one to one; `torch_files` reads the files."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from jaxface.errors import UserError
from jaxface.torch_files import Tensors, read

__all__ = ["Tensors", "Transform", "convolution", "linear", "read", "rename", "unwrap", "vector"]

Transform = Callable[[np.ndarray], np.ndarray]

# Prefixes that wrappers put before every name: DataParallel, torch.compile, Lightning.
WRAPPERS = ("module.", "_orig_mod.", "model.")


def unwrap(tensors: Tensors, *nests: str) -> Tensors:
    """The entries inside the first of `nests` that the checkpoint has ("model" of {"model": …}).

    Without any of them, all entries. Prefixes of wrappers before every name (DataParallel's "module.", torch.compile's
    "_orig_mod.", Lightning's "model.") are removed.
    """
    for nest in nests:
        inside = {
            name.removeprefix(f"{nest}."): value for name, value in tensors.items() if name.startswith(f"{nest}.")
        }
        if inside:
            tensors = inside
            break
    while tensors and (prefix := next((w for w in WRAPPERS if all(n.startswith(w) for n in tensors)), None)):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def convolution(weight: np.ndarray) -> np.ndarray:
    """A convolution kernel from OIHW to HWIO; a depthwise (C,1,K,K) becomes (K,K,1,C)."""
    return weight.transpose(2, 3, 1, 0)


def linear(weight: np.ndarray) -> np.ndarray:
    """The matrix (in,out) of a linear layer (out,in) or of a 1x1 convolution (out,in,1,1)."""
    return weight.reshape(weight.shape[:2]).T


def vector(weight: np.ndarray) -> np.ndarray:
    """One number per channel (C,), without surrounding axes of size 1."""
    return weight.reshape(weight.size)


def rename(tensors: Tensors, sources: Mapping[str, tuple[str, Transform]], expected: Any) -> Any:
    """A tree like `expected` filled from a checkpoint.

    Args:
        tensors: entries of the checkpoint by name.
        sources: for each of our paths ("encoder/stem/kernel") the checkpoint's name and the transform of its array.
            Several paths may take parts of one entry.
        expected: the tree of parameters; its leaves give shapes and dtypes.

    Raises:
        UserError: entries are missing, left over, of another shape or not finite; the message names all of them.
        KeyError: the paths of `sources` are not those of `expected`.
    """
    leaves = flax.traverse_util.flatten_dict(expected, sep="/")
    if sources.keys() != leaves.keys():
        raise KeyError(f"name map and parameters differ in {sorted(sources.keys() ^ leaves.keys())}")
    filled, shapes = {}, {}
    for path, (name, transform) in sources.items():
        if name in tensors:
            filled[path] = _fitted(tensors[name], transform, leaves[path])
            if filled[path] is None:
                shapes[name] = f"{name} {tensors[name].shape} for {path} {leaves[path].shape}"
    names = [name for name, _ in sources.values()]
    problems = {
        "missing": sorted(set(names) - tensors.keys()),
        "left over": sorted(tensors.keys() - set(names)),
        "of another shape": sorted(shapes.values()),
    }
    if any(problems.values()):
        lines = [f"{len(found)} {problem}: {', '.join(found)}" for problem, found in problems.items() if found]
        raise UserError(f"the checkpoint does not fit the configured model; entries {'; '.join(lines)}")
    damaged = sorted(sources[path][0] for path, value in filled.items() if not np.isfinite(value).all())
    if damaged:
        raise UserError(f"the checkpoint has values that are NaN or infinite in {', '.join(damaged)}; use another one")
    return flax.traverse_util.unflatten_dict(filled, sep="/")


def _fitted(array: np.ndarray, transform: Transform, leaf: Any) -> np.ndarray | None:
    """The transformed array in the leaf's dtype, or None if its shape is not the leaf's."""
    try:
        fitted = transform(array)
    except ValueError:  # an array with another number of axes
        return None
    return np.ascontiguousarray(fitted, leaf.dtype) if fitted.shape == leaf.shape else None
