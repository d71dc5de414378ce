"""Faces in an image: detection with YuNet, and validation of boxes that the user passes.

A box is x0, y0, x1, y1 px and encloses a face from hairline to chin and from side to side; it may leave the image.

YuNet: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. Network and
licence (MIT) are in assets/detection; OpenCV runs it.
"""

import dataclasses
import pathlib
import threading
from collections.abc import Sequence
from typing import Any, Self

import cv2
import numpy as np

from jaxface import checksums, crops, search_copies
from jaxface.errors import UserError
from jaxface.geometry import alignment

MODEL_FILE = pathlib.Path(__file__).parent / "assets" / "detection" / "face_detection_yunet_2023mar.onnx"

# Score from which a face is accepted, see `detect_faces`, and from which a second look is taken at a candidate.
MIN_SCORE, CANDIDATE_SCORE = 0.74, 0.3
# Faces that lie on their side or upside down are rare: with a larger roll, the score must be higher by this.
STEEP_ROLL_RAD, STEEP_ROLL_MARGIN = np.deg2rad(60), 0.06
# Faces are searched for in copies with these long sides, px, from coarse to fine. A finer copy is searched only if the
# coarser one shows no face or small ones.
SEARCH_SIDES = (160, 320, 640, 1280)
ROTATED_SEARCH_SIDES = (320, 640)
# A candidate that is smaller than this in its copy, px, calls for a finer copy.
SMALL_FACE_PX = 32
# Rotations of the image that are searched if the upright image shows no face.
ROTATIONS_DEG = (90, 180, 270, 45, -45)
# A candidate with a larger roll calls for a search of the image rotated by it.
LARGE_ROLL_RAD = np.deg2rad(20)
# The second look: side of the crop in px, and in heights of the candidate's box.
LOOK_PX, LOOK_PER_HEIGHT = 128, 2.0
# Detections whose intersection over union reaches this value show the same face.
SAME_FACE_IOU = 0.3
MAX_LOOKS, SMALL_ROLL_RAD = 3, np.deg2rad(8)
# A score from which a candidate that is nearly upright in its copy needs no second look, and from which the second look
# needs no other orientations, which are these. Faces that are upside down are proposed as upright with up to 0.906.
CERTAIN_SCORE = 0.91
LOOK_TURNS_RAD = np.deg2rad([45, -45, 90, -90, 135, -135, 180])
SMALLEST_BOX_PX, MAX_BOX_PER_IMAGE = 1.0, 100
MAX_CANDIDATES = 200
# A detection that is larger than the image by this factor is not a face.
MAX_FACE_PER_IMAGE = 3
# Extent of a face from hairline to chin and from side to side, in widths and heights of YuNet's box, and how far its
# centre lies below that of the box, in heights. Measured on upright photographs with known extents.
EXTENT_PER_BOX = np.array([1.087, 0.979])
EXTENT_BELOW_BOX = 0.03

_thread = threading.local()


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """F faces, the largest first, or in the order in which the caller gave their boxes.

    Attributes:
        center: (F,2) px, centre of the extent, in the image.
        size: (F,2) px, width and height of the extent of the upright face.
        angle_rad: (F,) of the eye line: positive if the face is rotated clockwise in the image.
        scores: (F,) in [0,1], None if the caller gave the boxes.
    """

    center: np.ndarray
    size: np.ndarray
    angle_rad: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, index: Any) -> Self:
        """The faces of an index array."""
        scores = None if self.scores is None else self.scores[index]
        return type(self)(self.center[index], self.size[index], self.angle_rad[index], scores)

    def known_scores(self) -> list[float | None]:
        """The scores as Python numbers; None for each face without one."""
        return [None] * len(self) if self.scores is None else [float(score) for score in self.scores]

    @property
    def boxes(self) -> np.ndarray:
        """Boxes (F,4) float32: the bounds of ellipses with the extents of the faces."""
        cos, sin = np.cos(self.angle_rad)[:, None], np.sin(self.angle_rad)[:, None]
        half = np.hypot(self.size * cos, self.size[:, ::-1] * sin) / 2
        return np.concatenate([self.center - half, self.center + half], axis=1).astype(np.float32)

    @classmethod
    def from_boxes(cls, boxes: np.ndarray) -> Self:
        """Upright faces with the boxes (F,4)."""
        low, high = boxes[:, :2], boxes[:, 2:]
        return cls((low + high) / 2, high - low, np.zeros(len(boxes)))

    def turned(self, angle_rad: float) -> Self:
        """The faces with another roll, by `angle_rad` larger."""
        return dataclasses.replace(self, angle_rad=_wrapped(self.angle_rad + angle_rad))

    def moved(self, matrix: np.ndarray) -> Self:
        """The faces seen through a similarity transform (2,3)."""
        return dataclasses.replace(
            self,
            center=alignment.apply_affine(matrix, self.center),
            size=self.size * np.hypot(matrix[0, 0], matrix[1, 0]),
        ).turned(np.arctan2(matrix[1, 0], matrix[0, 0]))


