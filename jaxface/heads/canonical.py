"""Canonical template for 3D queries: the embedded head with its mouth half open, in units of 100 mm.

The mouth is open so that coordinates distinguish the upper from the lower lip. Other heads are registered to the
template by a smooth warp that maps their landmarks to the canonical ones, and by the shapes of their other regions
(`region_registration`), so that a query denotes the same point on every head. The template is mirror-symmetric:
mirroring an image negates the x of its queries.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.interpolate

from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.geometry.surface import SurfaceQuery, fit_sphere
from jaxface.heads import region_registration
from jaxface.heads.morphable import TRANSPARENT, MorphableHead
from jaxface.heads.sources import EMBEDDED, RETIRED, load_head
from jaxface.layouts import LAYOUTS, REFERENCES

MM_PER_UNIT = 100.0
# Weight of the expression jawOpen in the template.
JAW_OPEN = 0.5
# Smoothing of the registration spline (`scipy.interpolate.RBFInterpolator`).
SMOOTHING = 1e-2
# Name of the points inside the head that `joint_weights` defines.
JOINTS = "joints"
# Depth of the joints of the jaw under the ends of the jaw line, as a share of the distance between these.
JAW_JOINT_DEPTH = 0.15


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
    and 98 landmarks to the canonical ones. Regions outside the face follow `region_registration`.
    """
    vertices = _with_open_mouth(head)
    if head.name == EMBEDDED:
        return (vertices / MM_PER_UNIT).astype(np.float32)
    target, template = _reference()
    aligned = _register(head, target)(vertices / MM_PER_UNIT)
    return region_registration.place_regions(head, aligned, target, template, MM_PER_UNIT)


def shared_regions(head: MorphableHead, regions: Sequence[str]) -> tuple[str, ...]:
    """Those of `regions` that the head has and whose points have known places on the template."""
    present = [name for name in regions if name in head.regions and np.asarray(head.regions[name]).any()]
    return tuple(name for name in present if head.name == EMBEDDED or name in region_registration.REGISTERED)


def has_joints(head: MorphableHead) -> bool:
    """Whether the head has what `joint_weights` needs, both eyeballs."""
    return all(np.asarray(head.regions[f"eyeball_{side}"]).any() for side in "LR")


def joint_weights(head: MorphableHead) -> np.ndarray:
    """Weights (4,V) float32 that give the joints of a head from its vertices: points inside it, on no surface.

    The centres of the eyeballs, left and right, which are the centres of spheres on the template and follow linear
    movements of the vertices, and the joints of the jaw, left and right, which lie inwards from the ends of the
    jaw line (landmarks 16 and 0 of the layout 68).
    """
    weights = np.zeros((4, len(head.template)))
    for row, name in enumerate(("eyeball_L", "eyeball_R")):
        inside = np.asarray(head.regions[name])
        points = np.asarray(head.template, np.float64)[inside]
        centered = points - points.mean(0)
        towards = np.linalg.solve(centered.T @ centered, fit_sphere(points)[0] - points.mean(0))
        weights[row, inside] = 1 / len(points) + centered @ towards
    index, corners = map(np.asarray, head.landmarks["68"])
    for row, (near, far) in enumerate(((16, 0), (0, 16)), start=2):
        np.add.at(weights[row], index[near], (1 - JAW_JOINT_DEPTH) * corners[near])
        np.add.at(weights[row], index[far], JAW_JOINT_DEPTH * corners[far])
    return weights.astype(np.float32)


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


def region_names() -> list[str]:
    """The regions of the embedded head that have queries, and `joints`."""
    head, _ = _reference()
    return [*(name for name in head.regions if name != TRANSPARENT), JOINTS]


def layout_names() -> list[str]:
    """Names that `queries` accepts: landmark layouts, `dense` and the regions of the embedded head."""
    return [*LAYOUTS, "dense", *region_names()]


def covers(regions: Sequence[str], name: str) -> bool:
    """Whether all points of the region `name`, or of `dense`, lie in `regions`: the lips are covered by the face."""
    head, _ = _reference()
    name = "face" if name == "dense" else name
    if name in regions or name == JOINTS:
        return name in regions
    union = np.logical_or.reduce([np.asarray(head.regions[one]) for one in regions if one != JOINTS])
    return bool((union | ~np.asarray(head.regions[name])).all())


def queries(layout: str) -> np.ndarray:
    """Template points (N,3) float32 of a landmark layout, of `dense` (the whole face), a named region or `joints`.

    Raises UserError for an unknown name, listing the valid ones.
    """
    head, vertices = _reference()
    if layout in LAYOUTS:
        return _layout_points(layout)
    if layout == JOINTS:
        return (joint_weights(head) @ vertices).astype(np.float32)
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
