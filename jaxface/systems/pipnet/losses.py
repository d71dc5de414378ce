"""Targets and losses of PIPNet.

Supervised: lib/functions.py, `compute_loss_pip`. Curriculum: lib/functions_gssl.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.errors import UserError
from jaxface.system import Batch, Tree
from jaxface.systems.pipnet.decoding import gather
from jaxface.systems.pipnet.model import Maps, PIPNet

# Tasks of self-training: all losses, or only the scores on one grid (full, pooled over 2x2 and over 4x4 cells).
TASKS = ("std", "cls1", "cls2", "cls3")
ERRORS = {"l1": jnp.abs, "l2": jnp.square}


def cells(points: jax.Array, size: int) -> jax.Array:
    """Column and row (…,2) int32, in a size x size grid, of points (…,2) in crop units; clipped to the grid."""
    return jnp.clip(jnp.floor(points * size).astype(jnp.int32), 0, size - 1)


def targets(points: jax.Array, table: jax.Array, size: int) -> dict[str, jax.Array]:
    """Training targets of the maps.

    Args:
        points: (B,L,2) in crop units.
        table: (L,N) neighbours.
        size: cells of the grid per side.

    Returns:
        `cls` (B,size,size,L): 1 in each landmark's cell, else 0. `cell` (B,L): that cell, size*row + column. `own`
        (B,L,2) and `neighbors` (B,L,N,2): offsets (x, y) of the landmark and of its neighbours from the upper left
        corner of that cell, in cells; unbounded for neighbours and for points outside the crop.
    """
    corner = cells(points, size)
    cell = corner[..., 0] + size * corner[..., 1]
    scores = jax.nn.one_hot(cell, size * size, axis=1)
    return {
        "cls": scores.reshape(len(points), size, size, -1),
        "cell": cell,
        "own": points * size - corner,
        "neighbors": points[:, table] * size - corner[:, :, None],
    }


def offset_errors(maps: Maps, target: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Errors x, y (B,L,1) and nb_x, nb_y (B,L,N) of the offset maps in the targets' cells; `target` as of `targets`."""
    own, neighbors = target["own"][:, :, None], target["neighbors"]
    offsets = {"x": own[..., 0], "y": own[..., 1], "nb_x": neighbors[..., 0], "nb_y": neighbors[..., 1]}
    return {name: gather(maps[name], target["cell"]) - offset for name, offset in offsets.items()}


def offset_weights(valid: jax.Array, table: jax.Array) -> dict[str, jax.Array]:
    """Weights of `offset_errors`: 1 where the landmark and, for nb_x and nb_y, its neighbour are valid (B,L)."""
    own = valid[..., None].astype(jnp.float32)
    neighbors = own * valid[:, table]
    return {"x": own, "y": own, "nb_x": neighbors, "nb_y": neighbors}


def supervised(maps: Maps, points: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """Unweighted losses of one labelled batch.

    Args:
        maps: output of `PIPNet`.
        points: (B,L,2) in crop units, NaN for missing ones, which do not count (ours).
        table: (L,N) neighbours.
        settings: `config.loss`; `map` and `offset` are "l1" or "l2".

    Returns:
        Scalars `map`, the mean over all cells and landmarks, and `x`, `y`, `nb_x`, `nb_y`, means over target cells.
    """
    points, valid = _split_missing(points)
    target = targets(points, table, maps["cls"].shape[1])
    weights = offset_weights(valid, table)
    errors = {name: ERRORS[settings.offset](error) for name, error in offset_errors(maps, target).items()}
    losses = {name: _weighted_mean(error, weights[name]) for name, error in errors.items()}
    score_errors = ERRORS[settings.map](maps["cls"] - target["cls"])
    score_weights = jnp.broadcast_to(valid[:, None, None].astype(jnp.float32), score_errors.shape)
    return {"map": _weighted_mean(score_errors, score_weights), **losses}


def _split_missing(points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points (B,L,2) with missing ones (NaN) at 0, and the annotated ones (B,L) bool."""
    valid = jnp.isfinite(points).all(-1)
    return jnp.where(valid[..., None], points, 0.0), valid


def _weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean () of `values` with `weights` of the same shape; 0 if all weights are 0."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1)


def curriculum(maps: Maps, points: jax.Array, task: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """Unweighted losses of one batch of self-training, in which every image has its own task.

    `map` is the mean over the cells of all grids in use, so an image with a coarse task has less weight, as in the
    original. The offset losses are means over the images of task "std", or 0 if the batch has none.

    Args:
        maps: output of `PIPNet` with `coarse`.
        points: as of `supervised`.
        task: (B,) int32 indices into `TASKS`.
        table: (L,N) neighbours.
        settings: as of `supervised`.

    Returns:
        Scalars as of `supervised`.

    Raises:
        UserError: the grid is smaller than 4 x 4 cells.
    """
    size = maps["cls"].shape[1]
    if size < 4:
        raise UserError(
            f"config.model.stride: a curriculum needs a grid of at least 4 x 4 cells, not {size} x {size}; reduce it"
        )
    points, valid = _split_missing(points)
    target = targets(points, table, size)
    standard = task == TASKS.index("std")
    # Images whose task uses the full grid: "std" and "cls1".
    full = (task <= TASKS.index("cls1")).astype(jnp.float32)
    total = count = jnp.zeros(())
    for name, pooling, selected in (("cls", 1, full), ("cls2", 2, task == 2), ("cls3", 4, task == 3)):
        scores = target["cls"] if pooling == 1 else targets(points, table, size // pooling)["cls"]
        weights = jnp.broadcast_to((selected[:, None] * valid)[:, None, None], scores.shape)
        error = ERRORS[settings.map](maps[name] - scores) * weights
        total, count = total + error.sum(), count + weights.sum()
    losses = {"map": total / jnp.maximum(count, 1)}
    weights = offset_weights(valid & standard[:, None], table)
    for name, error in offset_errors(maps, target).items():
        losses[name] = _weighted_mean(ERRORS[settings.offset](error), weights[name])
    return losses


def training_loss(
    net: PIPNet,
    table: jax.Array,
    settings: ml_collections.ConfigDict,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """`System.loss`: weighted sum of `supervised`, or of `curriculum` if the batch has tasks.

    Args:
        net: the network.
        table: (L,N) neighbours.
        settings: `config.loss`; `map_weight` (10) weights `map`, `offset_weight` (1) each offset loss.
        params: parameters.
        model_state: batch statistics.
        batch: image (B,H,W,3) RGB in [0,1], points (B,L,2) in crop units (NaN: missing), optionally task (B,) int32.
        key: unused.
        step: unused.
        constants: unused.

    Returns:
        The scalar loss, and (updated model_state, unweighted losses).
    """
    del key, step, constants
    coarse = "task" in batch
    maps, updated = net.apply({"params": params, **model_state}, batch["image"], True, coarse, mutable=[*model_state])
    if coarse:
        losses = curriculum(maps, batch["points"], batch["task"], table, settings)
    else:
        losses = supervised(maps, batch["points"], table, settings)
    offsets = sum(value for name, value in losses.items() if name != "map")
    return settings.map_weight * losses["map"] + settings.offset_weight * offsets, (updated, losses)
