"""Registration of another head to the embedded one outside the face: ears, skull, neck, eyeballs and teeth.

The landmarks register the face (`canonical`) and say little about what is far from them: ICT's ears end up 2 cm in
front of the template's. Here each kind of region is registered by its own shape. All coordinates are template units.
"""

import numpy as np
import scipy.interpolate
import scipy.spatial

from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.surface import SurfaceQuery, fit_sphere
from jaxface.heads.closed import BELOW, skin_vertices
from jaxface.heads.morphable import MorphableHead
from jaxface.layouts import REFERENCES

# Regions that are placed on the template here or by the landmarks; what lies inside the mouth otherwise is not.
REGISTERED = (
    "face", "lips", "lids", "nose", "brows_L", "brows_R", "ears", "neck", "scalp", "teeth",
    "eyeball_L", "eyeball_R", "iris_L", "iris_R",
)  # fmt: skip
# Numbers of vertices at which the skin is held on the face, moved with an ear, and drawn to the template's skin.
FACE_ANCHORS, EAR_ANCHORS, SKIN_ANCHORS = 240, 80, 320
# Skin closer to an ear than this follows the ear.
EAR_REACH = 0.08
ICP_STEPS, SKIN_STEPS = 30, 4
SMOOTHING = 1e-4
# A tooth belongs to the lower row if the open jaw moves it by more than this share of the largest movement.
LOWER_ROW = 0.3


def place_regions(
    head: MorphableHead, aligned: np.ndarray, target: MorphableHead, template: np.ndarray, mm_per_unit: float
) -> np.ndarray:
    """Template coordinates (V,3) of the vertices of `head`, corrected outside the face.

    Args:
        head: the head to be registered.
        aligned: (V,3) its vertices as the landmarks place them; the vertices of the face keep these places.
        target: the embedded head.
        template: (W,3) its vertices.
        mm_per_unit: millimetres of a template unit.
    """
    placed = np.array(aligned, np.float64)
    skin = skin_vertices(head)
    face = np.asarray(head.regions["face"])
    outside = skin & ~face
    if outside.any():
        placed[outside] += _skin_warp(head, placed, target, template)(placed[outside])
    for name in ("eyeball_L", "eyeball_R"):
        ball, wanted = (np.asarray(each.regions[name]) for each in (head, target))
        if ball.any() and wanted.any():
            placed[ball] = _on_eyeball(np.asarray(head.template)[ball] / mm_per_unit, template[wanted])
    for source_row, target_row in zip(_tooth_rows(head), _tooth_rows(target), strict=True):
        if source_row.any() and target_row.any():
            lower = template[target_row, 1].mean() < template[np.asarray(target.regions["teeth"]), 1].mean()
            placed[source_row] = _on_row(placed[source_row], template[target_row], lower)
    return placed.astype(np.float32)


def _spline(sources: np.ndarray, places: np.ndarray) -> scipy.interpolate.RBFInterpolator:
    """The displacement (N,3) of points (N,3) that moves `sources` (A,3) to `places` (A,3): biharmonic, kernel r."""
    return scipy.interpolate.RBFInterpolator(sources, places - sources, kernel="linear", smoothing=SMOOTHING)


def _skin_warp(
    head: MorphableHead, aligned: np.ndarray, target: MorphableHead, template: np.ndarray
) -> scipy.interpolate.RBFInterpolator:
    """The displacement of the skin outside the face to the template's: non-rigid ICP, held at face and landmarks.

    The ears come first, each by a similarity, so that what surrounds them starts near its place.
    """
    face, ears, skin = np.asarray(head.regions["face"]), np.asarray(head.regions["ears"]), skin_vertices(head)
    landmarks = [np.asarray(head.landmark_points(aligned, layout)) for layout in REFERENCES]
    fixed = np.concatenate([*landmarks, _spread(aligned[face & skin], FACE_ANCHORS)])
    fixed = np.unique(fixed.round(6), axis=0)
    sources, places = [fixed], [fixed]
    for side in (-1, 1):
        ear = aligned[ears & (side * aligned[:, 0] > 0)]
        if len(ear):
            sources.append(_spread(ear, EAR_ANCHORS))
            places.append(_ear_places(ear, sources[-1], target, template, side))
    rest = aligned[skin & ~face & ~ears]
    if ears.any():
        rest = rest[scipy.spatial.cKDTree(aligned[ears]).query(rest)[0] > EAR_REACH]
    rest = _spread(rest, SKIN_ANCHORS)
    surface = _surface(target, template, _outer_skin(target) & ~np.asarray(target.regions["ears"]))
    warp = _spline(np.concatenate(sources), np.concatenate(places))
    for _ in range(SKIN_STEPS):
        on_skin = surface.closest(rest + warp(rest))[0]
        warp = _spline(np.concatenate([*sources, rest]), np.concatenate([*places, on_skin]))
    return warp


