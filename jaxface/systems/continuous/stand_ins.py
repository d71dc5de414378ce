"""What data would determine: a configuration that needs none, and the shapes of a training batch."""

import jax
import jax.numpy as jnp
import ml_collections

from jaxface.heads import sources, stand_ins
from jaxface.layouts import LAYOUTS
from jaxface.system import Batch
from jaxface.systems.continuous import query_table

# Layouts of published data sets whose landmarks are not those of REFERENCE.
LAYOUT_OF = {"wflw": "98", "cofw": "29", "aflw": "19", "lapa": "106", "face_synthetics": "70"}
REFERENCE = "68"


def config(given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy in which data sets that are not prepared have their published layouts, and absent heads stand-ins."""
    filled = given.copy_and_resolve_references()
    entries = dict(filled.get("layouts", {}))
    for name in map(query_table.dataset_name, (*filled.data.datasets, *filled.data.evaluate)):
        if query_table.layout_name(name, filled.data.dir) is None:
            base, _, variant = name.partition("/")
            layout = variant if variant in LAYOUTS else LAYOUT_OF.get(base, REFERENCE)
            entries.setdefault(query_table.entry_key(name), {"name": layout})
    with filled.unlocked():
        filled.layouts = entries
    if filled.data.endless and not filled.head.path and set(filled.head.names) - {sources.EMBEDDED, sources.RETIRED}:
        filled.head.path = stand_ins.PATH
    return filled


def batch(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes of a training batch of `count` examples, as of `data.train_stream`."""

    def array(*shape: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    if config.data.endless:
        return {"index": array(dtype=jnp.int32)}
    size, queries = (
        config.model.image_size,
        query_table.batch_width([_queries(config, n) for n in config.data.datasets]),
    )
    return {
        "image": array(size, size, 3, dtype=jnp.uint8),
        "queries": array(queries, 3),
        "points": array(queries, 2),
        "valid": array(queries, dtype=jnp.bool_),
        "asked": array(queries, dtype=jnp.bool_),
        "dataset": array(dtype=jnp.int32),
        "mirrored": array(dtype=jnp.bool_),
    }


def _queries(config: ml_collections.ConfigDict, name: str) -> int:
    """Queries of an example of a data set: its landmarks, and surface points where its labels are dense."""
    dataset = query_table.dataset_name(name)
    entry = config.layouts[query_table.entry_key(dataset)]
    count = len(entry["points"]) if "points" in entry else len(LAYOUTS[entry["name"]].flip)
    dense = dataset.partition("/")[0] in query_table.EXACT
    return count + (config.data.num_surface_samples if dense else 0)