NO_FACES = Faces(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))


def _wrapped(angle_rad: np.ndarray) -> np.ndarray:
    """Angles in [-pi, pi)."""
    return (angle_rad + np.pi) % (2 * np.pi) - np.pi


def detect_faces(image: np.ndarray, min_score: float | None = None, max_faces: int | None = None) -> Faces:
    """The faces in an image, the largest first.

    YuNet searches copies of the image and proposes candidates. A second look at each, in a crop of fixed size in which
    the candidate is upright, gives its score, place and roll. Faces of any roll are found. Safe to call from several
    threads.

    Args:
        image: (H,W,3) uint8 RGB.
        min_score: faces with a lower score are left out; None means MIN_SCORE.
        max_faces: only so many faces, the largest, are returned; None returns all.
    """
    min_score = MIN_SCORE if min_score is None else min_score
    search = _Search(image, min_score)
    search.upright()
    search.rotated()
    faces = search.accepted
    return faces[np.argsort(-faces.size[:, 1], kind="stable")][:max_faces]


class _Search:
    """A search for faces in one image. `faces`: those found so far, with all scores from CANDIDATE_SCORE on."""

    def __init__(self, image: np.ndarray, min_score: float):
        self.faces = NO_FACES
        self._image = image
        self._levels = [image]
        self._min_score = min_score
        self._candidate_score = min(min_score, CANDIDATE_SCORE)

    @property
    def accepted(self) -> Faces:
        """The faces that are found so far with a sufficient score."""
        margin = np.where(np.abs(self.faces.angle_rad) > STEEP_ROLL_RAD, STEEP_ROLL_MARGIN, 0.0)
        return self.faces[self.faces.scores >= self._min_score + margin]

    def upright(self) -> None:
        """Searches copies of the image from coarse to fine, until one shows faces and none of them is small."""
        for side in search_copies.fitting_sides(SEARCH_SIDES, self._image):
            smallest = self._search(side, 0.0)
            if len(self.accepted) and smallest >= SMALL_FACE_PX:
                break

    def rotated(self) -> None:
        """Searches the image rotated by the roll of the faces, and if none was found, by ROTATIONS_DEG."""
        rolled = self.faces[np.abs(self.faces.angle_rad) > LARGE_ROLL_RAD]
        if len(rolled):
            best = np.argmax(rolled.scores)
            for side in search_copies.fitting_sides(ROTATED_SEARCH_SIDES, self._image):
                self._search(side, rolled.angle_rad[best])
        for side in search_copies.fitting_sides(ROTATED_SEARCH_SIDES, self._image):
            for degrees in ROTATIONS_DEG:
                if len(self.accepted):
                    return
                self._search(side, np.deg2rad(degrees))

    def _search(self, side: int, angle_rad: float) -> float:
        """Adds the faces of a copy with this long side in which a roll of `angle_rad` is upright.

        Returns the height of the smallest candidate in the copy, px; infinity if there is none.
        """
        copy, to_image = search_copies.resized(self._levels, side, angle_rad)
        candidates = _candidates(copy, self._candidate_score)
        smallest = candidates.size[:, 1].min(initial=np.inf)
        certain = (candidates.scores >= CERTAIN_SCORE) & (np.abs(candidates.angle_rad) < LARGE_ROLL_RAD)
        candidates = candidates.moved(to_image)
        self._add([candidates[certain]])
        uncertain = candidates[~certain]
        uncertain = uncertain[~_overlaps(uncertain, self.accepted).any(axis=1)]
        self._add([self._look(uncertain[[index]]) for index in range(len(uncertain))])
        return smallest

    def _add(self, found: Sequence[Faces]) -> None:
        """Adds faces; of those that overlap, the one with the highest score stays."""
        if any(map(len, found)):
            self.faces = _without_duplicates(joined([self.faces, *found]))

    def _look(self, candidate: Faces) -> Faces:
        """The candidate as it is detected in a crop in which it is upright; empty if it is not a face.

        YuNet sees less roll than there is: looks are repeated until the roll converges. If the score remains low, other
        orientations are tried, since YuNet proposes faces of any roll as nearly upright.
        """
        best = self._converged(candidate)
        if not len(best) or best.scores[0] < CERTAIN_SCORE:
            turned = joined([self._detect_in_crop(candidate.turned(turn_rad)) for turn_rad in LOOK_TURNS_RAD])
            if len(turned):
                turned = self._converged(turned[[np.argmax(turned.scores)]])
            looks = joined([best, turned])
            best = looks[np.argsort(-looks.scores, kind="stable")[:1]]
        return best

    def _converged(self, candidate: Faces) -> Faces:
        """The face that is found by repeated looks at the candidate; empty if there is none."""
        best = candidate[[]]
        for _ in range(MAX_LOOKS):
            found = self._detect_in_crop(candidate)
            if not len(found) or len(best) and found.scores[0] <= best.scores[0]:
                break
            turn_rad = np.abs(_wrapped(found.angle_rad - candidate.angle_rad))[0]
            best = candidate = found
            if turn_rad < SMALL_ROLL_RAD:
                break
        return best

    def _detect_in_crop(self, candidate: Faces) -> Faces:
        """The face with the highest score in an upright crop around the candidate; empty if there is none."""
        center, angle_rad, side = candidate.center[0], candidate.angle_rad[0], LOOK_PER_HEIGHT * candidate.size[0, 1]
        crop = crops.cut(self._image, center, side, angle_rad, LOOK_PX)
        found = _candidates(crop, self._candidate_score)
        found = found[np.linalg.norm(found.center - (LOOK_PX - 1) / 2, axis=1) < LOOK_PX / LOOK_PER_HEIGHT / 2]
        best = found[np.argsort(-found.scores)[:1]]
        to_image = alignment.invert_affine(alignment.crop_matrix(center, side, LOOK_PX, angle_rad))
        return _inside(best.moved(to_image), self._image)


