"""Targets and losses of PIPNet: pure functions, every reduction in the open.

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

# What a picture of the curriculum teaches: everything, or the scores on one grid only (full, 2x2 and 4x4 cells).
TASKS = ("std", "cls1", "cls2", "cls3")
ERRORS = {"l1": jnp.abs, "l2": jnp.square}


def cells(points: jax.Array, size: int) -> jax.Array:
    """Column and row (…,2) int32 in a size x size grid of points (…,2) in crop units; those outside in the nearest."""
    return jnp.clip(jnp.floor(points * size).astype(jnp.int32), 0, size - 1)


def targets(points: jax.Array, table: jax.Array, size: int) -> dict[str, jax.Array]:
    """What the maps should hold for points (B,L,2) in crop units and neighbours `table` (L,N).

    `cls` (B,size,size,L) is 1 in each landmark's cell; `cell` (B,L) its place; `own` (B,L,2) and `neighbors` (B,L,N,2)
    offsets from that cell's corner in cells, (x, y); unbounded for neighbours and points outside the crop.
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


def offset_errors(maps: Maps, wanted: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Differences x, y (B,L,1) and nb_x, nb_y (B,L,N) of the maps from the targets, in the target's cells only."""
    own, neighbors = wanted["own"][:, :, None], wanted["neighbors"]
    goals = {"x": own[..., 0], "y": own[..., 1], "nb_x": neighbors[..., 0], "nb_y": neighbors[..., 1]}
    return {name: gather(maps[name], wanted["cell"]) - goal for name, goal in goals.items()}


def supervised(maps: Maps, points: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """Unweighted losses `map`, `x`, `y`, `nb_x`, `nb_y`, each the mean over all it has.

    `map` is over every cell of every landmark, the rest over target cells. `settings.map`, `settings.offset`: "l1" or
    "l2".
    """
    wanted = targets(points, table, maps["cls"].shape[1])
    offsets = offset_errors(maps, wanted)
    losses = {name: ERRORS[settings.offset](error).mean() for name, error in offsets.items()}
    return {"map": ERRORS[settings.map](maps["cls"] - wanted["cls"]).mean(), **losses}


def curriculum(maps: Maps, points: jax.Array, task: jax.Array, table: jax.Array, settings: Any) -> dict[str, jax.Array]:
    """The same losses where picture b teaches `TASKS[task[b]]` only; maps with `cls2` and `cls3`.

    `map` is the mean over the cells of all pictures' grids that count, so that a picture of a coarse task weighs less;
    offsets are those of "std" pictures, 0 where there are none. Raises UserError where the grid is too small for that.
    """
    size = maps["cls"].shape[1]
    if size < 4:
        raise UserError(f"a curriculum needs a grid of at least 4 x 4 cells, not {size} x {size}: lower the stride")
    wanted = targets(points, table, size)
    full = (task <= 1).astype(jnp.float32)
    total = count = jnp.zeros(())
    for name, shrink, counts in (("cls", 1, full), ("cls2", 2, task == 2), ("cls3", 4, task == 3)):
        goal = wanted["cls"] if shrink == 1 else targets(points, table, size // shrink)["cls"]
        error = ERRORS[settings.map](maps[name] - goal) * counts[:, None, None, None]
        total, count = total + error.sum(), count + counts.sum() * error[0].size
    standard = (task == 0).astype(jnp.float32)[:, None, None]
    losses = {"map": total / jnp.maximum(count, 1)}
    for name, error in offset_errors(maps, wanted).items():
        values = ERRORS[settings.offset](error) * standard
        losses[name] = values.sum() / jnp.maximum(standard.sum() * error[0].size, 1)
    return losses


def check(settings: ml_collections.ConfigDict) -> None:
    """UserError where `config.loss` names another error than "l1" and "l2"."""
    for key in ("map", "offset"):
        if settings[key] not in ERRORS:
            raise UserError(f"config.loss.{key} is {settings[key]!r}; choose one of {', '.join(ERRORS)}")


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
    """`System.loss`: `settings.map_weight` (10) times `map`, and `settings.offset_weight` (1) times each of the others.

    `batch` has image (B,H,W,3) and points (B,L,2) in crop units; with `task` (B,) int32 the loss is `curriculum`.
    """
    del key, step, constants
    coarse = "task" in batch
    maps, changed = net.apply({"params": params, **model_state}, batch["image"], True, coarse, mutable=[*model_state])
    if coarse:
        losses = curriculum(maps, batch["points"], batch["task"], table, settings)
    else:
        losses = supervised(maps, batch["points"], table, settings)
    offsets = sum(value for name, value in losses.items() if name != "map")
    return settings.map_weight * losses["map"] + settings.offset_weight * offsets, (changed, losses)
