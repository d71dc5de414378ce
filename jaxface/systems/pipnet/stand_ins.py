"""What data would determine: a configuration that needs none, and the shapes of a training batch."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface import prepared_data
from jaxface.system import Batch
from jaxface.systems.pipnet import meanface

# Landmarks of a data set of one's own.
LANDMARKS = 68


def config(given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy with landmarks on a circle as mean face, unless the first data set is prepared or rendered."""
    filled = given.copy_and_resolve_references()
    dataset, _ = prepared_data.parse_name(filled.data.datasets[0], "train")
    known = dataset.startswith(meanface.RENDERED) or prepared_data.newest_version(dataset, filled.data.dir) is not None
    if not len(filled.model.meanface) and not known:
        angle = 2 * np.pi * np.arange(filled.model.landmarks or LANDMARKS) / (filled.model.landmarks or LANDMARKS)
        circle = 0.5 + 0.4 * np.stack([np.cos(angle), np.sin(angle)], 1)
        filled.model.meanface = tuple(circle.ravel().tolist())
    return filled


def batch(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes of a training batch of `count` examples, as of `data.train_stream` and `self_training_data`."""
    size = config.model.image_size
    shapes = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "points": jax.ShapeDtypeStruct((count, config.model.landmarks, 2), jnp.float32),
    }
    if config.data.pseudo_labels and config.data.task != "std":
        shapes["task"] = jax.ShapeDtypeStruct((count,), jnp.int32)
    return shapes