def _candidates(image: np.ndarray, min_score: float) -> Faces:
    """What YuNet detects in an image (H,W,3) uint8 RGB."""
    rows = _detector(image.shape[1], image.shape[0], min_score).detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
    # In images that are narrower than its cells YuNet detects faces of any size, up to infinity.
    is_possible = (rows[:, 2:4] > 0) & (rows[:, 2:4] < MAX_FACE_PER_IMAGE * max(image.shape))
    rows = rows[is_possible.all(axis=1) & np.isfinite(rows).all(axis=1)]
    # Columns: corner x, y; width, height; x, y of right eye, left eye, nose tip, right and left mouth corner; score.
    # YuNet measures from the edge of the first pixel.
    size, points = rows[:, 2:4], rows[:, 4:14].reshape(-1, 5, 2)
    angle_rad = _roll(points)
    down = np.stack([-np.sin(angle_rad), np.cos(angle_rad)], axis=1)
    center = rows[:, :2] + size / 2 - 0.5 + EXTENT_BELOW_BOX * size[:, 1:] * down
    return _inside(Faces(center, size * EXTENT_PER_BOX, angle_rad, rows[:, 14]), image)


def _inside(faces: Faces, image: np.ndarray) -> Faces:
    """The faces whose centre lies in the image."""
    return faces[((faces.center >= -0.5) & (faces.center <= np.array(image.shape[1::-1]) - 0.5)).all(axis=1)]


def _roll(points: np.ndarray) -> np.ndarray:
    """Roll (F,) in rad of five points (F,5,2), from the lines of eyes and mouth and the line between the two."""
    across = points[:, 1] - points[:, 0] + points[:, 4] - points[:, 3]
    down = points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]
    return np.arctan2(across[:, 1] - down[:, 0], across[:, 0] + down[:, 1])


