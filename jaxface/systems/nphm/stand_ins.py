"""What data would determine: a configuration that needs none, and the shapes of a training batch."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.system import Batch
from jaxface.systems.nphm import model

ANCHORS = 39
# Codes where the data set is not prepared: people and scans of NPHM's training set.
PEOPLE, SCANS = 255, 5000
NUMBERS = ("subject", "expression", "scan")
# The published identity model, which an expression model deforms unless it names another.
IDENTITY = {
    "kind": "ensemble",
    "anchors": (),
    "pairs": 16,
    "global_code": 64,
    "local_code": 32,
    "width": 200,
    "layers": 4,
    "position_width": 256,
    "narrow_skip": True,
    "codes": 0,
    "replicate_last_point_bug": False,
}
# The published baseline's, which has no anchors.
NPM_IDENTITY = {**IDENTITY, "kind": "single", "code": 512, "width": 1024, "layers": 8}


def config(given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy with the anchors and numbers of codes of the prepared data set, or of the published size.

    An expression model that names no identity model gets a random one of the published size.
    """
    filled = given.copy_and_resolve_references()
    if filled.phase == "expression" and not filled.identity and not filled.random_identity:
        with filled.unlocked():
            filled.random_identity = IDENTITY if filled.model.compressed else NPM_IDENTITY
    filled = model.resolve(filled)
    parts = [filled.model] if filled.phase == "identity" else [filled.random_identity]
    for part in parts:
        if part and part.kind == "ensemble" and not part.anchors:
            part.anchors = tuple(np.random.default_rng(0).normal(0, 0.3, 3 * ANCHORS).tolist())
        if part and not part.codes:
            part.codes = PEOPLE
    filled.model.codes = filled.model.codes or SCANS
    return filled


def batch(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes of a training batch of `count` examples, as of `data.identity_stream` and `data.expression_stream`."""
    data = config.data
    if config.phase == "identity":
        points = {"face_points": data.face, "face_normals": data.face}
        points |= {"nonface_points": data.nonface, "nonface_normals": data.nonface, "anchors": ANCHORS}
        numbers = NUMBERS[:1]
    else:
        points, numbers = {"neutral": data.pairs, "posed": data.pairs}, NUMBERS
    return {
        **{name: jax.ShapeDtypeStruct((count, size, 3), jnp.float32) for name, size in points.items()},
        **{name: jax.ShapeDtypeStruct((count,), jnp.int32) for name in numbers},
    }
