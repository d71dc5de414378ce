"""Meshes of an identity by marching cubes on a coarse-to-fine grid, and their deformation to expressions.

The grid starts with every eighth point. A cell is refined if its corners differ in sign or if a corner is closer to the
surface than half the cell's diagonal; elsewhere values are interpolated, which keeps their sign. Box and conventions
follow scripts/fitting of github.com/SimonGiebenhain/NPHM. A posed mesh is the deformed neutral mesh, never a new
extraction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import IdentityModel
from jaxface.systems.nphm.networks.skip_mlp import Params
from jaxface.systems.nphm.surface import sparse_sdf

# Corners (low, high) of the official box, in model units.
BOX = ((-0.55, -0.5, -0.95), (0.55, 0.75, 0.4))
COARSEST_STRIDE = 8
# Half the diagonal of a unit cell: no point of it is farther from the nearest corner.
HALF_DIAGONAL = 3**0.5 / 2
# The learned SDF may have slopes above 1. This quantile of the observed slopes is used as their bound.
SLOPE_QUANTILE = 0.98
# Vertices deformed at a time.
POSE_ROWS = 8192

SDF = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def extract_mesh(
    model: IdentityModel,
    params: Params,
    code: jax.Array,
    resolution: int = 256,
    box: tuple = BOX,
    prune: bool = True,
) -> Mesh:
    """Zero level set of one identity as a mesh in model units.

    Args:
        model: the identity model.
        params: its parameters.
        code: identity code (C,).
        resolution: grid points along each side of the box.
        box: corners (low, high) of the box.
        prune: coarse-to-fine evaluation; otherwise every grid point is evaluated.

    Returns:
        The mesh, triangles counter-clockwise seen from outside.

    Raises:
        UserError: no surface passes through the box, or scikit-image is not installed.
    """
    members = sparse_sdf.fold_members(model, params, code)
    values = evaluate_grid(lambda points: sparse_sdf.evaluate(members, points), resolution, box, prune)
    return marching_cubes(values, box)


def marching_cubes(values: np.ndarray, box: tuple = BOX) -> Mesh:
    """Zero level set of values (R,R,R), positive outside, on the grid of `box`. UserError as in `extract_mesh`."""
    try:
        from skimage import measure
    except ImportError as error:
        raise UserError("mesh extraction: scikit-image is not installed; pip install scikit-image") from error
    if not values.min() < 0 < values.max():
        raise UserError("no surface passes through the box; use a trained model and a code close to its training codes")
    spacing = [float(side) for side in _spacing(values.shape[0], box)]
    vertices, triangles, _, _ = measure.marching_cubes(values, 0.0, spacing=spacing)
    return Mesh((vertices + np.float32(box[0])).astype(np.float32), triangles.astype(np.int32))


def pose_mesh(model: Deformation, params: Params, condition: jax.Array, expression: jax.Array, neutral: Mesh) -> Mesh:
    """Deforms a neutral mesh by an expression.

    Args:
        model: the deformation network.
        params: its parameters.
        condition: (C,), the conditioning on the identity (`Deformation.condition`).
        expression: expression code (E,).
        neutral: mesh in canonical space.

    Returns:
        The posed mesh with the same triangles.
    """
    padded = np.pad(neutral.vertices, ((0, -len(neutral.vertices) % POSE_ROWS), (0, 0)))
    offsets = []
    for rows in padded.reshape(-1, POSE_ROWS, 3):
        batch = _offsets(model, params, condition[None], expression[None], jnp.asarray(rows)[None])
        offsets.append(np.asarray(batch)[0])
    vertices = neutral.vertices + np.concatenate(offsets)[: len(neutral.vertices)]
    return Mesh(vertices, neutral.triangles)


_offsets = jax.jit(lambda model, *arguments: model.offsets(*arguments), static_argnums=0)


def evaluate_grid(sdf: SDF, resolution: int, box: tuple = BOX, prune: bool = True) -> np.ndarray:
    """SDF on the grid of `box`: exact around the surface, of the right sign elsewhere.

    Args:
        sdf: maps points (N,3) to (blend, output) as `sparse_sdf.evaluate` does. The blend decides where to refine, the
            output is returned.
        resolution: grid points R along each side.
        box: corners (low, high).
        prune: whether to refine only around the surface.

    Returns:
        (R,R,R) float32, x first.
    """
    step = _spacing(resolution, box)

    def evaluate(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sdf((np.float32(box[0]) + index * step).astype(np.float32))

    stride = COARSEST_STRIDE if prune else 1
    count = -(-(resolution - 1) // stride) + 1
    index = stride * np.stack(np.meshgrid(*[np.arange(count)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    blend, output = (values.reshape(count, count, count) for values in evaluate(index))
    refined = np.ones((count - 1,) * 3, bool)
    while stride > 1:
        refined &= _near_surface(blend, stride * step)
        new = _points_of_cells(refined)
        new[::2, ::2, ::2] = False  # already evaluated at the coarser level
        stride //= 2
        # Unrefined points get the interpolated blend: interpolated outputs could be damped to 0 and lose their sign.
        blend, output = _upsample(blend), np.where(new, 0, _upsample_outputs(blend, output))
        blend[new], output[new] = evaluate(stride * np.argwhere(new))
        refined = _repeat_cells(refined)
    return np.ascontiguousarray(output[:resolution, :resolution, :resolution])


def _spacing(resolution: int, box: tuple) -> np.ndarray:
    return (np.float64(box[1]) - box[0]) / (resolution - 1)


def _corners(values: np.ndarray) -> list[np.ndarray]:
    """The 8 corners of all cells as views (n-1,n-1,n-1) of a grid (n,n,n)."""
    ends = (slice(None, -1), slice(1, None))
    return [values[x, y, z] for x in ends for y in ends for z in ends]


def _near_surface(blend: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Cells (n-1,n-1,n-1) bool of a grid (n,n,n), with cells of `sides` (3,), that the surface may cross."""
    corners = _corners(blend)
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    nearest = np.minimum.reduce([np.abs(corner) for corner in corners])
    slopes = [np.abs(np.diff(blend, axis=axis)).ravel() / side for axis, side in enumerate(sides)]
    steepest = np.quantile(np.concatenate(slopes), SLOPE_QUANTILE)
    return (low <= 0) & (high >= 0) | (nearest < HALF_DIAGONAL * steepest * sides.max())