def _detector(width: int, height: int, min_score: float) -> cv2.FaceDetectorYN:
    """A detector of the calling thread: a FaceDetectorYN stores its input and is not thread-safe.

    Looks and searches have one each: setting up the network for another input size takes half as long as a look.
    """
    name = "look" if (width, height) == (LOOK_PX, LOOK_PX) else "search"
    detector = getattr(_thread, name, None)
    if detector is None:
        network, config = np.frombuffer(checksums.read(MODEL_FILE), np.uint8), np.zeros(0, np.uint8)
        detector = cv2.FaceDetectorYN.create("onnx", network, config, (width, height))
        detector.setNMSThreshold(SAME_FACE_IOU)
        detector.setTopK(MAX_CANDIDATES)
        setattr(_thread, name, detector)
    detector.setInputSize((width, height))
    detector.setScoreThreshold(min_score)
    return detector


def joined(faces: Sequence[Faces]) -> Faces:
    """Several faces in one object; it has no scores if one of them has none."""
    scores = [one.scores for one in faces]
    geometry = [np.concatenate([getattr(one, name) for one in faces]) for name in ("center", "size", "angle_rad")]
    return Faces(*geometry, None if any(one is None for one in scores) else np.concatenate(scores))


def _without_duplicates(faces: Faces) -> Faces:
    """Non-maximum suppression: drops faces that overlap one with a higher score."""
    if len(faces) < 2:
        return faces
    faces = faces[np.argsort(-faces.scores, kind="stable")]
    overlaps, kept = _overlaps(faces, faces), []
    for index in range(len(faces)):
        if not overlaps[index, kept].any():
            kept.append(index)
    return faces[np.array(kept, int)]


def _overlaps(faces: Faces, others: Faces) -> np.ndarray:
    """Whether boxes have an intersection over union of at least SAME_FACE_IOU, (F,G) bool."""
    if not len(faces) or not len(others):
        return np.zeros((len(faces), len(others)), bool)
    a, b = faces.boxes[:, None], others.boxes[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return intersection >= SAME_FACE_IOU * union


def as_boxes(boxes: Any) -> np.ndarray:
    """Boxes (F,4) float32 from (4,) or (F,4) numbers.

    Raises UserError if the shape is another, a number is not finite, or x1 <= x0 or y1 <= y0.
    """
    try:
        array = np.atleast_2d(np.asarray(boxes, np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"boxes: {boxes!r} is not a box; give four numbers x0, y0, x1, y1") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UserError(f"boxes: the shape is {np.shape(boxes)}; give (4,) or (F,4) numbers x0, y0, x1, y1")
    for box in array:
        if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise UserError(f"boxes: {box.tolist()} is not a box; give x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    return array


def check_boxes(boxes: Any, width: int, height: int) -> np.ndarray:
    """`as_boxes` that also raises UserError if a box does not fit an image of width x height pixels.

    A box must touch the image, and be larger than one pixel: otherwise its unit is probably the side of the image. Of a
    face that is far larger than the image, nothing can be seen.
    """
    array = as_boxes(boxes)
    for x0, y0, x1, y1 in array.tolist():
        box = [x0, y0, x1, y1]
        if min(x1 - x0, y1 - y0) <= SMALLEST_BOX_PX:
            raise UserError(f"boxes: {box} is not larger than a pixel; give pixels of the image, not fractions of it")
        if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
            raise UserError(f"boxes: {box} lies outside the image of {width} x {height} pixels; give pixels of it")
        if max(x1 - x0, y1 - y0) > MAX_BOX_PER_IMAGE * max(width, height):
            raise UserError(f"boxes: {box} is far larger than the {width} x {height} pixels of the image; correct it")
    return array


def check_or_detect(
    boxes: Any, image: np.ndarray, min_score: float | None = None, max_faces: int | None = None
) -> Faces:
    """The faces in the caller's boxes (F,4), checked by `check_boxes`; those of `detect_faces` if `boxes` is None."""
    if boxes is None:
        return detect_faces(image, min_score, max_faces)
    return Faces.from_boxes(check_boxes(boxes, image.shape[1], image.shape[0]))
