"""Canonical template for 3D queries: the procedural head with its mouth half open, in units of 100 mm.

The mouth is open so that coordinates distinguish the upper from the lower lip. Other heads are registered to the
template by a smooth warp that maps their landmarks to the canonical ones, so that a query denotes the same point on
every head. The template is mirror-symmetric: mirroring an image negates the x of its queries.
"""

import functools

import numpy as np
import scipy.interpolate

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads.morphable import TRANSPARENT, MorphableHead
from jaxface.heads.procedural import procedural_head
from jaxface.layouts import LAYOUTS, REFERENCES

MM_PER_UNIT = 100.0
# Weight of the expression jawOpen in the template.
JAW_OPEN = 0.5
# Smoothing of the registration spline (`scipy.interpolate.RBFInterpolator`).
SMOOTHING = 1e-2


def _with_open_mouth(head: MorphableHead) -> np.ndarray:
    """Vertices (V,3) mm of the mean head with half-open mouth."""
    weights = head.expression_weights(jawOpen=JAW_OPEN)
    return head.template + np.tensordot(weights, head.expression, 1)


def _anchors(head: MorphableHead, vertices: np.ndarray) -> np.ndarray:
    """Corresponding points (166,3) for the registration of two heads: the 68 and 98 landmarks."""
    return np.concatenate([np.asarray(head.landmark_points(vertices, layout)) for layout in ("68", "98")])


def canonical_vertices(head: MorphableHead) -> np.ndarray:
    """Canonical coordinates (V,3) float32, in template units, of each vertex of `head`.

    The open-mouthed head is aligned by a similarity, then warped by the biharmonic spline (kernel r) that maps its 68
    and 98 landmarks to the canonical ones.
    """
    vertices = _with_open_mouth(head)
    reference = procedural_head()
    if head.name == reference.name:
        return (vertices / MM_PER_UNIT).astype(np.float32)
    source, target = _anchors(head, vertices), _anchors(reference, _with_open_mouth(reference))
    scale, rotation, translation = alignment.similarity(source, target)
    vertices, source = (scale * points @ rotation.T + translation for points in (vertices, source))
    source, first = np.unique(source.round(4), axis=0, return_index=True)
    warp = scipy.interpolate.RBFInterpolator(source, target[first], kernel="linear", smoothing=SMOOTHING)
    return (warp(vertices) / MM_PER_UNIT).astype(np.float32)


@functools.cache
def _reference() -> tuple[MorphableHead, np.ndarray]:
    """The procedural head and its canonical vertices (V,3)."""
    head = procedural_head()
    return head, canonical_vertices(head)


def layout_names() -> list[str]:
    """Names that `queries` accepts: landmark layouts, `dense` and the regions of the procedural head."""
    head, _ = _reference()
    return [*LAYOUTS, "dense", *(name for name in head.regions if name != TRANSPARENT)]


def queries(layout: str) -> np.ndarray:
    """Template points (N,3) float32 of a landmark layout, of `dense` (the whole face) or of a named region.

    Raises UserError for an unknown name, listing the valid ones.
    """
    head, vertices = _reference()
    if layout in LAYOUTS:
        return _layout_points(layout)
    region = "face" if layout == "dense" else layout
    if region not in head.regions or region == TRANSPARENT:
        raise UserError(f"unknown layout {layout!r}; choose one of {', '.join(layout_names())} or give (N,3) points")
    return vertices[np.asarray(head.regions[region])]


@functools.cache
def _layout_points(layout: str) -> np.ndarray:
    """Template points (K,3) of a landmark layout: of the reference head itself, or by the recipe of the layout."""
    head, vertices = _reference()
    references = {name: np.asarray(head.landmark_points(vertices, name), np.float32) for name in REFERENCES}

    def to_skin(points: np.ndarray) -> np.ndarray:
        triangles = np.asarray(head.triangles)
        on_face = np.asarray(head.regions["face"])[triangles].all(axis=1)
        return SurfaceQuery(vertices, triangles[on_face]).closest(points)[0]

    points = LAYOUTS[layout].template_points(references, to_skin).astype(np.float32)
    points.setflags(write=False)
    return points
