"""Decoding of image files to upright 8-bit RGB pixels: size checks, bit depths, transparency, EXIF and XMP orientation.

Pillow decodes; OpenCV decodes what Pillow cannot (TIFF files with float or 16-bit RGB samples).
"""

import contextlib
import io
import math
import threading
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from jaxface import jpeg_damage
from jaxface.errors import UserError

# PIL needs about 2 GB to decode an image of this size; larger ones are refused.
MAX_PIXELS = 500_000_000
# No codec stores more pixels of a photo in a byte (PNG: at most 1,032). An image above SMALL_PIXELS that declares more
# is damaged, and decoding it would allocate the declared size.
MAX_PIXELS_PER_BYTE = 2_000
SMALL_PIXELS = 16_000_000
ORIENTATION_TAG, PHOTOMETRIC_TAG, SAMPLE_FORMAT_TAG = 0x0112, 262, 339
BITS_TAG, PLANES_TAG, SEPARATE_PLANES = 258, 284, 2
JPEG_FORMATS = ("JPEG", "MPO")
# Files that are programs: Pillow has Ghostscript run them, whatever their names.
PROGRAMS = ("EPS",)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Numbers of bits of cameras and scanners. Samples with fewer bits than their container are scaled by the smallest
# number that holds them all.
BIT_DEPTHS = (8, 10, 12, 16, 24, 32)
# Float images up to this value are in [0,1], with some highlights above 1.
MAX_UNIT_FLOAT = 16.0

_size_limit_lock = threading.Lock()


def open_image(stream: BinaryIO) -> Image.Image:
    """Opens an image without PIL's size limit, a global setting that rejects large scans and panoramas."""
    with _size_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_size(width: int, height: int, num_bytes: int, bits_per_pixel: int = 8) -> None:
    """Raises UserError if an image is too large, or larger than a file of `num_bytes` can hold."""
    if width * height > MAX_PIXELS:
        raise UserError(f"{width} x {height} exceeds {MAX_PIXELS // 10**6} megapixels; reduce it")
    possible = num_bytes * MAX_PIXELS_PER_BYTE * (8 if bits_per_pixel == 1 else 1)
    if width * height > max(SMALL_PIXELS, possible):
        raise UserError(f"declares {width} x {height} pixels in {num_bytes} bytes, it is damaged; copy it again")


