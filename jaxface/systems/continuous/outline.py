"""Contour points on the visible outline of the face, as annotators place them.

A template point is fixed on the head, but the outline of a turned face lies farther back on the near side, and on the
cheek on the far side. Each contour point of the cheeks therefore has a line of template points at its height, from the
cheek back to the ear, and is placed at the outermost of their answers: landmark marching, Zhu et al., "High-Fidelity
Pose and Expression Normalization for Face Recognition in the Wild", CVPR 2015. Near profile, where the far outline is
that of nose and lips, points of the far side stay where they are on the head.
"""

import dataclasses
import functools

import numpy as np

from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads import canonical
from jaxface.heads.sources import EMBEDDED, load_head
from jaxface.layouts import LAYOUT_68, LAYOUTS, MIRROR_X, Layout
from jaxface.systems.continuous import depth_test
from jaxface.systems.continuous.network import Answer
from jaxface.systems.continuous.template_surface import region_mask

# Regions of the skin on which the lines run; a model that was not trained on all of them has no outlines.
SKIN = ("face", "neck", "scalp")
# Points of the jaw of the layout 68 that have lines, on the subject's right, and how much lower than its template point
# each line lies: by the mean face of 300-W that PIPNet publishes, against the frontal template. In units of 100 mm.
LOWER = {0: 0.040, 1: 0.027, 2: 0.020, 3: 0.009, 4: -0.009}
JAW_POINTS = 17
# Template points of a line in front of and behind its contour point, their distance, and the distance by which a step
# back leads outwards, so that it stays on the skin. The far outline of a head turned by 50° is at the front ends, and
# the points of all lines of the layout 68 fit into the smallest of `network.QUERY_SIZES`.
IN_FRONT, BEHIND, STEP, OUTWARDS = 5, 1, 0.12, 0.013
# Angles between line of sight and median plane: up to the first a contour point may be in front of its template point,
# from the second on it is not; between them the two answers are mixed.
TURN_RAD = np.deg2rad([45.0, 55.0])
# Width of the choice in distances between the eyes: the answer moves along its line without jumps.
SOFTNESS = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """The lines of a layout.

    Attributes:
        layout: the layout of K points.
        points: (J,) indices of its contour points.
        lines: (J,M,3) template points.
    """

    layout: Layout
    points: np.ndarray
    lines: np.ndarray

    def moved(self, queries: np.ndarray, answer: Answer, lines: Answer) -> tuple[np.ndarray, Answer]:
        """The template points of the layout and their answers for one face, with contour points on the outline.

        Args:
            queries: (K,3), the layout's own template points.
            answer: points (K,2) and sigma (K,) px for them.
            lines: points (J*M,2) and sigma (J*M,) px for `lines`.
        """
        points, sigma = (one.reshape(*self.lines.shape[:2], *one.shape[1:]) for one in lines)
        weights = self._weights(queries, answer, points)
        replaced = []
        for own, line in ((queries, self.lines), (answer[0], points), (answer[1], sigma)):
            own = own.copy()
            own[self.points] = np.einsum("jm,jm...->j...", weights, line)
            replaced.append(own)
        return replaced[0], (replaced[1], replaced[2])

    def _weights(self, queries: np.ndarray, answer: Answer, points: np.ndarray) -> np.ndarray:
        """The weights (J,M) of the points of each line, of sum 1: nearly 1 for the outermost.

        Args:
            queries, answer: see `moved`.
            points: (J,M,2) px, the answers to the lines.
        """
        left, right, *_ = self.layout.five_points(answer[0])
        eyes = right - left
        outwards = (points @ eyes) / max(float(eyes @ eyes), 1e-12) * np.sign(self.lines[:, :1, 0])
        behind = np.where(np.arange(outwards.shape[1]) < IN_FRONT, -np.inf, outwards)
        sine = abs(depth_test.toward_viewer(queries, *answer)[0])
        share_behind = np.interp(sine, np.sin(TURN_RAD), [0.0, 1.0])
        return (1 - share_behind) * _outermost(outwards) + share_behind * _outermost(behind)


def _outermost(outwards: np.ndarray) -> np.ndarray:
    """Weights (J,M), of sum 1 for each line and nearly 1 for the largest of `outwards` (J,M), eye distances."""
    weights = np.exp((outwards - outwards.max(axis=1, keepdims=True)) / SOFTNESS)
    return weights / weights.sum(axis=1, keepdims=True)


@functools.cache
def outline(layout: str) -> Outline | None:
    """The outline of a layout; None if its contour points are projections of points of the head."""
    found = LAYOUTS.get(layout)
    if found is None or not found.follows_outline:
        return None
    jaw = np.array([index for index, name in enumerate(found.names) if name.startswith("jaw_")])
    place = np.linspace(0, JAW_POINTS - 1, len(jaw))
    has_line = (place <= max(LOWER)) | (place >= JAW_POINTS - 1 - max(LOWER))
    first, share = np.divmod(place[has_line], 1)
    first = first.astype(int)
    lines = _jaw_lines()
    after = lines[first + (share > 0)]
    between = lines[first] + share[:, None, None] * (after - lines[first])
    return Outline(found, jaw[has_line], between.astype(np.float32))


@functools.cache
def _jaw_lines() -> np.ndarray:
    """The line (17,M,3) of every jaw point of the layout 68; NaN for those without, mirror-symmetric."""
    head = load_head(EMBEDDED)
    triangles = head.opaque_triangles()
    on_skin = region_mask(head, SKIN)[triangles].all(axis=1)
    skin = SurfaceQuery(canonical.canonical_vertices(head), triangles[on_skin])
    lines = np.full((JAW_POINTS, IN_FRONT + 1 + BEHIND, 3), np.nan)
    for index, lower in LOWER.items():
        start = canonical.queries(LAYOUT_68.name)[index] - np.array([0, lower, 0])
        forwards, backwards = np.array([0, 0, STEP]), np.array([-OUTWARDS, 0, -STEP])
        front = _walk(skin, start, forwards, IN_FRONT)
        lines[index] = [*front[:0:-1], *_walk(skin, start, backwards, BEHIND)]
        lines[LAYOUT_68.flip[index]] = lines[index] * MIRROR_X
    return lines


def _walk(skin: SurfaceQuery, start: np.ndarray, step: np.ndarray, count: int) -> list[np.ndarray]:
    """The point of the skin at the height of `start`, and `count` more, each a step (3,) from the one before."""

    def at_height(point: np.ndarray) -> np.ndarray:
        (closest,), _ = skin.closest(point[None])
        closest[1] = start[1]
        return skin.closest(closest[None])[0][0]

    points = [at_height(start)]
    for _ in range(count):
        points.append(at_height(points[-1] + step))
    return points
