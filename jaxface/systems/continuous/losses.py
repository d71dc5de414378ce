"""Losses of the continuous landmark detector: pure functions, every reduction in the open."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxface.nn.soft_argmax import cell_centers, cross_entropy
from jaxface.system import Batch, Tree
from jaxface.systems.continuous.model import Continuous

WARMUP_SIGMA = 0.05


def gaussian_nll(points: jax.Array, sigma: jax.Array, target: jax.Array) -> jax.Array:
    """Negative log-likelihood (…) of `target` (…,2) under an isotropic Gaussian, without its constant.

    points (…,2) and sigma (…) in the same unit: |p - p*|² / (2 s²) + 2 log s. Wood et al., ECCV 2022, eq. 1.
    """
    return ((points - target) ** 2).sum(-1) / (2 * sigma**2) + 2 * jnp.log(sigma)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid queries of each picture, then over pictures: () of values (B,Q) and valid (B,Q) bool.

    So a picture of a thousand queries weighs no more than one of sixty-eight; a picture without any counts as 0.
    """
    weight = valid.astype(values.dtype)
    per_picture = (values * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)
    return per_picture.mean()


def detector_loss(
    points: jax.Array, sigma: jax.Array, target: jax.Array, valid: jax.Array, step: jax.Array, warmup: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scalar loss and metrics of predictions points (B,Q,2), sigma (B,Q) against target (B,Q,2) in [-1,1] of the crop.

    For the first `warmup` steps the points are trained at a fixed sigma and sigma beside them, so that places are
    learned before confidence; after it both follow the likelihood.
    """
    fixed = gaussian_nll(points, jnp.full_like(sigma, WARMUP_SIGMA), target)
    beside = gaussian_nll(jax.lax.stop_gradient(points), sigma, target)
    per_query = jnp.where(step < warmup, fixed + beside, gaussian_nll(points, sigma, target))
    distance = jnp.sqrt(((points - target) ** 2).sum(-1) + 1e-12)
    metrics = {"distance": masked_mean(distance, valid), "sigma": masked_mean(sigma, valid)}
    return masked_mean(per_query, valid), metrics


def training_loss(
    net: Continuous,
    settings: Any,
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    constants: Tree,
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """`System.loss` of a network: `detector_loss`, and `settings.attention` times the attention's where it has one.

    `settings` is config.loss; `batch` is of `data.preprocess_train`'s form. The attention is taught where the place
    lies in the crop.
    """
    del constants
    (points, sigma), changed = net.apply(
        {"params": params, **model_state},
        *(batch[name] for name in ("image", "queries", "valid")),
        train=True,
        rngs={"dropout": key},
        mutable=[*model_state, "intermediates"],
    )
    target, valid = batch["points"], batch["valid"]
    loss, measured = detector_loss(points, sigma, target, valid, step, settings.warmup)
    seen = changed.pop("intermediates", {})
    if seen:
        (log_attention,) = seen["predictor"]["log_attention"]
        height, width = (side // 8 for side in batch["image"].shape[1:3])
        looked = cross_entropy(log_attention.swapaxes(1, 2), cell_centers(height, width, 2.0) - 1, target, 2 / (height * width) ** 0.5)
        measured["attention"] = masked_mean(looked, valid & (abs(target) < 1).all(-1))
        loss += settings.attention * measured["attention"]
    return loss, (changed, measured)