def _spread(points: np.ndarray, count: int) -> np.ndarray:
    """At most `count` distinct points of (N,3), spread over their order."""
    points = np.unique(np.asarray(points, np.float64).round(6), axis=0)
    if len(points) <= count:
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, count).round().astype(int))]


def _outer_skin(head: MorphableHead) -> np.ndarray:
    """Mask (V,) of the skin with the shoulders, on which another head's neck may end."""
    skin = skin_vertices(head)
    return skin | np.asarray(head.regions[BELOW]) if BELOW in head.regions else skin


def _surface(head: MorphableHead, vertices: np.ndarray, inside: np.ndarray) -> SurfaceQuery:
    triangles = np.asarray(head.triangles)
    return SurfaceQuery(vertices, triangles[inside[triangles].all(1)])


def _ear_places(
    ear: np.ndarray, points: np.ndarray, target: MorphableHead, template: np.ndarray, side: int
) -> np.ndarray:
    """Places (P,3) of points (P,3) of an ear (N,3) on the template's ear: ICP with a similarity, then projected."""
    wanted = np.asarray(target.regions["ears"]) & (side * template[:, 0] > 0)
    surface = _surface(target, template, wanted)

    def middle(points: np.ndarray) -> np.ndarray:
        return (points.min(0) + points.max(0)) / 2

    def match(transform: Similarity) -> tuple[np.ndarray, np.ndarray]:
        moved = transform(points)
        return moved, surface.closest(moved)[0]

    start = Similarity(1.0, np.eye(3), middle(template[wanted]) - middle(ear))
    return surface.closest(icp.icp(start, match, icp.procrustes, ICP_STEPS)(points))[0]


def _on_eyeball(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places (N,3) of an eyeball's points (N,3), not aligned, on the eyeball with the points (M,3).

    Both look along z. The pole keeps distances, so that irises of one radius coincide although the balls differ in
    size; the equator goes to the equator.
    """
    center, radius = fit_sphere(points)
    target_center, target_radius = fit_sphere(wanted)
    offset = points - center
    distance = np.linalg.norm(offset, axis=1, keepdims=True)
    direction = offset * [radius / target_radius, radius / target_radius, 1.0]
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    return target_center + target_radius * distance / radius * direction


def _tooth_rows(head: MorphableHead) -> tuple[np.ndarray, np.ndarray]:
    """Masks (V,) of the upper and of the lower row of teeth, which the jaw moves; empty for a head without teeth."""
    teeth = np.asarray(head.regions.get("teeth", np.zeros(len(head.template), bool)))
    moved = np.linalg.norm(np.tensordot(head.expression_weights(jawOpen=1.0), head.expression, 1), axis=1)
    lower = teeth & (moved > LOWER_ROW * moved[teeth].max(initial=0.0))
    return teeth & ~lower, lower


def _on_row(points: np.ndarray, wanted: np.ndarray, lower: bool) -> np.ndarray:
    """Places (N,3) of a row of teeth (N,3) on that with the points (M,3): same width, front and biting edge."""

    def anchor(row: np.ndarray) -> np.ndarray:
        middle = (row[:, 0].min() + row[:, 0].max()) / 2
        return np.array([middle, row[:, 1].max() if lower else row[:, 1].min(), row[:, 2].max()])

    return anchor(wanted) + np.ptp(wanted[:, 0]) / np.ptp(points[:, 0]) * (points - anchor(points))
