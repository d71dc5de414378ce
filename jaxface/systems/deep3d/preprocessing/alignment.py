"""Alignment: the face crop that the network sees, computed from five points, and its map back to the image.

Two frames: landmarks of a crop have y up, counted from its last row, as the network and its losses use them. Image
points have y down and pixel centres at integers.

At the published crop size of 224 px the original's rounding is reproduced, because the released weights were trained
with it: the crop is cut at whole pixels but its landmarks are not rounded, so the two differ by up to a pixel, and to
the other side in mirrored crops. Crops of any other size are exact.

Source: Deng et al., CVPRW 2019; Deep3DFaceRecon_pytorch, util/preprocess.py.
"""

import dataclasses

import numpy as np
from PIL import Image

from jaxface.errors import UserError
from jaxface.systems.deep3d.preprocessing import skin_mask

# Side of the original's crops, and the size of a face in them (util/preprocess.py, align_img: rescale_factor).
REFERENCE_SIZE = 224
REFERENCE_PX_PER_DM = 102.0
# Standard face in decimetres: image-left eye, image-right eye, nose tip, mouth corners (similarity_Lm3D_all.mat).
STANDARD_FIVE_DM = np.array(
    [
        (-0.31148657, 0.29036078, 0.13377953),
        (0.30979887, 0.28972036, 0.13179526),
        (0.0032535, -0.04617932, 0.55244243),
        (-0.25216928, -0.38133916, 0.22405732),
        (0.2484662, -0.38128236, 0.22235769),
    ]
)
# The five points as means of the 68 landmarks: an eye is the midpoint of its corners, not of its lids.
FIVE_OF_68 = ((36, 39), (42, 45), (30,), (48,), (54,))
# Ours. Faces with fewer pixels per decimetre raise UserError.
MIN_PX_PER_DM = 4.0
# Images of up to this many pixels after resizing are resized whole, as in the original.
MAX_RESIZED_PIXELS = 16_000_000
# Radius of PIL's bicubic filter in pixels of the coarser image.
BICUBIC_RADIUS = 2


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square crop of an image that is resized by about `scale`.

    Attributes:
        width: of the image in pixels.
        height: of the image in pixels.
        scale: crop pixels per image pixel.
        x_px: x of the standard face's origin in the image (the original's tx).
        y_px: y of the origin, up from the image's last row (the original's ty).
        size: side of the crop in pixels.
        exact: the resized image and the crop's corner are not rounded to whole pixels.
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
        """The original's trans_params (5,): image width and height, scale, tx, ty."""
        return np.array([self.width, self.height, self.scale, self.x_px, self.y_px])

    def with_size(self, size: int) -> "Crop":
        """The same region at another side in pixels."""
        return dataclasses.replace(self, scale=self.scale * size / self.size, size=size)

    @property
    def resized(self) -> tuple[float, float]:
        """Width and height of the resized image; truncated to integers unless `exact`."""
        width, height = self.width * self.scale, self.height * self.scale
        return (width, height) if self.exact else (int(width), int(height))

    @property
    def corner(self) -> tuple[float, float]:
        """Left and top of the crop in the resized image; truncated towards zero unless `exact`."""
        width, height = self.resized
        left = width / 2 - self.size / 2 + (self.x_px - self.width / 2) * self.scale
        top = height / 2 - self.size / 2 + (self.height / 2 - self.y_px) * self.scale
        if not self.exact:
            return int(left), int(top)
        # Points have pixel centres at integers, but a crop starts at a pixel's edge, half an image pixel before it.
        return left + self.scale / 2, top - self.scale / 2

    def _offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets subtracted from image points (y up) before and after scaling to get landmarks of the crop."""
        before = np.array([self.x_px - self.width / 2, self.y_px - self.height / 2])
        return before, (np.array(self.resized) - self.size) / 2

    def to_crop(self, points_px: np.ndarray) -> np.ndarray:
        """Landmarks (…,2) in the crop, y up, of image points (…,2), y down."""
        before, after = self._offsets()
        return (flip_y(points_px, self.height) - before) * self.scale - after

    def to_image(self, landmarks: np.ndarray) -> np.ndarray:
        """Image points (…,2), y down, of landmarks (…,2) of the crop, y up. The inverse of `to_crop`."""
        before, after = self._offsets()
        return flip_y((np.asarray(landmarks) + after) / self.scale + before, self.height)

    def pinhole(self, focal_px: float) -> tuple[np.ndarray, np.ndarray]:
        """The camera of the whole image for a crop camera of focal length `focal_px`.

        The crop camera's principal point is the crop's centre, size / 2 from the outer edge of its first pixel, so that
        corresponding pixels of image and crop show the same point. The two focal lengths differ by the rounding of the
        resized image.

        Returns:
            focal_px (2,) and center_px (2,), pixel centres at integers.
        """
        ratio = np.array(self.resized) / [self.width, self.height]
        return focal_px / ratio, (self.size / 2 + np.array(self.corner)) / ratio - 0.5

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The crop (size,size[,3]) uint8 of an image (height,width[,3]) uint8; bicubic (PIL), 0 outside the image.

        If the resized image would exceed MAX_RESIZED_PIXELS, only the region of the crop is resized; grey levels then
        differ by up to two.
        """
        corner, resized = np.array(self.corner), np.array(self.resized)
        low = np.clip(np.ceil(-corner), 0, self.size).astype(int)
        high = np.clip(np.floor(resized - corner), 0, self.size).astype(int)
        crop = np.zeros((self.size, self.size, *image.shape[2:]), np.uint8)
        if (low >= high).any():
            return crop
        pil_image, region = Image.fromarray(image), np.concatenate([corner + low, corner + high])
        if not self.exact and resized.prod() <= MAX_RESIZED_PIXELS:
            part = pil_image.resize(self.resized, Image.Resampling.BICUBIC).crop(tuple(region.tolist()))
        else:
            full = np.tile([self.width, self.height], 2)
            box = np.clip(region * full / np.tile(resized, 2), 0, full)
            size = tuple((high - low).tolist())
            part = pil_image.resize(size, Image.Resampling.BICUBIC, box=tuple(box.tolist()))
        crop[low[1] : high[1], low[0] : high[0]] = np.asarray(part)
        return crop


