"""Losses of joint voxel and coordinate regression: first each network separately, then both jointly."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxface.nn import soft_argmax
from jaxface.system import Batch, Tree
from jaxface.systems.jvcr.model import JVCR

DISTANCES = ("squared", "plain")
# Scale of the pseudo-Huber loss in crop units ([0,1]): smaller distances have smaller gradients.
HUBER_DELTA = 0.005


def volume_loss(volumes: list[jax.Array], targets: list[jax.Array]) -> jax.Array:
    """Sum over stacks of the mean squared error; volumes and targets (B,y,x,D)."""
    return sum(jnp.mean((volume - target) ** 2) for volume, target in zip(volumes, targets, strict=True))


def coordinate_loss(coordinates: jax.Array, target: jax.Array, valid: jax.Array, kind: str = "squared") -> jax.Array:
    """Coordinate loss () over the valid points.

    Args:
        coordinates: (B,N,3) predicted, in crop units ([0,1]).
        target: (B,N,3), in the same unit.
        valid: (B,N) bool.
        kind: "squared", the mean squared error of the paper; or "plain" (ours), the mean pseudo-Huber distance, which
            is less dominated by the worst points.
    """
    weight = valid.astype(coordinates.dtype)
    squared = ((coordinates - target) ** 2).sum(-1)
    count = jnp.maximum(weight.sum(), 1.0)
    if kind == "plain":
        return (weight * jnp.sqrt(squared + HUBER_DELTA**2)).sum() / count
    return (weight * squared).sum() / (3 * count)


def attention_loss(log_attention: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Heat-map loss (): mean cross-entropy of the attention with a Gaussian one cell wide. Ours.

    Args:
        log_attention: (B,n*n,N).
        target: (B,N,2+) positions in [0,1] of the crop.
        valid: (B,N) bool; other points are ignored.
    """
    side = math.isqrt(log_attention.shape[1])
    centers = soft_argmax.cell_centers(side, side)
    cell_width = 2 * centers[0, 0]
    per_point = soft_argmax.cross_entropy(log_attention, centers, target[..., :2], cell_width, axis=1)
    weight = valid.astype(per_point.dtype)
    return (per_point * weight).sum() / jnp.maximum(weight.sum(), 1.0)


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
    """`System.loss`: one compiled graph for both training phases, selected by the step; as train.py of the original.

    For the first `settings.pretrain` steps the two networks are trained separately: the volumes from the image, and the
    coordinates from the true volume. Afterwards the coordinates are computed from the predicted volume, and the volume
    loss has the weight `settings.voxel`.

    Args:
        net: the network.
        settings: `config.loss`. `pretrain`: steps of the first phase. `distance`: see `coordinate_loss`. `voxel`,
            `attention`: weights of the volume loss in the second phase and of the heat-map loss of the soft-argmax
            regressor. `both_volumes` reproduces a side effect of the original: in the first phase, vox2coord's batch
            statistics are updated with the predicted volume before the true one.
        size: side of the crop in pixels.
        params: parameters.
        model_state: batch statistics.
        batch: image (B,S,S,3) in [0,1], coordinates (B,N,3) px of the crop, valid (B,N) bool, and volumes, the target
            volumes of `targets.add_volumes`.
        key: unused.
        step: int32 scalar.
        constants: unused.

    Returns:
        The scalar loss, and (updated model_state, unweighted losses and the mean distance in crop units).
    """
    del key, constants
    pretraining = step < settings.pretrain

    def regress(model_state: Tree, volume: jax.Array, features: jax.Array) -> tuple[jax.Array, Tree]:
        variables, mutable = {"params": params, **model_state}, [*model_state, "intermediates"]
        return net.apply(variables, volume, features, True, method="regress", mutable=mutable)

    (volumes, features), model_state = net.apply(
        {"params": params, **model_state}, batch["image"], True, method="voxels", mutable=[*model_state]
    )
    predicted, targets = volumes[-1], batch["volumes"]
    if settings.both_volumes:
        inputs = lax.stop_gradient((predicted, features))
        model_state = lax.cond(
            pretraining,
            lambda model_state: regress(model_state, *inputs)[1],
            lambda model_state: model_state,
            model_state,
        )
    coordinates, model_state = regress(model_state, jnp.where(pretraining, targets[-1], predicted), features)
    intermediates = model_state.pop("intermediates", {})
    voxel = volume_loss(volumes, targets)
    target = batch["coordinates"] / (size - 1)
    coordinate = coordinate_loss(coordinates, target, batch["valid"], settings.distance)
    loss = jnp.where(pretraining, 1.0, settings.voxel) * voxel + coordinate
    distance = jnp.sqrt(((coordinates - target) ** 2).sum(-1) + 1e-12).mean()
    metrics = {"voxel": voxel, "coordinate": coordinate, "distance": distance}
    if intermediates:
        (log_attention,) = intermediates["vox2coord"]["log_attention"]
        metrics["attention"] = attention_loss(log_attention, (batch["coordinates"] + 0.5) / size, batch["valid"])
        loss += settings.attention * metrics["attention"]
    return loss, (model_state, metrics)
