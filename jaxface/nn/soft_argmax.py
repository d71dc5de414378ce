"""Soft-argmax: expectation and moments under an attention over map cells, and its heat-map loss.

The expected position under a softmax over cells is a differentiable argmax (integral regression, Sun et al., ECCV
2018). A heat-map loss on the same softmax trains it much faster than the gradient through that expectation.

Shapes: B images, K points, T = height * width cells row by row, D position coordinates, C channels. `axis` is the axis
of the cells in an attention: -1 for (B,K,T), the scores of K queries, or 1 for (B,T,K), a map of K channels.
"""

import jax
import jax.numpy as jnp


def cell_centers(height: int, width: int, extent: float = 1.0) -> jax.Array:
    """Centres (T,2) of the cells as x (right), y (down), for a map that covers [0, extent] on both axes."""
    x, y = ((jnp.arange(count) + 0.5) * extent / count for count in (width, height))
    return jnp.stack(jnp.meshgrid(x, y), -1).reshape(-1, 2)


def expectation(attention: jax.Array, values: jax.Array, axis: int = -1) -> jax.Array:
    """Expected value (B,K,C) of cell values (T,C) or (B,T,C) under an attention, which sums to 1 over `axis`.

    With `cell_centers` as values this is the soft-argmax.
    """
    if axis == 1:
        return jnp.einsum("btk,btc->bkc", attention, jnp.broadcast_to(values, (attention.shape[0], *values.shape[-2:])))
    return attention @ values


def moments(
    attention: jax.Array, positions: jax.Array, features: jax.Array, axis: int = -1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and covariance of the position, and mean of the features, under an attention.

    Args:
        attention: (B,K,T) or (B,T,K), sums to 1 over `axis`.
        positions: (T,D) position of each cell, centred near 0: the covariance is a difference of squares, which cancel.
        features: (B,T,C).
        axis: axis of the cells in `attention`.

    Returns:
        Mean position (B,K,D); its covariance (B,K,D,D), in squared units of `positions`; mean features (B,K,C).
    """
    cells, dimensions = positions.shape
    products = (positions[:, :, None] * positions[:, None]).reshape(cells, -1)
    monomials = jnp.concatenate([positions, products], -1)
    monomials = jnp.broadcast_to(monomials, (attention.shape[0], *monomials.shape))
    expected = expectation(attention, jnp.concatenate([monomials, features], -1), axis)
    mean, second_moment, mean_features = jnp.split(expected, [dimensions, dimensions + dimensions**2], axis=-1)
    covariance = second_moment.reshape(*mean.shape, dimensions) - mean[..., None] * mean[..., None, :]
    return mean, covariance, mean_features


def cross_entropy(
    log_attention: jax.Array, centers: jax.Array, target: jax.Array, std: jax.Array | float, axis: int = -1
) -> jax.Array:
    """Cross-entropy (B,K) of an attention with a Gaussian heat map around each target.

    Args:
        log_attention: (B,K,T) or (B,T,K), log-probabilities of the cells.
        centers: (T,2) centres of the cells.
        target: (B,K,2) positions in the same unit.
        std: standard deviation of the Gaussian in the same unit. The heat map is normalised over the cells.
        axis: axis of the cells in `log_attention`.
    """
    if axis == 1:
        squared_distance = ((target[:, None] - centers[:, None]) ** 2).sum(-1)
    else:
        squared_distance = ((target[..., None, :] - centers) ** 2).sum(-1)
    heat_map = jax.nn.softmax(-squared_distance / (2 * std**2), axis=axis)
    return -(heat_map * log_attention).sum(axis)
