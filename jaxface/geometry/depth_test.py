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
        nearest: `(candidates, image) -> image`, the nearest candidate of each pixel of an image of that size, the
            smallest id among equals.
        select: `(values, member, rows) -> selection` of the first `len(rows)` members of the mask `member` (T,), in
            their order; `values` is a tree of arrays (T,), `rows` int32 of any content.
        part: `(selection, start, span) -> values` of the members from number `start`, `len(span)` of them; what lies
            beyond the members is arbitrary.
    """

    nearest: Callable[[Candidates, Image], Image]
    select: Callable[[Tree, jax.Array, jax.Array], Tree]
    part: Callable[[Tree, jax.Array, jax.Array], Tree]


def empty(pixels: int) -> Image:
    """An image of background."""
    return Image(jnp.zeros(pixels, jnp.int32), jnp.full(pixels, NO_TRIANGLE))


def merge(one: Image, other: Image) -> Image:
    """Depth test of two images, pixel by pixel; the smallest id wins among equals."""
    nearer = other.nearness > one.nearness
    nearer |= (other.nearness == one.nearness) & (other.triangle < one.triangle)
    return jax.tree.map(functools.partial(jnp.where, nearer), other, one)


def form(visibility: str) -> Form:
    """The form "scatter", "sort", or "platform": "sort" in programs for TPUs, else "scatter"."""
    if visibility in FORMS:
        return FORMS[visibility]

    def chosen(scatter: Callable[..., Tree], sort: Callable[..., Tree]) -> Callable[..., Tree]:
        return lambda *arrays: lax.platform_dependent(*arrays, tpu=sort, default=scatter)

    return Form(*map(chosen, FORMS["scatter"], FORMS["sort"]))


def _nearest_by_scatter(candidates: Candidates, image: Image) -> Image:
    """`Form.nearest` by two scatters."""
    pixel, nearness, triangle = candidates
    pixels = len(image.nearness)
    nearest = jnp.zeros(pixels, jnp.int32).at[pixel].max(nearness, mode="drop")
    wins = nearest.at[pixel].get(mode="fill", fill_value=-1) == nearness
    winner = jnp.full(pixels, NO_TRIANGLE).at[jnp.where(wins, pixel, pixels)].min(triangle, mode="drop")
    return Image(nearest, winner)


def _nearest_by_sort(candidates: Candidates, image: Image) -> Image:
    """`Form.nearest` by two sorts.

    With one candidate of the background for each pixel, the first of every pixel are those P in order; the second sort
    brings them together.
    """
    pixels = len(image.nearness)
    background = Candidates(jnp.arange(pixels, dtype=jnp.int32), *empty(pixels))
    pixel, nearness, triangle = (jnp.concatenate(pair) for pair in zip(candidates, background, strict=True))
    pixel, farness, triangle = lax.sort((pixel, -nearness, triangle), num_keys=3)
    first = jnp.concatenate([jnp.ones(1, bool), pixel[1:] != pixel[:-1]])
    _, farness, triangle = lax.sort((jnp.where(first, pixel, pixels), farness, triangle), num_keys=1)
    return Image(-farness[:pixels], triangle[:pixels])


def _select_rows(values: Tree, member: jax.Array, rows: jax.Array) -> Tree:
    """`Form.select` by the indices of the members."""
    return values, jnp.nonzero(member, size=len(rows), fill_value=0)[0].astype(rows.dtype)


def _part_of_rows(selection: Tree, start: jax.Array, span: jax.Array) -> Tree:
    values, rows = selection
    chosen = lax.dynamic_slice(rows, (start,), span.shape)
    return jax.tree.map(operator.itemgetter(chosen), values)


def _select_by_sort(values: Tree, member: jax.Array, rows: jax.Array) -> Tree:
    """`Form.select` by moving the members to the front."""
    leaves, structure = jax.tree.flatten(values)
    _, *ordered = lax.sort((jnp.where(member, 0, 1), *leaves), num_keys=1, is_stable=True)
    return jax.tree.unflatten(structure, ordered), rows


def _part_of_ordered(selection: Tree, start: jax.Array, span: jax.Array) -> Tree:
    values, _ = selection
    return jax.tree.map(lambda leaf: lax.dynamic_slice(leaf, (start,), span.shape), values)


FORMS = {
    "scatter": Form(_nearest_by_scatter, _select_rows, _part_of_rows),
    "sort": Form(_nearest_by_sort, _select_by_sort, _part_of_ordered),
}
