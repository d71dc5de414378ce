"""The crop that the network sees, found from five points, and the way back to the picture.

Two frames of the crop's plane: landmarks have y up, counted from the last row, as the network and its losses use them;
pictures have y down and pixel centres at integers. At the published side of 224 px the original's own rounding is kept,
as the released weights were trained with it: the crop is cut at whole pixels and the landmarks are not, so both maps
differ by up to a pixel, to the other side in mirrored crops. Crops of another side are exact.
Source: Deng et al., CVPRW 2019; Deep3DFaceRecon_pytorch, util/preprocess.py.
"""

import dataclasses

import numpy as np
from PIL import Image

from jaxface.errors import UserError
from jaxface.systems.deep3d.preprocessing import skin_mask

# The side of the original's crops, and what a decimetre of a face measures in them.
REFERENCE_SIZE = 224
REFERENCE_PX_PER_DM = 102.0
# Image-left and image-right eye, nose tip, mouth corners of a standard face in decimetres: similarity_Lm3D_all.mat.
STANDARD_FIVE_DM = np.array(
    [
        (-0.31148657, 0.29036078, 0.13377953),
        (0.30979887, 0.28972036, 0.13179526),
        (0.0032535, -0.04617932, 0.55244243),
        (-0.25216928, -0.38133916, 0.22405732),
        (0.2484662, -0.38128236, 0.22235769),
    ]
)
# The points of 68 whose means they are: the eyes are the middles of their corners, not of their lids.
FIVE_OF_68 = ((36, 39), (42, 45), (30,), (48,), (54,))
SMALLEST_FACE_PX = 4.0
# Up to so many pixels the whole picture is resized, as the original does it.
LARGEST_RESIZED = 16_000_000
# How far PIL's bicubic filter reaches, in pixels of the coarser side.
BICUBIC_REACH = 2


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of side `size` px cut from a picture of width x height px that was resized by about `scale`.

    x_px, y_px: where the standard face's origin lies in the picture, y up (the original's tx, ty).
    exact: not rounded to whole pixels.
    """

    width: int
    height: int
    scale: float
    x_px: float
    y_px: float
    size: int
    exact: bool = False

    @property
    def parameters(self) -> np.ndarray:
        """The original's trans_params (5,): picture width and height, scale, tx, ty."""
        return np.array([self.width, self.height, self.scale, self.x_px, self.y_px])

    def at(self, size: int) -> "Crop":
        """The same crop with another side in pixels."""
        return dataclasses.replace(self, scale=self.scale * size / self.size, size=size)

    @property
    def resized(self) -> tuple[float, float]:
        """Width and height of the whole picture after resizing, cut to integers unless `exact`."""
        width, height = self.width * self.scale, self.height * self.scale
        return (width, height) if self.exact else (int(width), int(height))

    @property
    def corner(self) -> tuple[float, float]:
        """Left and top of the crop in the resized picture, rounded towards zero also where negative unless `exact`."""
        width, height = self.resized
        left = width / 2 - self.size / 2 + (self.x_px - self.width / 2) * self.scale
        top = height / 2 - self.size / 2 + (self.height / 2 - self.y_px) * self.scale
        # Landmarks have pixel centres at integers, edges of pixels lie half a pixel of the picture away.
        return (left + self.scale / 2, top - self.scale / 2) if self.exact else (int(left), int(top))

    def _offset(self) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted before and after the scale, to bring points of the picture (y up) into the crop."""
        before = np.array([self.x_px - self.width / 2, self.y_px - self.height / 2])
        return before, (np.array(self.resized) - self.size) / 2

    def landmarks(self, points_px: np.ndarray) -> np.ndarray:
        """Landmarks (…,2) of the crop, y up, of points (…,2) of the picture, y down."""
        before, after = self._offset()
        return (_upside_down(points_px, self.height) - before) * self.scale - after

    def to_picture(self, landmarks: np.ndarray) -> np.ndarray:
        """Points (…,2) of the picture, y down, of landmarks (…,2) of the crop, y up: undoes `landmarks`."""
        before, after = self._offset()
        return _upside_down((np.asarray(landmarks) + after) / self.scale + before, self.height)

    def pinhole(self, focal_px: float) -> tuple[np.ndarray, np.ndarray]:
        """focal_px (2,) and center_px (2,) in the picture of a camera that has `focal_px` in the crop.

        The crop's camera looks through its middle, size / 2 from the outer edges of its first pixels, so the picture's
        pixels and the crop's show the same place. The two focal lengths differ as far as the resizing was rounded.
        """
        ratio = np.array(self.resized) / [self.width, self.height]
        return focal_px / ratio, (self.size / 2 + np.array(self.corner)) / ratio - 0.5

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The crop (size,size[,3]) uint8 of a picture (height,width[,3]) uint8 after PIL's bicubic resizing, 0 outside.

        Of pictures that would become huge only the part that is seen is resized: equal to two grey levels.
        """
        corner, resized = np.array(self.corner), np.array(self.resized)
        low = np.clip(np.ceil(-corner), 0, self.size).astype(int)
        high = np.clip(np.floor(resized - corner), 0, self.size).astype(int)
        crop = np.zeros((self.size, self.size, *pixels.shape[2:]), np.uint8)
        if (low >= high).any():
            return crop
        picture, seen = Image.fromarray(pixels), np.concatenate([corner + low, corner + high])
        if not self.exact and resized.prod() <= LARGEST_RESIZED:
            part = picture.resize(self.resized, Image.Resampling.BICUBIC).crop(tuple(seen.tolist()))
        else:
            full = np.tile([self.width, self.height], 2)
            box = np.clip(seen * full / np.tile(resized, 2), 0, full)
            part = picture.resize(tuple((high - low).tolist()), Image.Resampling.BICUBIC, box=tuple(box.tolist()))
        crop[low[1] : high[1], low[0] : high[0]] = np.asarray(part)
        return crop


