"""Depth test of candidate hits, and selection of triangles, in a form for CPUs and GPUs and a form for TPUs.

TPUs run scatters and gathers of single numbers one after the other and pad each of their indices to 128 numbers: there
both are replaced by sorts. Both forms give the same result to the bit. P pixels, T triangles.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Triangle id of an empty pixel.
NO_TRIANGLE = jnp.iinfo(jnp.int32).max

Tree = Any


class Candidates(NamedTuple):
    """Candidate hits, flat: pixel (row * width + column, or height * width for a miss), nearness, triangle id.

    Nearness is the bit pattern of the positive float 1 / Z, which has the same order; integers compare faster.
    """

    pixel: jax.Array
    nearness: jax.Array
    triangle: jax.Array


class Image(NamedTuple):
    """Nearness (P,), 0 for background, and nearest triangle (P,), NO_TRIANGLE for background, of each pixel."""

    nearness: jax.Array
    triangle: jax.Array


class Form(NamedTuple):
    """The operations of the visibility pass that differ between platforms.

    Attributes:
        nearest: `(candidates, P) -> image`, the nearest candidate of each pixel, the smallest id among equals.
        parts: `(values, member, step, count) -> part`, where `values` is a tree of arrays (T,) and `part(index)` the
            values of members number `index * step` to `(index + 1) * step` of the mask `member` (T,), in their order.
            `count` is the largest number of members that is asked for; what lies beyond the members is arbitrary.
    """

    nearest: Callable[[Candidates, int], Image]
    parts: Callable[[Tree, jax.Array, int, int], Callable[[jax.Array], Tree]]


def empty(pixels: int) -> Image:
    """An image of background."""
    return Image(jnp.zeros(pixels, jnp.int32), jnp.full(pixels, NO_TRIANGLE))


def merge(one: Image, other: Image) -> Image:
    """Depth test of two images, pixel by pixel; the smallest id wins among equals."""
    nearer = other.nearness > one.nearness
    nearer |= (other.nearness == one.nearness) & (other.triangle < one.triangle)
    return jax.tree.map(functools.partial(jnp.where, nearer), other, one)


def _nearest_by_scatter(candidates: Candidates, pixels: int) -> Image:
    """`Form.nearest` by two scatters."""
    pixel, nearness, triangle = candidates
    nearest = jnp.zeros(pixels, jnp.int32).at[pixel].max(nearness, mode="drop")
    wins = nearest.at[pixel].get(mode="fill", fill_value=-1) == nearness
    winner = jnp.full(pixels, NO_TRIANGLE).at[jnp.where(wins, pixel, pixels)].min(triangle, mode="drop")
    return Image(nearest, winner)


def _parts_by_gather(values: Tree, member: jax.Array, step: int, count: int) -> Callable[[jax.Array], Tree]:
    """`Form.parts` by the indices of the members."""
    chosen = jnp.nonzero(member, size=-(-count // step) * step, fill_value=0)[0]

    def part(index: jax.Array) -> Tree:
        rows = lax.dynamic_slice(chosen, (index * step,), (step,))
        return jax.tree.map(operator.itemgetter(rows), values)

    return part


def _nearest_by_sort(candidates: Candidates, pixels: int) -> Image:
    """`Form.nearest` by two sorts.

    With one candidate of the background for each pixel, the first of every pixel are those P in order; the second sort
    brings them together.
    """
    background = Candidates(jnp.arange(pixels, dtype=jnp.int32), *empty(pixels))
    pixel, nearness, triangle = (jnp.concatenate(pair) for pair in zip(candidates, background, strict=True))
    pixel, farness, triangle = lax.sort((pixel, -nearness, triangle), num_keys=3)
    first = jnp.concatenate([jnp.ones(1, bool), pixel[1:] != pixel[:-1]])
    _, farness, triangle = lax.sort((jnp.where(first, pixel, pixels), farness, triangle), num_keys=1)
    return Image(-farness[:pixels], triangle[:pixels])


def _parts_by_sort(values: Tree, member: jax.Array, step: int, count: int) -> Callable[[jax.Array], Tree]:
    """`Form.parts` by moving the members to the front."""
    leaves, structure = jax.tree.flatten(values)
    length = -(-count // step) * step
    _, *ordered = lax.sort((jnp.where(member, 0, 1), *leaves), num_keys=1, is_stable=True)
    ordered = [jnp.pad(leaf, (0, max(length - len(leaf), 0))) for leaf in ordered]

    def part(index: jax.Array) -> Tree:
        slices = [lax.dynamic_slice(leaf, (index * step,), (step,)) for leaf in ordered]
        return jax.tree.unflatten(structure, slices)

    return part


FORMS = {"scatter": Form(_nearest_by_scatter, _parts_by_gather), "sort": Form(_nearest_by_sort, _parts_by_sort)}
