"""Which of the 52 ARKit face units of a blend shape head go together, so that random expressions do not tear a face."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads.morphable import Array, MorphableHead

_OPPOSITE_OF_A_SIDE = (
    ("mouthSmile", "mouthFrown"),
    ("browDown", "browOuterUp"),
    ("eyeLookUp", "eyeLookDown"),
    ("eyeLookIn", "eyeLookOut"),
    ("eyeBlink", "eyeWide"),
)
# Face units of opposite meaning.
OPPOSITE = (
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
    *((f"{one}_{side}", f"{other}_{side}") for side in "LR" for one, other in _OPPOSITE_OF_A_SIDE),
)
# Landmarks of layout "68" that lie above each other: on the upper and lower lids, and on the inner edges of the lips.
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
LIPS = ((61, 67), (62, 66), (63, 65))
# Overlap of closed lids and of pressed lips.
OVERLAP_MM = 0.6
# A unit that brings two such landmarks this much closer is one that closes.
CLOSING_MM = 0.5


def compatible(weights: jax.Array, head: MorphableHead, identity: Array) -> jax.Array:
    """Weights (E,) of which opposite units cancel, and those that close an eye or the mouth do not close it further.

    Args:
        weights: (E,) in [0,1], one for each expression of `head`.
        head: a head with face units, and landmarks of layout "68".
        identity: (I,) coefficients of the person.
    """
    index = {name: i for i, name in enumerate(head.expression_names)}
    for pair in (pair for pair in OPPOSITE if pair[0] in index and pair[1] in index):
        both = np.array([index[name] for name in pair])
        weights = weights.at[both].add(-weights[both].min())
    above, below = np.array(LIDS + LIPS).T

    def opening(vertices: Array) -> Array:
        height = head.landmark_points(vertices[..., 1:2], "68")[..., 0]
        return height[..., above] - height[..., below]

    by_unit = opening(head.expression)
    closes = by_unit < -CLOSING_MM
    # By how much the closing units may bring the pairs (P,) closer, and by how much they do.
    allowed = opening(head.template) + identity @ opening(head.identity) + weights @ jnp.where(closes, 0.0, by_unit)
    closed = -weights @ jnp.where(closes, by_unit, 0.0)
    share = jnp.clip((jnp.maximum(allowed, 0.0) + OVERLAP_MM) / jnp.maximum(closed, 1e-6), 0.0, 1.0)
    return weights * jnp.where(closes, share, 1.0).min(-1)