def _upside_down(points: np.ndarray, height: int) -> np.ndarray:
    """Points (…,2) with y counted from the other side of a picture of `height` rows."""
    points = np.asarray(points, np.float64)
    return np.stack([points[..., 0], height - 1 - points[..., 1]], axis=-1)


def flip_y(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Landmarks (…,2) of a crop of `size` rows with y up as pixels with y down, and the other way round."""
    return _upside_down(landmarks, size)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Eyes, nose tip and mouth corners (…,5,2) of 68 points (…,68,2), as the alignment wants them."""
    return np.stack([landmarks[..., list(group), :].mean(-2) for group in FIVE_OF_68], axis=-2)


def solve_pose(five: np.ndarray, standard: np.ndarray = STANDARD_FIVE_DM) -> tuple[np.ndarray, float]:
    """Where the origin of `standard` (5,3) lies (2,), and the pixels per unit, of five points (5,2), y up.

    The least-squares affine camera of both rows together; the scale is the mean length of the rows ("POS").
    """
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.asarray(five, np.float64), rcond=None)[0]
    return solution[3], float(np.linalg.norm(solution[:3], axis=0).mean())


def align(points_px: np.ndarray, width: int, height: int, size: int = REFERENCE_SIZE) -> Crop:
    """The crop of a face with 68 or 5 points (N,2) px, y down, in a picture of width x height.

    At `size` 224 it is the original's, otherwise it is exact. UserError: points that are not finite or so near each
    other that they are no face, another number of them.
    """
    points = np.asarray(points_px, np.float64)
    if points.shape not in ((68, 2), (5, 2)) or not np.isfinite(points).all():
        raise UserError(f"a face is aligned by 68 or 5 finite points (N,2), not by {points.shape}")
    five = five_points(points) if len(points) == 68 else points
    place, px_per_dm = solve_pose(_upside_down(five, height))
    if px_per_dm < SMALLEST_FACE_PX:
        raise UserError(f"the points of the face lie within {px_per_dm:.1f} px: too small to reconstruct it")
    scale = REFERENCE_PX_PER_DM * size / REFERENCE_SIZE / px_per_dm
    crop = Crop(width, height, scale, float(place[0]), float(place[1]), size, size != REFERENCE_SIZE)
    if min(crop.resized) < 1:
        raise UserError(f"the face is {1 / scale:.0f} times larger than the picture of {width} x {height} pixels")
    return crop


def aligned_face(pixels: np.ndarray, points_px: np.ndarray, size: int, with_skin: bool = True) -> dict[str, np.ndarray]:
    """The training example of a face with 68 points (68,2) px, y down, in a picture (H,W,3) uint8.

    image (size,size,3) uint8 and, if it is asked for, skin (size,size) uint8, 255 = certain. Whatever `size` is:
    landmarks (68,2) float32 in pixels of the crop at 224 px, y up from its last row, and crop (5,) float32, its
    `Crop.parameters`.
    UserError: points that make no face.
    """
    height, width = pixels.shape[:2]
    crop = align(points_px, width, height, size)
    reference = crop.at(REFERENCE_SIZE)
    return {
        "image": crop.cut(pixels),
        "landmarks": reference.landmarks(points_px).astype(np.float32),
        "crop": reference.parameters.astype(np.float32),
        **({"skin": skin_probability(pixels, crop)} if with_skin else {}),
    }


def skin_probability(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop (size,size) uint8 of the `probability` of a picture (H,W,3) uint8, computed only where it is seen."""
    reach = 1 + BICUBIC_REACH * max(1.0, 1 / crop.scale)
    ratio = np.array([crop.width, crop.height]) / crop.resized
    low = np.maximum(np.floor(np.array(crop.corner) * ratio - reach), 0).astype(int)
    high = np.maximum(np.ceil((np.array(crop.corner) + crop.size) * ratio + reach), 0).astype(int)
    seen = np.s_[low[1] : high[1], low[0] : high[0]]
    whole = np.zeros(pixels.shape[:2], np.uint8)
    whole[seen] = skin_mask.probability(pixels[seen])
    return crop.cut(whole)
