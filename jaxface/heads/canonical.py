"""The canonical face that queries live on: the procedural head with its mouth half open, in units of 100 mm.

The mouth is open because a coordinate must tell the upper lip from the lower one. Any other head is brought onto it by
a smooth warp that takes its landmarks to the canonical ones, so that a query means the same place on every head. The
face is mirror-symmetric: the query of a mirrored picture is the query with x negated.
"""

import functools

import numpy as np
import scipy.interpolate

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads.morphable import TRANSPARENT, MorphableHead
from jaxface.heads.procedural import procedural_head

MM_PER_UNIT = 100.0
JAW_OPEN = 0.5
SMOOTHING = 1e-2


def _open_mouthed(head: MorphableHead) -> np.ndarray:
    weights = head.expression_weights(jawOpen=JAW_OPEN)
    return head.template + np.tensordot(weights, head.expression, 1)


def _anchors(head: MorphableHead, vertices: np.ndarray) -> np.ndarray:
    """The points (166,3) that tie two heads together: both landmark layouts."""
    return np.concatenate([np.asarray(head.landmark_points(vertices, layout)) for layout in ("68", "98")])


def canonical(head: MorphableHead) -> np.ndarray:
    """The place (V,3) float32 of each vertex of `head` on the canonical face, in template units.

    Its open-mouthed template is moved by a similarity, then by the biharmonic spline (in space: the kernel r) that
    takes its 68 and 98 points to the canonical ones.
    """
    own = _open_mouthed(head)
    reference = procedural_head()
    if head.name == reference.name:
        return (own / MM_PER_UNIT).astype(np.float32)
    source, target = _anchors(head, own), _anchors(reference, _open_mouthed(reference))
    scale, rotation, translation = alignment.similarity(source, target)
    own, source = (scale * points @ rotation.T + translation for points in (own, source))
    source, first = np.unique(source.round(4), axis=0, return_index=True)
    warp = scipy.interpolate.RBFInterpolator(source, target[first], kernel="linear", smoothing=SMOOTHING)
    return (warp(own) / MM_PER_UNIT).astype(np.float32)


@functools.cache
def _reference() -> tuple[MorphableHead, np.ndarray]:
    head = procedural_head()
    return head, canonical(head)


def layout_names() -> list[str]:
    """What `queries` knows: landmark layouts, `dense` and the region names of the embedded head."""
    head, _ = _reference()
    return [*head.landmarks, "dense", *(name for name in head.regions if name != TRANSPARENT)]


def queries(layout: str) -> np.ndarray:
    """Template points (N,3) float32 of a landmark layout, of `dense` (the whole face) or of a named region.

    UserError lists the names there are.
    """
    head, vertices = _reference()
    if layout in head.landmarks:
        return np.asarray(head.landmark_points(vertices, layout), np.float32)
    region = "face" if layout == "dense" else layout
    if region not in head.regions or region == TRANSPARENT:
        raise UserError(f"unknown layout {layout!r}; choose one of {', '.join(layout_names())} or give (N,3) points")
    return vertices[np.asarray(head.regions[region])]
