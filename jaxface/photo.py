"""Reading a user's photo safely: files, their bytes, PIL images and arrays as upright RGB pixels.

The only reader of photos: inference and the builders of data sets use it. Pixel coordinates: x right, y down, pixel
centres at integers, in the full image as displayed.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from jaxface import image_decoding
from jaxface.errors import UserError, shortened
from jaxface.image_decoding import ORIENTATION_TAG as ORIENTATION_TAG

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .jp2 .ppm .pgm .pbm .pnm .avif".split()
)
# Larger images are reduced to 1/2, 1/4, … of their size: 150 MB are enough for crops of faces.
MAX_KEPT_PIXELS = 50_000_000


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


def load(source: Any, max_kept: int | None = MAX_KEPT_PIXELS) -> Photo:
    """The photo in a file, the bytes of a file, an open binary file, a PIL image or an array.

    Transparency is blended with white, EXIF and XMP orientation is applied, the first frame of an animation is used,
    and samples of more than 8 bits are scaled to 8 (`image_decoding.to_eight_bits`).

    Args:
        source: a path, bytes, a binary file such as io.BytesIO, a PIL image, a `Photo`, or an array (H,W), (H,W,1),
            (H,W,3) or (H,W,4) of uint8, uint16 or floats in [0,1].
        max_kept: pixels of a file or PIL image that are kept; larger ones are reduced, see `Photo.step`. None keeps
            the full resolution.

    Raises:
        UserError: the source is missing, empty, truncated, not an image, or too large.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source), max_kept)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(source), "bytes", max_kept)
    if isinstance(source, Image.Image):
        name = pathlib.Path(str(getattr(source, "filename", "") or "PIL image")).name
        with _decoder_errors(name):
            return _from_image(source, max_kept)[0]
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        return _from_file(source, max_kept)
    return _from_array(source)


def load_rgba(path: str | os.PathLike) -> np.ndarray:
    """The pixels (H,W,4) uint8 of an image file with its transparency, as stored. Raises UserError as `load`."""
    load(path)
    with _decoder_errors(pathlib.Path(path).name), Image.open(path) as image:
        return np.array(image.convert("RGBA"))


def _from_path(source: str, max_kept: int | None) -> Photo:
    if not source:
        raise UserError("photo: the path is empty; give the path of a file")
    if "://" in source or source.startswith(("http:", "https:", "file:")):
        raise UserError(f"{shortened(source)}: an address is not a file; download it and give its path")
    path = pathlib.Path(source)
    # Unlike pathlib, os.path takes a name that is too long or has a null character for that of no file.
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder is not a photo; give a list of its files, or --input of launch.infer")
    if not os.path.isfile(path):
        raise UserError(f"{shortened(str(path))}: there is no such file; check the path")
    try:
        with open(path, "rb") as stream:
            return _from_stream(stream, path.name, max_kept)
    except PermissionError as error:
        raise UserError(f"{path.name}: no permission to read the file; change its mode") from error
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror}); copy it again") from error


def _from_file(file: Any, max_kept: int | None) -> Photo:
    """The photo in an open file, read from its current position; its position is undefined afterwards."""
    name = pathlib.Path(str(getattr(file, "name", None) or "file object")).name
    data = file.read()
    if not isinstance(data, bytes):
        raise UserError(f"{name}: a file opened as text is not a photo; open it in mode 'rb'")
    return _from_stream(io.BytesIO(data), name, max_kept)


def _from_stream(stream: BinaryIO, name: str, max_kept: int | None) -> Photo:
    """The photo in a binary stream; `name` is for messages."""
    num_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if num_bytes == 0:
        raise UserError(f"{name}: the file is empty (0 bytes); copy it again")
    with _decoder_errors(name):
        try:
            image = image_decoding.open_image(stream)
        except Image.UnidentifiedImageError:
            stream.seek(0)
            if stream.read(4) not in image_decoding.TIFF_MAGIC:
                raise
            return _by_opencv(stream)
        with image:
            bits = 1 if image.mode == "1" else 8
            image_decoding.check_size(*image.size, num_bytes, bits)
            loaded, raw_mode = _from_image(image, max_kept)
        if image_decoding.is_dark_16_bit(raw_mode, loaded.pixels) and loaded.step == 1:
            return _by_opencv(stream)
        return loaded


def _by_opencv(stream: BinaryIO) -> Photo:
    stream.seek(0)
    pixels = image_decoding.decode_by_opencv(stream.read())
    return Photo(pixels, pixels.shape[1], pixels.shape[0])


def _from_image(image: Image.Image, max_kept: int | None) -> tuple[Photo, str]:
    """The photo of a PIL image and the layout of its samples in the file."""
    step = 1 if max_kept is None else image_decoding.reduction(*image.size, max_kept)
    raw_mode = image_decoding.raw_mode(image)
    pixels, width, height = image_decoding.decode(image, step)
    return Photo(pixels, width, height, step), raw_mode


@contextlib.contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Turns any error of a decoder inside the body into a UserError about the image `name`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{name}: not enough memory to decode it; reduce it") from error
    except Image.UnidentifiedImageError as error:
        if name == "bytes":
            raise UserError(
                "bytes: their content is not a photo; give the bytes of a JPEG, PNG or TIFF file"
            ) from error
        raise UserError(f"{name}: not a readable image file; convert it to JPEG, PNG, WebP or TIFF") from error
    except Exception as error:  # decoders raise any exception for damaged files
        reason = str(error) or type(error).__name__
        raise UserError(f"{name}: damaged or truncated ({reason}); copy it again") from error


def _from_array(source: Any) -> Photo:
    array = np.asarray(source)
    if array.dtype.kind not in "biufc" and not isinstance(source, np.ndarray):
        name = type(source).__name__
        raise UserError(f"photo: {name} is not a photo; give a path, a PIL image or an array, or a list of these")
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise UserError(f"image array: the shape is {array.shape}; it must be (H,W), (H,W,3) or (H,W,4)")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UserError("image array: floats must lie in [0,1]; divide by 255 or convert the array to uint8")
    elif array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"image array: the dtype is {array.dtype}; it must be uint8, uint16 or float in [0,1]")
    pixels = np.ascontiguousarray(image_decoding.flatten(image_decoding.to_eight_bits(array)))
    return Photo(pixels, pixels.shape[1], pixels.shape[0])
