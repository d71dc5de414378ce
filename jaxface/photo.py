"""Reading a user's photo safely: files, PIL images and arrays as upright RGB pixels.

Pixel coordinates: x right, y down, pixel centres at integers, in the full image as displayed.
"""

import dataclasses
import math
import os
import pathlib
import threading
from typing import Any

import numpy as np
from PIL import Image

from jaxface.errors import UserError

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .jp2 .ppm .pgm .avif".split())
# PIL needs about 2 GB to decode an image of this size; larger ones are refused.
MAX_PIXELS = 500_000_000
# Larger images are reduced to 1/2, 1/4, … of their size: 150 MB are enough for crops of faces.
MAX_KEPT_PIXELS = 50_000_000
ORIENTATION_TAG = 0x0112

_size_limit_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded, upright image.

    Attributes:
        pixels: (h,w,3) uint8 RGB.
        width: px, of the full image.
        height: px, of the full image.
        step: a pixel of `pixels` covers step x step pixels of the full image; 1 except for huge files.
    """

    pixels: np.ndarray
    width: int
    height: int
    step: int = 1

    def to_full(self, points: np.ndarray) -> np.ndarray:
        """Coordinates in `pixels` -> coordinates in the full image (any shape)."""
        return (np.asarray(points) + 0.5) * self.step - 0.5

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Coordinates in the full image -> coordinates in `pixels` (any shape)."""
        return (np.asarray(points) + 0.5) / self.step - 0.5


def load(source: Any) -> Photo:
    """The photo in a file, a PIL image or an array.

    Arrays: (H,W), (H,W,1), (H,W,3) or (H,W,4), uint8, uint16 or float in [0,1]. Transparency is blended with white,
    EXIF orientation is applied, the first frame of an animation is used, 16 bits become 8. Raises UserError if the
    source cannot be decoded.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if isinstance(source, Image.Image):
        return _decode(source, *source.size)
    return _from_array(source)


def read_image(path: str | os.PathLike) -> Photo:
    """The photo in a file; see `load`.

    Raises UserError if the file is missing, empty, truncated, not an image or larger than MAX_PIXELS.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name}: the file is empty (0 bytes); copy it again")
    try:
        with _open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{path.name}: {width} x {height} exceeds {MAX_PIXELS // 10**6} megapixels; reduce it")
            if (step := _step(width, height)) > 1:
                image.draft(None, (width // step, height // step))  # the JPEG decoder then reduces the image itself
            return _decode(image, width, height)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path.name}: no permission to read the file; change its mode") from error
    except MemoryError as error:
        raise UserError(f"{path.name}: not enough memory to decode {width} x {height} pixels; reduce it") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path.name}: not a readable image file; convert it to JPEG, PNG, WebP or TIFF") from error
    except Exception as error:  # decoders raise any exception for damaged files
        reason = str(error) or type(error).__name__
        raise UserError(f"{path.name}: damaged or truncated ({reason}); copy it again") from error


def _open(path: pathlib.Path) -> Image.Image:
    """Opens a file without PIL's size limit, a global setting that rejects large scans and panoramas."""
    with _size_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _step(width: int, height: int) -> int:
    """Factor, a power of two, by which an image of this size is reduced; see `Photo.step`."""
    return 2 ** max(0, math.ceil(math.log2(width * height / MAX_KEPT_PIXELS) / 2))


def _decode(image: Image.Image, width: int, height: int) -> Photo:
    """The photo of a PIL image, which the decoder may have reduced by 2, 4 or 8 from `width` x `height` pixels."""
    orientation, step = image.getexif().get(ORIENTATION_TAG, 1), _step(width, height)
    remaining = step // round(width / image.width)
    image = _eight_bit(image)
    if remaining > 1:
        image = image.reduce(remaining)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = _upright(np.asarray(image.convert("RGB")), orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Photo(np.ascontiguousarray(pixels), width, height, step)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts the modes that PIL can neither reduce nor scale correctly to L, RGB or RGBA."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "P", "PA", "La", "RGBa"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as displayed, for the EXIF orientations 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _from_array(source: Any) -> Photo:
    array = np.asarray(source)
    if array.dtype.kind not in "biufc" and not isinstance(source, np.ndarray):
        name = type(source).__name__
        raise UserError(f"photo: {name} is not a photo; give a path, a PIL image or an array, or a list of these")
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise UserError(f"image array: the shape is {array.shape}; it must be (H,W), (H,W,3) or (H,W,4)")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UserError("image array: floats must lie in [0,1]; divide by 255 or convert the array to uint8")
        array = (array * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"image array: the dtype is {array.dtype}; it must be uint8, uint16 or float in [0,1]")
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return Photo(np.ascontiguousarray(array), array.shape[1], array.shape[0])
