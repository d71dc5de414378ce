"""What files would determine: a configuration that needs none, and the shapes of a training batch."""

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.heads import sources, stand_ins
from jaxface.system import Batch

# Images of a person in a set, as `rendered_sets` has them.
PER_SET = 5
IMAGES = ("image", "skin")


def config(given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy in which a head without a file is a stand-in of its size."""
    filled = given.copy_and_resolve_references()
    if not filled.head.path and filled.head.name not in (sources.EMBEDDED, sources.RETIRED):
        filled.head.path = stand_ins.PATH
    return filled


def batch(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes of a training batch of `count` examples, as of `data.train_stream`."""
    size = config.model.image_size
    leading = (count, PER_SET) if config.model.confidence else (count,)
    shapes = {"image": (size, size, 3), "landmarks": (68, 2)}
    if config.model.num_dense_points and not config.model.confidence:
        shapes["dense"] = (config.model.num_dense_points, 2)
    if config.model.metric_size and not config.model.confidence:
        shapes["size_mm"] = ()
    if config.loss.attention != "none":
        shapes["skin"] = (size, size)
    types = {name: jnp.uint8 if name in IMAGES else jnp.float32 for name in shapes}
    return {name: jax.ShapeDtypeStruct((*leading, *shape), types[name]) for name, shape in shapes.items()}
