"""Noses that protrude more or less than those of a head's own identities.

The noses of morphable heads are flatter than those of people. In distances of the eyes, the tip lies 0.47 (embedded
head) and 0.56 (ICT-FaceKit) in front of the corners of eyes and mouth, and 0.60 in the mean of the Basel Face Model's
scans (the five points by which Deep3DFaceRecon aligns faces). A detector that has seen flat noses only answers the tips
of turned faces too near to the middle of the face.
"""

import jax
import jax.numpy as jnp

from jaxface.heads.morphable import MorphableHead
from jaxface.heads.skin import smoothstep

# Half of the width of the nose and its base that move fully, and at all, at the height of the eyes and at that of the
# mouth, in distances of the eyes.
FULL_WIDTH, LARGEST_WIDTH = (0.14, 0.32), (0.24, 0.58)
# Height above the upper end of the bridge at which nothing moves, in distances of the eyes.
ABOVE_BRIDGE = 0.3


def displacement(head: MorphableHead, amount: jax.Array) -> jax.Array:
    """Displacements (V,3) mm that make the nose protrude more by a share `amount` () of what it does.

    Bridge, tip, wings and the base above the upper lip move forwards, in proportion to their distance from the plane
    through the inner eye corners and the mouth corners; eyes, lips and cheeks stay.
    """
    template = jnp.asarray(head.template)
    points = head.landmark_points(template, "68")
    eyes, mouth = points[jnp.array([39, 42])].mean(0), points[jnp.array([48, 54])].mean(0)
    unit = jnp.linalg.norm(points[42:48].mean(0) - points[36:42].mean(0))
    x, y, z = template.T
    down = (eyes[1] - y) / (eyes[1] - mouth[1])
    protrusion = jnp.maximum(z - (eyes[2] + down * (mouth[2] - eyes[2])), 0.0)
    full, largest = (
        unit * jnp.interp(down, jnp.array([0.0, 1.0]), jnp.array(pair)) for pair in (FULL_WIDTH, LARGEST_WIDTH)
    )
    moved = smoothstep(abs(x), largest, full)
    moved *= smoothstep(y, points[27, 1] + ABOVE_BRIDGE * unit, points[27, 1])
    moved *= smoothstep(y, points[51, 1], points[33, 1])
    return jnp.zeros_like(template).at[:, 2].set(amount * moved * protrusion)
