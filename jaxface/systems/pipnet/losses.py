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


def supervised(maps: Maps, points: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """Unweighted losses of one batch with full labels.

    Args:
        maps: output of `PIPNet`.
        points: (B,L,2) in crop units.
        table: (L,N) neighbours.
        settings: `config.loss`; `map` and `offset` are "l1" or "l2".

    Returns:
        Scalars `map`, the mean over all cells and landmarks, and `x`, `y`, `nb_x`, `nb_y`, means over target cells.
    """
    target = targets(points, table, maps["cls"].shape[1])
    errors = offset_errors(maps, target)
    losses = {name: ERRORS[settings.offset](error).mean() for name, error in errors.items()}
    return {"map": ERRORS[settings.map](maps["cls"] - target["cls"]).mean(), **losses}


def curriculum(maps: Maps, points: jax.Array, task: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """Unweighted losses of one batch of self-training, in which every image has its own task.

    `map` is the mean over the cells of all grids in use, so an image with a coarse task has less weight, as in the
    original. The offset losses are means over the images of task "std", or 0 if the batch has none.

    Args:
        maps: output of `PIPNet` with `coarse`.
        points: (B,L,2) in crop units.
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
    target = targets(points, table, size)
    standard = task == TASKS.index("std")
    # Images whose task uses the full grid: "std" and "cls1".
    full = (task <= TASKS.index("cls1")).astype(jnp.float32)
    total = count = jnp.zeros(())
    for name, pooling, selected in (("cls", 1, full), ("cls2", 2, task == 2), ("cls3", 4, task == 3)):
        scores = target["cls"] if pooling == 1 else targets(points, table, size // pooling)["cls"]
        error = ERRORS[settings.map](maps[name] - scores) * selected[:, None, None, None]
        total, count = total + error.sum(), count + selected.sum() * error[0].size
    weight = standard.astype(jnp.float32)[:, None, None]
    losses = {"map": total / jnp.maximum(count, 1)}
    for name, error in offset_errors(maps, target).items():
        values = ERRORS[settings.offset](error) * weight
        losses[name] = values.sum() / jnp.maximum(weight.sum() * error[0].size, 1)
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
        batch: image (B,H,W,3) RGB in [0,1], points (B,L,2) in crop units, optionally task (B,) int32.
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
