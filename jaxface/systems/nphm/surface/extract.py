"""Meshes of an identity by marching cubes at any resolution, and their poses.

The grid is refined from every eighth point: a cell is looked into where its corners' signs differ or a corner is
nearer to the surface than the cell reaches. What is not looked into is interpolated, which keeps its sign. Box and
convention after scripts/fitting of github.com/SimonGiebenhain/NPHM; posed meshes are deformed, never extracted again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.systems.nphm.networks import members
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import Single
from jaxface.systems.nphm.networks.skip_mlp import Params

# The official box, in units: corners (low, high).
BOX = ((-0.55, -0.5, -0.95), (0.55, 0.75, 0.4))
COARSEST = 8
# Half the diagonal of a cell of side 1: how far its inside is from its nearest corner.
REACH = 3**0.5 / 2
# Distances grow faster than by one per unit in places; this share of the slopes seen counts as the steepest.
STEEP_SHARE = 0.98
POSE_ROWS = 8192

Distances = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def mesh(
    model: Ensemble | Single,
    params: Params,
    code: jax.Array,
    resolution: int = 256,
    box: tuple = BOX,
    prune: bool = True,
) -> Mesh:
    """The surface of one identity, code (C,), in units; triangles counter-clockwise seen from outside.

    `resolution` grid points along each side of `box`. Without `prune` every grid point is evaluated. UserError where
    no surface passes through the box, or scikit-image is missing.
    """
    folded = members.fold(model, params, code)
    return march(grid(lambda points: members.distances(folded, points), resolution, box, prune), box)


def march(values: np.ndarray, box: tuple = BOX) -> Mesh:
    """The zero level of values (R,R,R), positive outside, on the grid of `box`. UserError as in `mesh`."""
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise UserError("extracting meshes needs scikit-image: pip install scikit-image") from error
    if not values.min() < 0 < values.max():
        raise UserError("no surface passes through the box: the model is untrained, or the code is not one of its own")
    spacing = [float(side) for side in _spacing(values.shape[0], box)]
    vertices, triangles, _, _ = marching_cubes(values, 0.0, spacing=spacing)
    return Mesh((vertices + np.float32(box[0])).astype(np.float32), triangles.astype(np.int32))


def pose(model: Deformation, params: Params, condition: jax.Array, expression: jax.Array, source: Mesh) -> Mesh:
    """`source`, a neutral mesh, deformed by one expression (E,) under an identity's condition (C,)."""
    padded = np.pad(source.vertices, ((0, -len(source.vertices) % POSE_ROWS), (0, 0)))
    parts = padded.reshape(-1, POSE_ROWS, 3)
    offsets = [_offsets(model, params, condition[None], expression[None], jnp.asarray(part)[None]) for part in parts]
    moved = np.concatenate([np.asarray(part)[0] for part in offsets])[: len(source.vertices)]
    return Mesh(source.vertices + moved, source.triangles)


_offsets = jax.jit(lambda model, *arguments: model.offsets(*arguments), static_argnums=0)


def grid(distances: Distances, resolution: int, box: tuple = BOX, prune: bool = True) -> np.ndarray:
    """Values (R,R,R) float32 on the grid of `box`, x first, exact around the surface and of the right sign elsewhere.

    `distances` gives (blend, output) for points (N,3) as `members.distances` does: the blend's size decides where to
    look, the output is what is returned.
    """
    step = _spacing(resolution, box)

    def evaluate(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return distances((np.float32(box[0]) + index * step).astype(np.float32))

    stride = COARSEST if prune else 1
    count = -(-(resolution - 1) // stride) + 1
    index = stride * np.stack(np.meshgrid(*[np.arange(count)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    blend, values = (made.reshape(count, count, count) for made in evaluate(index))
    looked = np.ones((count - 1,) * 3, bool)
    while stride > 1:
        looked &= _crossed(blend, stride * step)
        finer = _points_of(looked)
        finer[::2, ::2, ::2] = False
        stride //= 2
        # The blend where it is not looked: interpolated outputs could be damped to nothing.
        blend, values = _twice(blend), np.where(finer, 0, _kept_outputs(blend, values))
        blend[finer], values[finer] = evaluate(stride * np.argwhere(finer))
        looked = np.repeat(np.repeat(np.repeat(looked, 2, 0), 2, 1), 2, 2)
    return np.ascontiguousarray(values[:resolution, :resolution, :resolution])


def _spacing(resolution: int, box: tuple) -> np.ndarray:
    return (np.float64(box[1]) - box[0]) / (resolution - 1)


def _corners(values: np.ndarray) -> list[np.ndarray]:
    ends = (slice(None, -1), slice(1, None))
    return [values[x, y, z] for x in ends for y in ends for z in ends]


def _crossed(blend: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Which cells (n-1,n-1,n-1) of a grid (n,n,n) with cells of `sides` (3,) the surface may pass through."""
    corners = _corners(blend)
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    nearest = np.minimum.reduce([np.abs(corner) for corner in corners])
    slopes = [np.abs(np.diff(blend, axis=axis)).ravel() / side for axis, side in enumerate(sides)]
    near = np.concatenate(slopes)
    steepest = np.quantile(near, STEEP_SHARE)
    return (low <= 0) & (high >= 0) | (nearest < REACH * steepest * sides.max())


def _points_of(cells: np.ndarray) -> np.ndarray:
    """Which points of the twice finer grid (2n+1,…) lie in or on chosen cells (n,n,n)."""
    fine = np.repeat(np.repeat(np.repeat(cells, 2, 0), 2, 1), 2, 2)
    points = np.zeros(np.add(fine.shape, 1), bool)
    for corner in _corners(points):
        corner |= fine
    return points


def _twice(values: np.ndarray) -> np.ndarray:
    """A grid (n,n,n) on twice as fine a grid (2n-1,…), linearly."""
    for axis in range(3):
        moved = np.moveaxis(values, axis, 0)
        fine = np.empty((2 * len(moved) - 1, *moved.shape[1:]), values.dtype)
        fine[::2] = moved
        fine[1::2] = (moved[:-1] + moved[1:]) / 2
        values = np.moveaxis(fine, 0, axis)
    return values


def _kept_outputs(blend: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The finer grid of outputs: those that are there, and the interpolated blend between them."""
    fine = _twice(blend)
    fine[::2, ::2, ::2] = values
    return fine
