"""Canonical template for 3D queries: the embedded head with its mouth half open, in units of 100 mm.

The mouth is open so that coordinates distinguish the upper from the lower lip. Other heads are registered to the
template by a smooth warp that maps their landmarks to the canonical ones, so that a query denotes the same point on
every head. The template is mirror-symmetric: mirroring an image negates the x of its queries.
"""

import functools
from collections.abc import Callable

import numpy as np
import scipy.interpolate

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads.morphable import TRANSPARENT, MorphableHead
from jaxface.heads.sources import EMBEDDED, RETIRED, load_head
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
    if head.name == EMBEDDED:
        return (vertices / MM_PER_UNIT).astype(np.float32)
    return _register(head, load_head(EMBEDDED))(vertices / MM_PER_UNIT)


def _register(source: MorphableHead, target: MorphableHead) -> Callable[[np.ndarray], np.ndarray]:
    """Map of points (N,3) in template units from one open-mouthed head to another: a similarity, then a spline.

    The spline interpolates displacements: far from the landmarks it tends to a translation and keeps the shape.
    """
    anchors, wanted = (_anchors(head, _with_open_mouth(head)) / MM_PER_UNIT for head in (source, target))
    scale, rotation, translation = alignment.similarity(anchors, wanted)
    aligned = scale * anchors @ rotation.T + translation
    aligned, first = np.unique(aligned.round(6), axis=0, return_index=True)
    displacement = scipy.interpolate.RBFInterpolator(
        aligned, wanted[first] - aligned, kernel="linear", smoothing=SMOOTHING / MM_PER_UNIT
    )

    def warp(points: np.ndarray) -> np.ndarray:
        points = scale * points @ rotation.T + translation
        return (points + displacement(points)).astype(np.float32)

    return warp


@functools.cache
def _to_retired() -> Callable[[np.ndarray], np.ndarray]:
    return _register(load_head(EMBEDDED), load_head(RETIRED))


def in_template(points: np.ndarray, template: str) -> np.ndarray:
    """Template points (N,3) in the coordinates of an earlier template, for models that were trained on it.

    `template` is "makehuman" (the points are returned as they are) or "procedural". Raises UserError for another name.
    """
    if template == EMBEDDED:
        return points
    if template == RETIRED:
        return _to_retired()(points)
    raise UserError(
        f"config.model.template is {template!r}; use {EMBEDDED!r}, or {RETIRED!r} for models of version 0.1"
    )


@functools.cache
def _reference() -> tuple[MorphableHead, np.ndarray]:
    """The embedded head and its canonical vertices (V,3)."""
    head = load_head(EMBEDDED)
    return head, canonical_vertices(head)


def layout_names() -> list[str]:
    """Names that `queries` accepts: landmark layouts, `dense` and the regions of the embedded head."""
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
