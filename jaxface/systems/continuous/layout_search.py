"""Template points of an unknown layout, found with a trained network that is kept fixed.

Each point starts at the template vertex whose answers are closest to its labels over all images, and is then moved by
gradient descent on the distance between answers and labels. With the layout's flip map the points are mirror-symmetric;
`is_symmetric` tests whether the labels are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxface.heads import canonical
from jaxface.layouts import MIRROR_X, mirror_symmetric
from jaxface.systems.continuous.model import Continuous

# Images that are used at most; 24 already suffice.
MAX_IMAGES = 96
STEPS = 150
# In template units (100 mm).
LEARNING_RATE = 0.01
# Template vertices among which the points start.
CANDIDATES = 600
# Scale in crop units beyond which a label's error counts linearly: a few wrong labels do not move a point.
HUBER = 0.02
BATCH = 16
# Labels are asymmetric if points without the constraint lower the error by more than this share, after the share
# OVERFIT / N that a point gains from its greater freedom with N images.
ASYMMETRY, OVERFIT = 0.03, 2.0


def find_points(
    net: Continuous,
    params: Any,
    model_state: Any,
    images: np.ndarray,
    points: np.ndarray,
    valid: np.ndarray,
    flip: np.ndarray,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Template points of a layout from labelled images.

    Args:
        net: the network.
        params: its parameters.
        model_state: its batch statistics.
        images: (N,S,S,3) crops, RGB in [0,1].
        points: (N,K,2) labels in `crop_units`.
        valid: (N,K) bool, labels that count.
        flip: (K,) flip map of the layout; empty if unknown.
        start: (K,3) initial points; None: `nearest_vertices`.

    Returns:
        template points (K,3), and the mean distance (K,) of the answers from the labels, in crop units.
    """
    variables = {"params": params, **model_state}
    encode = jax.jit(lambda batch: net.apply(variables, batch, method="encode"))
    features = jnp.concatenate([encode(batch) for batch in np.split(images, range(BATCH, len(images), BATCH))])
    target, counts = jnp.asarray(np.nan_to_num(points), jnp.float32), jnp.asarray(valid, jnp.float32)

    def answers(queries: jax.Array) -> jax.Array:
        asked = jnp.broadcast_to(queries, (len(features), *queries.shape))
        return net.apply(variables, features, asked, method="query")[0]

    def distances(queries: jax.Array) -> jax.Array:
        """Mean distance (K,) over the images in which a point is labelled, Huber."""
        error = jnp.sqrt(((answers(queries) - target) ** 2).sum(-1) + 1e-10)
        return (optax.losses.huber_loss(error, delta=HUBER) / HUBER * counts).sum(0) / jnp.maximum(counts.sum(0), 1)

    if start is None:
        start = nearest_vertices(net, variables, features, target, counts)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))

    def symmetric(queries: jax.Array) -> jax.Array:
        return mirror_symmetric(queries, flip).astype(jnp.float32) if len(flip) else queries

    def step(state: tuple, _: Any) -> tuple[tuple, None]:
        queries, moments = state
        gradient = jax.grad(lambda queries: distances(symmetric(queries)).sum())(queries)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(queries, updates), moments), None

    run = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS)[0][0])
    found = symmetric(run(jnp.asarray(start)))
    error = jnp.linalg.norm(answers(found) - target, axis=-1)
    return np.asarray(found), np.asarray((error * counts).sum(0) / jnp.maximum(counts.sum(0), 1))


def is_symmetric(symmetric_error: np.ndarray, free_error: np.ndarray, images: int) -> bool:
    """Whether labels in N images are symmetric, from the errors (K,) of points with and without the constraint."""
    reduced = free_error.mean() * (1 + OVERFIT / images)
    return bool(reduced > (1 - ASYMMETRY) * symmetric_error.mean())


def nearest_vertices(
    net: Continuous, variables: Any, features: jax.Array, target: jax.Array, counts: jax.Array
) -> np.ndarray:
    """For each point the template vertex (K,3) whose answers have the least mean distance from its labels.

    Args:
        net: the network.
        variables: its variables.
        features: (N,…) of the images.
        target: (N,K,2) labels.
        counts: (N,K) float32, 1 for labels that count.
    """
    vertices = canonical.queries("dense")
    vertices = vertices[:: max(1, len(vertices) // CANDIDATES)]
    vertices = np.unique(np.concatenate([vertices, vertices * np.float32(MIRROR_X)]), axis=0)

    def cost(single: tuple[jax.Array, ...]) -> jax.Array:
        """Distances (K,M) of the labels of an image from the answers for the vertices."""
        image_features, labels, labelled = single
        predicted = net.apply(variables, image_features[None], jnp.asarray(vertices)[None], method="query")[0][0]
        return jnp.linalg.norm(labels[:, None] - predicted, axis=-1) * labelled[:, None]

    total = jax.jit(lambda *arrays: jax.lax.map(cost, arrays).sum(0))(features, target, counts)
    return vertices[np.asarray(total.argmin(-1))]
