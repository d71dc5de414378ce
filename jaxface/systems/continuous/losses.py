"""Losses of the continuous landmark detector: pure functions with explicit reductions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxface.nn import soft_argmax
from jaxface.system import Batch, Tree
from jaxface.systems.continuous import query_table
from jaxface.systems.continuous.deformer import DEFORMER, Deformer
from jaxface.systems.continuous.model import Continuous
from jaxface.systems.continuous.predictors import MAP_STRIDE, cell_centers
from jaxface.systems.continuous.query_table import QuerySet

# Fixed sigma of the points' likelihood during the warm-up, in `crop_units`.
WARMUP_SIGMA = 0.05


def gaussian_nll(points: jax.Array, sigma: jax.Array, target: jax.Array) -> jax.Array:
    """Negative log-likelihood (…) of `target` (…,2) under an isotropic Gaussian, without its constant.

    points (…,2) and sigma (…) in the same unit: |p - p*|² / (2 s²) + 2 log s. Wood et al., ECCV 2022, eq. 1.
    """
    return ((points - target) ** 2).sum(-1) / (2 * sigma**2) + 2 * jnp.log(sigma)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid queries of each image, then over images: () of values (B,Q) and valid (B,Q) bool.

    Every image has the same weight, whether it has 68 queries or a thousand. An image without valid queries counts
    as 0.
    """
    weight = valid.astype(values.dtype)
    per_image = (values * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)
    return per_image.mean()


def _labelled(target: jax.Array, valid: jax.Array) -> jax.Array:
    """Targets (B,Q,2), 0 where not `valid`: NaN would pass through a masked mean, since 0 * NaN is NaN."""
    return jnp.where(valid[..., None], target, 0.0)


def detector_loss(
    points: jax.Array, sigma: jax.Array, target: jax.Array, valid: jax.Array, step: jax.Array, warmup: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gaussian negative log-likelihood of the targets, with a warm-up that decouples points and sigma.

    For the first `warmup` steps the points are trained with a fixed sigma, and sigma with fixed points, so that
    positions are learned before confidence; afterwards both follow the joint likelihood.

    Args:
        points: (B,Q,2) predicted, in `crop_units`.
        sigma: (B,Q) predicted standard deviation, in the same unit.
        target: (B,Q,2).
        valid: (B,Q) bool; False marks padding and labels that do not count, which may be NaN.
        step: int32 scalar, number of completed updates.
        warmup: number of warm-up steps.

    Returns:
        The scalar loss, and the metrics `distance` and `sigma`, means in crop units.
    """
    target = _labelled(target, valid)
    points_nll = gaussian_nll(points, jnp.full_like(sigma, WARMUP_SIGMA), target)
    sigma_nll = gaussian_nll(jax.lax.stop_gradient(points), sigma, target)
    per_query = jnp.where(step < warmup, points_nll + sigma_nll, gaussian_nll(points, sigma, target))
    distance = jnp.sqrt(((points - target) ** 2).sum(-1) + 1e-12)
    metrics = {"distance": masked_mean(distance, valid), "sigma": masked_mean(sigma, valid)}
    return masked_mean(per_query, valid), metrics


def attention_loss(log_attention: jax.Array, target: jax.Array, valid: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Heat-map loss () of a soft-argmax predictor: cross-entropy with a Gaussian whose std is one cell. Ours.

    Args:
        log_attention: (B,Q,T) over the T cells of the map.
        target: (B,Q,2) in `crop_units`; targets outside the crop are ignored.
        valid: (B,Q) bool; False marks padding.
        size: height and width of the crop in pixels.
    """
    target = _labelled(target, valid)
    height, width = (side // MAP_STRIDE for side in size)
    cell_width = 2 / (height * width) ** 0.5
    per_query = soft_argmax.cross_entropy(log_attention, cell_centers(height, width), target, cell_width)
    inside_crop = (abs(target) < 1).all(-1)
    return masked_mean(per_query, valid & inside_crop)


@dataclasses.dataclass(frozen=True)
class OffsetTable:
    """Learned offsets of the queries of data sets (`query_table`).

    Attributes:
        sets: the data sets that have offsets.
        names: all data sets, in the order in which batches number them.
        weight: weight of the mean squared offset, and of the deformer's mean squared displacement, in the loss.
        deformer: moves the queries of data sets as well.
    """

    sets: tuple[QuerySet, ...]
    names: tuple[str, ...]
    weight: float
    deformer: Deformer | None = None


def training_loss(
    net: Continuous,
    settings: Any,
    table: OffsetTable,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """`System.loss`: `detector_loss`, plus the weighted `attention_loss` if the predictor sows "log_attention", and the
    weighted mean squared displacement of canonical 3D points, which 2D labels do not determine.

    Queries whose label does not count are hidden from the others as if they were not asked: in a transformer, what is
    unlabelled in one data set must not change the answers for the rest.

    Args:
        net: the network.
        settings: `config.loss`: `warmup` steps and the weight of the `attention` loss.
        table: learned offsets of the queries; without any, the queries are those of the batch.
        params: parameters.
        model_state: batch statistics.
        batch: arrays of `data.preprocess_train`: image (B,S,S,3), queries (B,Q,3), asked (B,Q), valid (B,Q), points
            (B,Q,2), dataset (B,), mirrored (B,).
        key: random key of dropout and stochastic depth.
        step: int32 scalar, number of completed updates.
        constants: unused.

    Returns:
        The scalar loss, and (updated model_state, metrics).
    """
    del constants
    valid = batch["valid"] & batch["asked"]
    target = batch["points"]
    queries = jnp.where(valid[..., None], batch["queries"], 0.0)
    if table.sets:
        offsets = query_table.offset_table(params, table.sets, table.names, queries.shape[1])
        queries = query_table.moved_queries(queries, offsets[batch["dataset"]], batch["mirrored"])
    if table.deformer is not None:
        displacements = table.deformer.displacements(params, queries, batch["dataset"])
        queries += displacements
    (points, sigma), updated = net.apply(
        {"params": network_params(params), **model_state},
        batch["image"],
        queries,
        valid,
        train=True,
        rngs={"dropout": key},
        mutable=[*model_state, "intermediates"],
    )
    loss, metrics = detector_loss(points, sigma, target, valid, step, settings.warmup)
    intermediates = updated.pop("intermediates", {})
    if "displacement" in intermediates:
        (displacement,) = intermediates["displacement"]
        metrics["displacement"] = masked_mean((displacement**2).mean(-1), valid)
        loss += settings.displacement * metrics["displacement"]
    if "predictor" in intermediates:
        (log_attention,) = intermediates["predictor"]["log_attention"]
        metrics["attention"] = attention_loss(log_attention, target, valid, batch["image"].shape[1:3])
        loss += settings.attention * metrics["attention"]
    if table.sets:
        squared = [jnp.mean(offsets**2) for offsets in params[query_table.OFFSETS].values()]
        metrics["offsets"] = jnp.sqrt(jnp.mean(jnp.stack(squared)) + 1e-12)
        loss += table.weight * sum(squared)
    if table.deformer is not None:
        metrics["deformer"] = masked_mean((displacements**2).mean(-1), valid)
        loss += table.weight * metrics["deformer"]
    return loss, (updated, metrics)


def network_params(params: Tree) -> Tree:
    """The parameters of the network, without the learned offsets of queries and the deformer."""
    return {name: value for name, value in params.items() if name not in (query_table.OFFSETS, DEFORMER)}
