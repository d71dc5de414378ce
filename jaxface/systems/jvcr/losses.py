"""Losses of joint voxel and coordinate regression: each half by itself, then both together, by the step's number."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.errors import UserError
from jaxface.system import Batch, Tree
from jaxface.systems.jvcr.model import JVCR, cell_centers

DISTANCES = ("squared", "plain")
# Points nearer than this part of the crop are pulled less by plain distances.
ROUND = 0.005


def check(settings: Any) -> None:
    """UserError for a distance, of config.loss, that does not exist."""
    if settings.distance not in DISTANCES:
        raise UserError(f"config.loss.distance is {settings.distance!r}; use one of {', '.join(DISTANCES)}")


def volume_loss(volumes: list[jax.Array], targets: list[jax.Array]) -> jax.Array:
    """The sum over stacks of the mean squared difference; volumes and targets (B,y,x,D)."""
    return sum(jnp.mean((volume - target) ** 2) for volume, target in zip(volumes, targets, strict=True))


def coordinate_loss(coordinates: jax.Array, target: jax.Array, known: jax.Array, kind: str = "squared") -> jax.Array:
    """Mean squared difference of coordinates (B,N,3) over the points that are `known` (B,N) bool.

    `kind` "plain" (ours): the mean distance, in which the worst points do not decide.
    """
    weight = known.astype(coordinates.dtype)
    squared = ((coordinates - target) ** 2).sum(-1)
    count = jnp.maximum(weight.sum(), 1.0)
    if kind == "plain":
        return (weight * jnp.sqrt(squared + ROUND**2)).sum() / count
    return (weight * squared).sum() / (3 * count)


def attention_loss(log_attention: jax.Array, target: jax.Array, known: jax.Array) -> jax.Array:
    """Mean cross-entropy of where landmarks look, log_attention (B,n*n,N), with their place target (B,N,2+) in [0,1].

    The place is a Gaussian over the cells, one cell wide; it teaches attention much faster than the coordinates' loss.
    """
    centers = cell_centers(math.isqrt(log_attention.shape[1]))
    cell = centers[0, 0] * 2
    squared = ((centers[:, None] - target[:, None, :, :2]) ** 2).sum(-1)
    wanted = jax.nn.softmax(-squared / (2 * cell**2), axis=1)
    weight = known.astype(wanted.dtype)
    return -((wanted * log_attention).sum(1) * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def training_loss(
    net: JVCR,
    settings: Any,
    size: int,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """`System.loss` of a network for crops of `size` px: one graph for both phases, chosen by the step.

    For the first `settings.pretrain` steps the two halves learn apart: the volumes of the image, and the coordinates of
    the true volume. After them the coordinates of the predicted volume, plus `settings.voxel` times the volumes' loss;
    as the original's train.py. `settings.attention` times the attention's loss is added where there is one.
    `settings.both_volumes`: the original's side effect, by which in the first phase vox2coord's batch statistics are
    updated by the predicted volume before they are by the true one.
    """
    del key, constants
    pretraining = step < settings.pretrain

    def regress(model_state: Tree, volume: jax.Array, features: jax.Array) -> tuple[jax.Array, Tree]:
        variables, changing = {"params": params, **model_state}, [*model_state, "intermediates"]
        return net.apply(variables, volume, features, True, method="regress", mutable=changing)

    (volumes, features), model_state = net.apply(
        {"params": params, **model_state}, batch["image"], True, method="voxels", mutable=[*model_state]
    )
    predicted, targets = volumes[-1], batch["volumes"]
    if settings.both_volumes:
        seen = lax.stop_gradient((predicted, features))
        model_state = lax.cond(
            pretraining,
            lambda model_state: regress(model_state, *seen)[1],
            lambda model_state: model_state,
            model_state,
        )
    coordinates, model_state = regress(model_state, jnp.where(pretraining, targets[-1], predicted), features)
    looked = model_state.pop("intermediates", {})
    voxel = volume_loss(volumes, targets)
    target = batch["coordinates"] / (size - 1)
    coordinate = coordinate_loss(coordinates, target, batch["valid"], settings.distance)
    loss = jnp.where(pretraining, 1.0, settings.voxel) * voxel + coordinate
    distance = jnp.sqrt(((coordinates - target) ** 2).sum(-1) + 1e-12).mean()
    measured = {"voxel": voxel, "coordinate": coordinate, "distance": distance}
    if looked:
        (log_attention,) = looked["vox2coord"]["log_attention"]
        measured["attention"] = attention_loss(log_attention, (batch["coordinates"] + 0.5) / size, batch["valid"])
        loss += settings.attention * measured["attention"]
    return loss, (model_state, measured)