def _repeat_cells(cells: np.ndarray) -> np.ndarray:
    """Cells (n,n,n) on the twice finer grid (2n,2n,2n)."""
    return np.repeat(np.repeat(np.repeat(cells, 2, 0), 2, 1), 2, 2)


def _points_of_cells(cells: np.ndarray) -> np.ndarray:
    """Points (2n+1,…) bool of the twice finer grid that lie in or on the selected cells (n,n,n)."""
    fine = _repeat_cells(cells)
    points = np.zeros(np.add(fine.shape, 1), bool)
    for corner in _corners(points):
        corner |= fine
    return points


def _upsample(values: np.ndarray) -> np.ndarray:
    """Trilinear interpolation of a grid (n,n,n) to (2n-1,2n-1,2n-1)."""
    for axis in range(3):
        moved = np.moveaxis(values, axis, 0)
        fine = np.empty((2 * len(moved) - 1, *moved.shape[1:]), values.dtype)
        fine[::2] = moved
        fine[1::2] = (moved[:-1] + moved[1:]) / 2
        values = np.moveaxis(fine, 0, axis)
    return values


def _upsample_outputs(blend: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The twice finer grid: outputs at the coarse points, the interpolated blend elsewhere."""
    fine = _upsample(blend)
    fine[::2, ::2, ::2] = output
    return fine
