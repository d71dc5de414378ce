"""What data would determine: nothing of the configuration, and the shapes of a training batch."""

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.system import Batch


def config(given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration, which needs no data."""
    return given.copy_and_resolve_references()


def batch(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes of a training batch of `count` examples, as of `data.train_stream`."""
    size, points = config.model.image_size, config.model.points
    return {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "coordinates": jax.ShapeDtypeStruct((count, points, 3), jnp.float32),
        "valid": jax.ShapeDtypeStruct((count, points), jnp.bool_),
        "in_volume": jax.ShapeDtypeStruct((count, points), jnp.bool_),
    }
