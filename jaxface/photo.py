"""Pictures in, safely; face boxes; crops.

Pixel coordinates everywhere: x right, y down, pixel centres at integers, in the full picture as displayed.
"""

import dataclasses
import functools
import math
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

from jaxface.errors import UserError
from jaxface.geometry import alignment

PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .jp2 .ppm .pgm .avif".split())
# A picture of this size takes about 2 GB while PIL decodes it; larger ones are refused.
MAX_PIXELS = 500_000_000
# Larger pictures are kept at a half, a quarter … of their size: 150 MB are plenty for crops of faces.
KEPT_PIXELS = 50_000_000
ORIENTATION_TAG = 0x0112

# The long side at which faces are looked for; small pictures are enlarged to the first.
DETECTION_SIDES = (320, 1280)
# Overlapping hits that make a face. Measured on photographs without faces: false ones have 4, in turned pictures 5.
HITS, HITS_TURNED = 5, 8
TURNS_DEG = (30, -30)
# The extent of a face (hairline to chin 185 mm, side to side 140 mm) in widths of the cascade's square, whose width is
# 63 mm between the pupils / 0.365; the extent's centre lies lower by 0.023. Measured on 25 mostly frontal photographs.
EXTENT_PER_SQUARE = (0.81, 1.07)
EXTENT_BELOW_SQUARE = 0.023

_bomb_check = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture as displayed: `pixels` (h,w,3) uint8 RGB; `width`, `height` in full.

    `step`: a pixel of `pixels` covers step x step pixels of the full picture (1 except for huge files).
    """

    pixels: np.ndarray
    width: int
    height: int
    step: int = 1

    def to_full(self, points: np.ndarray) -> np.ndarray:
        """Coordinates in `pixels` as coordinates in the full picture (any shape)."""
        return (np.asarray(points) + 0.5) * self.step - 0.5

    def to_kept(self, points: np.ndarray) -> np.ndarray:
        """Coordinates in the full picture as coordinates in `pixels` (any shape)."""
        return (np.asarray(points) + 0.5) / self.step - 0.5

    def face_to_full(self, face: dict[str, Any]) -> dict[str, Any]:
        """A face in pixels of the full picture instead of `pixels`: its box, extent, points, points_3d and sigma."""
        places = {key: self.to_full(face[key]) for key in ("box", "extent", "points") if key in face}
        if "points_3d" in face:
            plane, depth = np.split(np.asarray(face["points_3d"]), [2], axis=-1)
            places["points_3d"] = np.concatenate([self.to_full(plane), depth * self.step], -1)
        return {**face, **places, "sigma": np.asarray(face["sigma"]) * self.step}


def load(source: Any) -> Photo:
    """A photo from a path, a PIL picture or an array.

    Arrays: (H,W), (H,W,1), (H,W,3) or (H,W,4), uint8, uint16 or float in [0,1]. Transparent parts become white, EXIF
    orientation is applied, of an animation the first frame is taken, 16 bits become 8. UserError says what is wrong.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if isinstance(source, Image.Image):
        return _decode(source, *source.size)
    return _from_array(source)


def read_image(path: str | os.PathLike) -> Photo:
    """The photo in a file; see `load`. UserError: missing, empty, truncated, not a picture, over MAX_PIXELS."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name}: the file is empty (0 bytes)")
    try:
        with _open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{path.name}: {width} x {height} exceeds {MAX_PIXELS // 10**6} megapixels")
            if (step := _step(width, height)) > 1:
                image.draft(None, (width // step, height // step))  # a JPEG is then decoded at a fraction of its size
            return _decode(image, width, height)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path.name}: no permission to read it") from error
    except MemoryError as error:
        raise UserError(f"{path.name}: {width} x {height} needs more memory than there is") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path.name}: not a picture that can be read (JPEG, PNG, WebP, TIFF, GIF, BMP …)") from error
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise UserError(f"{path.name}: damaged or cut short ({str(error) or type(error).__name__})") from error


def _open(path: pathlib.Path) -> Image.Image:
    """Opens without PIL's own limit on size (a global setting), which refuses big scans and panoramas."""
    with _bomb_check:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _step(width: int, height: int) -> int:
    return 2 ** max(0, math.ceil(math.log2(width * height / KEPT_PIXELS) / 2))