def flip_y(points: np.ndarray, height: int) -> np.ndarray:
    """Points (…,2) float64 of an image of `height` rows with y up instead of down, or the other way round."""
    points = np.asarray(points, np.float64)
    return np.stack([points[..., 0], height - 1 - points[..., 1]], axis=-1)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Eyes, nose tip and mouth corners (…,5,2), as in STANDARD_FIVE_DM, of 68 landmarks (…,68,2)."""
    return np.stack([landmarks[..., list(group), :].mean(-2) for group in FIVE_OF_68], axis=-2)


def solve_pose(five: np.ndarray, standard: np.ndarray = STANDARD_FIVE_DM) -> tuple[np.ndarray, float]:
    """Position and scale of a face by the original's POS: a least-squares affine camera.

    Args:
        five: (5,2) points in pixels, y up.
        standard: (5,3) the same points of the standard face.

    Returns:
        Position (2,) of the standard face's origin in pixels, and pixels per unit of `standard`: the mean norm of the
        two rows of the affine matrix.
    """
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.asarray(five, np.float64), rcond=None)[0]
    return solution[3], float(np.linalg.norm(solution[:3], axis=0).mean())


def align(points_px: np.ndarray, width: int, height: int, size: int = REFERENCE_SIZE) -> Crop:
    """The crop of a face: the original's if `size` is 224, otherwise exact.

    Args:
        points_px: 68 or 5 points (N,2) in pixels of the image, y down.
        width: of the image in pixels.
        height: of the image in pixels.
        size: side of the crop in pixels.

    Raises:
        UserError: another number of points, points that are not finite, or a face too small or too large for the image.
    """
    points = np.asarray(points_px, np.float64)
    if points.shape not in ((68, 2), (5, 2)) or not np.isfinite(points).all():
        raise UserError(f"landmarks: the shape is {points.shape}; alignment needs 68 or 5 finite points (N,2)")
    five = five_points(points) if len(points) == 68 else points
    position, px_per_dm = solve_pose(flip_y(five, height))
    if px_per_dm < MIN_PX_PER_DM:
        raise UserError(
            f"the face has {px_per_dm:.1f} pixels per decimetre, too small to reconstruct; use a larger image"
        )
    scale = REFERENCE_PX_PER_DM * size / REFERENCE_SIZE / px_per_dm
    crop = Crop(width, height, scale, float(position[0]), float(position[1]), size, exact=size != REFERENCE_SIZE)
    if min(crop.resized) < 1:
        raise UserError(
            f"the face is {1 / scale:.0f} times larger than the image of {width} x {height} px; check its landmarks"
        )
    return crop


def aligned_face(image: np.ndarray, points_px: np.ndarray, size: int, with_skin: bool = True) -> dict[str, np.ndarray]:
    """The training example of a face: its aligned crop, landmarks and skin mask. Source: align_img.

    Args:
        image: (H,W,3) uint8.
        points_px: 68 points (68,2) in pixels of the image, y down.
        size: side of the crop in pixels.
        with_skin: whether to compute the skin mask.

    Returns:
        `image` (size,size,3) uint8; `landmarks` (68,2) float32 in pixels of the crop at 224 px, y up, whatever `size`
        is; `crop` (5,) float32, `Crop.parameters` at 224 px; with `with_skin` also `skin` (size,size) uint8, the skin
        probability, 255 = 1.

    Raises:
        UserError: as `align`.
    """
    height, width = image.shape[:2]
    crop = align(points_px, width, height, size)
    reference = crop.with_size(REFERENCE_SIZE)
    example = {
        "image": crop.cut(image),
        "landmarks": reference.to_crop(points_px).astype(np.float32),
        "crop": reference.parameters.astype(np.float32),
    }
    if with_skin:
        example["skin"] = skin_probability(image, crop)
    return example


def skin_probability(image: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop (size,size) uint8 of the skin probability of an image (H,W,3) uint8.

    Equal to cropping the probability of the whole image, but computed only where the crop's bicubic filter reads it.
    """
    reach = 1 + BICUBIC_RADIUS * max(1.0, 1 / crop.scale)
    ratio = np.array([crop.width, crop.height]) / crop.resized
    low = np.maximum(np.floor(np.array(crop.corner) * ratio - reach), 0).astype(int)
    high = np.maximum(np.ceil((np.array(crop.corner) + crop.size) * ratio + reach), 0).astype(int)
    region = np.s_[low[1] : high[1], low[0] : high[0]]
    whole = np.zeros(image.shape[:2], np.uint8)
    whole[region] = skin_mask.probability(image[region])
    return crop.cut(whole)