def decode(image: Image.Image, step: int = 1) -> tuple[np.ndarray, int, int]:
    """Upright pixels of a PIL image, reduced by averaging `step` x `step` pixels.

    Args:
        image: the image, loaded or not.
        step: 1, or a power of two.

    Returns:
        pixels (h,w,3) uint8 RGB; width and height of the full upright image.

    Raises:
        Exception: any that the decoder raises for a damaged file.
    """
    if image.format in PROGRAMS:
        raise UserError(f"an {image.format} file is a program, which is not executed; convert it to PNG")
    _check_planes(image)
    _check_zeros(image)
    width, height = image.size
    if step > 1:
        image.draft(None, (width // step, height // step))  # the JPEG decoder then reduces the image itself
    remaining = step // round(width / image.width)
    layout = raw_mode(image)
    image.load()
    # Only now: Pillow turns TIFF images while it loads them, and reads the EXIF data of PNG files after their pixels.
    orientation = _orientation(image)
    flat = _eight_bit(image, layout)
    if remaining > 1:
        flat = flat.reduce(remaining)
    if flat.has_transparency_data:
        flat = flat.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)
    pixels = upright(np.asarray(flat if flat.mode == "RGB" else flat.convert("RGB")), orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return np.ascontiguousarray(pixels), width, height


def _check_planes(image: Image.Image) -> None:
    """Raises UserError for a TIFF file with one plane per channel and more than 8 bits: Pillow misreads it."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANES_TAG) == SEPARATE_PLANES and any(bits != 8 for bits in tags.get(BITS_TAG, (8,))):
        raise UserError("its channels are stored one after the other in more than 8 bits; save them interleaved")


def _check_zeros(image: Image.Image) -> None:
    """Raises UserError for a JPEG file of which a part is zeros: decoders conceal that. A loaded image has no file."""
    stream = getattr(image, "fp", None)
    if image.format not in JPEG_FORMATS or not isinstance(stream, io.IOBase) or stream.closed:
        return
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    if jpeg_damage.has_zeroed_stretch(data):
        raise UserError("a part of its image data is zeros, it is damaged; copy it again")


def is_dark_16_bit(raw_mode: str, pixels: np.ndarray) -> bool:
    """Whether Pillow reduced colours of 12 or fewer bits in 16 to nearly black; see `decode_by_opencv`."""
    return "16" in raw_mode and raw_mode.startswith("RGB") and bool(pixels.max(initial=0) < 16)


def decode_by_opencv(data: bytes) -> np.ndarray:
    """Upright pixels (H,W,3) uint8 RGB of a PNG or TIFF file with samples that Pillow cannot read.

    Raises ValueError if OpenCV cannot read them either.
    """
    white_is_zero = False
    if data[:4] in TIFF_MAGIC:
        tags = _tiff_tags(data)
        check_size(int(tags[256]), int(tags[257]), len(data))
        orientation = 1  # OpenCV turns TIFF files itself
        white_is_zero = tags.get(PHOTOMETRIC_TAG) == 0
    else:
        orientation = _orientation(open_image(io.BytesIO(data)))
    with _silent_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim not in (2, 3):
        raise ValueError("no decoder for its pixels")
    if values.ndim == 3:
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    pixels = to_eight_bits(values)
    return upright(flatten(255 - pixels if white_is_zero else pixels), orientation)


def flatten(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H,W,3) of uint8 pixels (H,W), (H,W,1), (H,W,3) or (H,W,4); transparency is blended with white."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    return pixels


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Samples of a file or camera, any shape, as uint8.

    Integers are scaled by the smallest of BIT_DEPTHS that holds them all: 12 bits in 16 become neither black nor dark.
    Floats are in [0,1], in [0,255] or in [0,65535], by their maximum. NaN and negative values become 0.
    """
    if values.dtype == np.uint8:
        return values
    top = np.nan_to_num(values, posinf=0).max(initial=0)
    if np.issubdtype(values.dtype, np.floating):
        white = next((white for limit, white in ((MAX_UNIT_FLOAT, 1), (256, 255), (65536, 65535)) if top <= limit), top)
        return (np.nan_to_num(values) * (255 / white) + (0.5 if white == 1 else 0)).clip(0, 255).astype(np.uint8)
    bits = next(bits for bits in BIT_DEPTHS if int(top) < 2**bits)
    return (values.clip(0) >> (bits - 8)).astype(np.uint8)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as displayed, for the EXIF orientations 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def reduction(width: int, height: int, max_pixels: int) -> int:
    """Factor, a power of two, by which an image is reduced to have at most `max_pixels`."""
    return 2 ** max(0, math.ceil(math.log2(width * height / max_pixels) / 2))


def _orientation(image: Image.Image) -> int:
    """The EXIF or XMP orientation; 1 if it is absent, damaged or not one of 1 to 8, as in image viewers."""
    try:
        return _valid_orientation(image.getexif().get(ORIENTATION_TAG))
    except Exception:  # Pillow raises any exception for damaged EXIF data
        return 1


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def raw_mode(image: Image.Image) -> str:
    """The layout of the samples in the file, such as "RGB;16B"; "" if it is not known (an image without a file)."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _eight_bit(image: Image.Image, raw_mode: str) -> Image.Image:
    """Converts the modes that PIL can neither reduce nor scale correctly to L, RGB or RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        if image.mode == "I" and raw_mode == "I;32N" and tags.get(SAMPLE_FORMAT_TAG, (1,))[0] == 1:
            values = values.view(np.uint32)
        values = to_eight_bits(values)
        # Pillow inverts images in which 0 is white only up to 8 bits.
        return Image.fromarray(255 - values if tags.get(PHOTOMETRIC_TAG) == 0 else values)
    if image.mode in ("1", "P", "PA", "La", "RGBa"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _tiff_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first image of a TIFF file."""
    stream = io.BytesIO(data)
    header = stream.read(16 if data[2:3] == b"+" or data[3:4] == b"+" else 8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """Silences OpenCV, which prints the errors that it also returns."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