def _decode(image: Image.Image, width: int, height: int) -> Photo:
    """`width`, `height`: of the full picture, which the decoder may have reduced by 2, 4 or 8."""
    orientation, step = image.getexif().get(ORIENTATION_TAG, 1), _step(width, height)
    rest = step // round(width / image.width)
    image = _eight_bit(image)
    if rest > 1:
        image = image.reduce(rest)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = _turned(np.asarray(image.convert("RGB")), orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Photo(np.ascontiguousarray(pixels), width, height, step)


def _eight_bit(image: Image.Image) -> Image.Image:
    """The modes that can neither be reduced nor scaled right by PIL as L, RGB or RGBA."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "P", "PA", "La", "RGBa"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as displayed, by the EXIF orientations 2 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _from_array(source: Any) -> Photo:
    array = np.asarray(source)
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise UserError(f"a picture is an array (H,W), (H,W,3) or (H,W,4), channels last; this one has {array.shape}")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UserError("a picture of floats holds values in [0,1]; divide by 255 or convert it to uint8")
        array = (array * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"a picture is uint8, uint16 or float in [0,1]; this array has dtype {array.dtype}")
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return Photo(np.ascontiguousarray(array), array.shape[1], array.shape[0])


@functools.cache
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(pathlib.Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))


def detect_faces(pixels: np.ndarray) -> np.ndarray:
    """Boxes (F,4) float32 x0, y0, x1, y1 of the faces in (H,W,3) uint8 RGB, the largest first.

    A box is the extent of a face from hairline to chin and from side to side. OpenCV's Haar cascade frontalface_alt2 on
    the picture at a moderate size; where it finds nothing the picture is turned a little both ways.
    """
    side = max(pixels.shape[:2])
    scale = float(np.clip(side, *DETECTION_SIDES)) / side
    size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
    gray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    gray = cv2.cvtColor(gray, cv2.COLOR_RGB2GRAY)
    squares = next((found for found in _attempts(gray) if len(found)), np.zeros((0, 3)))
    center = (squares[:, :2] + [0, EXTENT_BELOW_SQUARE] * squares[:, 2:] + 0.5) / scale - 0.5
    half = squares[:, 2:] * EXTENT_PER_SQUARE / scale / 2
    boxes = np.concatenate([center - half, center + half], axis=1).astype(np.float32)
    return boxes[np.argsort(-squares[:, 2], kind="stable")]


def _attempts(gray: np.ndarray) -> Iterator[np.ndarray]:
    """Squares (F,3) centre and side: of the picture, then of the picture turned, with more evidence asked for."""
    yield _squares(gray, HITS)
    height, width = gray.shape
    for degrees in TURNS_DEG:
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
        turned = cv2.warpAffine(gray, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        squares, back = _squares(turned, HITS_TURNED), cv2.invertAffineTransform(turn)
        squares[:, :2] = squares[:, :2] @ back[:, :2].T + back[:, 2]
        yield squares


def _squares(gray: np.ndarray, hits: int) -> np.ndarray:
    found = np.array(_cascade().detectMultiScale(gray, 1.1, hits, minSize=(24, 24)), np.float64).reshape(-1, 4)
    return np.concatenate([found[:, :2] + (found[:, 2:] - 1) / 2, found[:, 2:3]], axis=1)


def as_boxes(boxes: Any) -> np.ndarray:
    """Boxes (F,4) float32 of (4,) or (F,4) numbers. UserError: another shape, not finite, x1 <= x0 or y1 <= y0."""
    try:
        array = np.atleast_2d(np.asarray(boxes, np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"a box is four numbers x0, y0, x1, y1, not {boxes!r}") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UserError(f"a box is four numbers x0, y0, x1, y1; these have the shape {np.shape(boxes)}")
    for box in array:
        if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise UserError(f"the box {box.tolist()} is not x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    return array


def check_boxes(boxes: Any, width: int, height: int) -> np.ndarray:
    """`as_boxes`, each of which touches the picture; UserError otherwise."""
    array = as_boxes(boxes)
    for x0, y0, x1, y1 in array.tolist():
        if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
            raise UserError(f"the box {[x0, y0, x1, y1]} lies outside the picture of {width} x {height} pixels")
    return array


def cut(pixels: np.ndarray, center: np.ndarray, side: float, angle_rad: float, size: int) -> np.ndarray:
    """The crop (size,size,3) uint8 of a square in `pixels` (H,W,3) uint8, as `alignment.crop_matrix` has it.

    A large square is first reduced by averaging, so that fine detail does not alias. Beyond the edge the picture is
    continued. UserError where the square does not touch the picture.
    """
    height, width = pixels.shape[:2]
    low = np.maximum(np.floor(center - 0.75 * side), 0)
    high = np.minimum(np.ceil(center + 0.75 * side) + 1, [width, height])
    if (low >= high).any():
        raise UserError(f"there is no picture at {np.round(center).tolist()}; it measures {width} x {height}")
    step = max(1, round(side / size))
    (x, y), (columns, rows) = low.astype(int), np.maximum(1, (high - low) // step).astype(int)
    around = pixels[y : y + rows * step, x : x + columns * step]
    if step > 1:
        around = cv2.resize(around, (columns, rows), interpolation=cv2.INTER_AREA)
    matrix = alignment.crop_matrix((center - low + 0.5) / step - 0.5, side / step, size, angle_rad)
    return cv2.warpAffine(around, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
