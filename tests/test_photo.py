import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import EpsImagePlugin, Image, ImageOps

from jaxface import image_decoding, photo
from jaxface.errors import UserError


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """An image (H,W,3) without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def gray_of(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return photo.load(path).pixels


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "LA", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_modes_are_read_as_displayed(tmp_path, mode, ending):
    if (mode, ending) == ("CMYK", "png"):
        ending = "jpg"
    image = Image.fromarray(ramp()).convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    difference = saved(image, tmp_path / f"a.{ending}") - expected
    assert np.abs(difference).max() <= (24 if ending == "jpg" else 0)


def test_sixteen_bits_are_scaled(tmp_path):
    gray = gray_of(ramp())
    pixels = saved(Image.fromarray(gray.astype(np.uint16) * 257), tmp_path / "a.png")
    assert np.array_equal(pixels[..., 0], gray) and pixels.shape == (40, 60, 3)
    assert np.array_equal(saved(Image.fromarray(gray.astype(np.float32) / 255), tmp_path / "a.tif")[..., 1], gray)


def test_transparent_parts_become_white(tmp_path):
    rgba = np.dstack([ramp(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    pixels = saved(Image.fromarray(rgba), tmp_path / "a.png")
    assert (pixels[:20] == 255).all() and np.array_equal(pixels[20:], ramp()[20:])
    assert np.array_equal(photo.load(rgba).pixels, pixels)
    palette = Image.fromarray(ramp()).convert("P")
    assert (saved(palette, tmp_path / "b.png", transparency=palette.getpixel((0, 0)))[0, 0] == 255).all()


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert photo.load(tmp_path / "a.gif").pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[photo.ORIENTATION_TAG] = orientation
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    loaded = photo.load(tmp_path / "a.png")
    assert np.array_equal(loaded.pixels, expected) and (loaded.height, loaded.width) == expected.shape[:2]


@pytest.mark.parametrize(("ending", "size"), [("png", (16001, 12002)), ("jpg", (16001, 12002))])
def test_huge_images_are_kept_smaller_and_measured_in_full(tmp_path, ending, size):
    image = Image.new("L", size)
    image.paste(255, (4000, 8000, 4400, 8200))
    image.save(tmp_path / f"a.{ending}")
    loaded = photo.load(tmp_path / f"a.{ending}")
    assert (loaded.width, loaded.height, loaded.step) == (*size, 2)
    y, x = np.nonzero(loaded.pixels[..., 0] > 128)
    center = loaded.to_full(np.array([x.mean(), y.mean()]))
    assert np.allclose(center, [4199.5, 8099.5], atol=0.5) and np.allclose(
        loaded.to_pixels(center), [x.mean(), y.mean()]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "webp", "avif", "float tif", "12 bit png"])
def test_orientation_is_applied_once_in_every_format(tmp_path, kind, orientation):
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = image_decoding.upright(ramp(), inverse)
    path = tmp_path / f"a.{kind.split()[-1]}"
    exif = Image.Exif()
    exif[photo.ORIENTATION_TAG] = orientation
    if kind == "float tif":
        tag = [(photo.ORIENTATION_TAG, "H", 1, orientation, True)]
        tifffile.imwrite(path, (stored / 255).astype(np.float32), photometric="rgb", extratags=tag)
    elif kind == "12 bit png":
        data = cv2.imencode(".png", stored[..., ::-1].astype(np.uint16) * 16)[1].tobytes()
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(data[:33] + chunk + data[33:])
    else:
        Image.fromarray(stored).save(path, exif=exif, **({} if kind == "tif" else {"quality": 95}))
    for source in [path, path.read_bytes(), *([] if " " in kind else [Image.open(path)])]:
        loaded = photo.load(source)
        assert (loaded.height, loaded.width) == (40, 60) == loaded.pixels.shape[:2]
        assert np.abs(loaded.pixels - ramp().astype(int)).mean() < (6 if kind in ("webp", "avif") else 0.1)


@pytest.mark.parametrize("kind", ["12 in 16", "white is zero", "32 bit", "float to 255"])
def test_samples_of_every_depth_are_scaled_to_eight_bits(tmp_path, kind):
    gray = gray_of(ramp())
    values, options = {
        "12 in 16": (gray.astype(np.uint16) * 16, {}),
        "white is zero": (65535 - gray.astype(np.uint16) * 257, {"photometric": "miniswhite"}),
        "32 bit": (gray.astype(np.uint32) * 16843009, {}),
        "float to 255": (gray.astype(np.float32), {}),
    }[kind]
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    assert np.abs(photo.load(tmp_path / "a.tif").pixels[..., 0] - gray.astype(int)).max() <= 1


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ramp(400, 600)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"no image at all", "not a readable image"),
        (jpeg()[: len(jpeg()) // 2], "truncated"),
        (png_of_size(100, 100), "truncated"),
        (png_of_size(60000, 60000), "500 megapixels"),
        (png_of_size(20000, 20000), "declares 20000 x 20000 pixels in"),
        (None, "no such file"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path, data, words):
    if data is not None:
        (tmp_path / "bad.jpg").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        photo.load(tmp_path / "bad.jpg")
    assert "bad.jpg" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"])
def test_truncated_images_are_refused_in_every_form(tmp_path, form):
    buffer = io.BytesIO()
    Image.fromarray(ramp(100, 120)).save(buffer, form)
    data = buffer.getvalue()
    assert photo.load(io.BytesIO(data)).pixels.shape == photo.load(data).pixels.shape == (100, 120, 3)
    (tmp_path / "cut").write_bytes(data[: int(0.9 * len(data))])
    sources = [tmp_path / "cut", (tmp_path / "cut").read_bytes(), io.BytesIO((tmp_path / "cut").read_bytes())]
    with contextlib.suppress(OSError, SyntaxError):  # Pillow cannot open all of them
        sources.append(Image.open(tmp_path / "cut"))
    for source in sources:
        with pytest.raises(UserError) as caught:
            photo.load(source)
        assert "\n" not in str(caught.value)


def test_arrays_and_pil_images_agree():
    expected = ramp()
    for source in (expected, expected.astype(np.uint16) * 257, expected / np.float32(255), Image.fromarray(expected)):
        assert np.array_equal(photo.load(source).pixels, expected)
    assert np.array_equal(photo.load(gray_of(expected)).pixels, np.dstack([gray_of(expected)] * 3))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((8, 8, 3), np.int64),
        np.full((8, 8, 3), 255.0),
        np.full((8, 8, 3), np.nan),
        "text".split(),
        b"text",
        io.StringIO("text"),
        None,
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match="is not a photo" if not isinstance(array, np.ndarray) else "image array: "):
        photo.load(array)


@pytest.mark.parametrize("name", ["n" * 5000, "a\0b.png"])
def test_names_that_no_file_can_have_are_one_short_line(name):
    with pytest.raises(UserError, match="there is no such file") as caught:
        photo.load(name)
    assert len(str(caught.value)) < 250


def test_an_empty_path_and_an_address_are_named_as_given():
    with pytest.raises(UserError, match="photo: the path is empty; give"):
        photo.load("")
    with pytest.raises(UserError, match="https://example.org/a.jpg: an address is not a file; download it"):
        photo.load("https://example.org/a.jpg")


def test_channels_in_planes_are_read_with_8_bits_and_refused_with_more(tmp_path):
    """Pillow takes the bytes of 16-bit samples for pixels, OpenCV those of one channel for all."""
    planes = np.moveaxis(ramp(20, 24), 2, 0)
    for bits, kind in ((8, np.uint8), (16, np.uint16)):
        values = planes.astype(kind) * (257 if bits == 16 else 1)
        tifffile.imwrite(tmp_path / f"{bits}.tif", values, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(photo.load(tmp_path / "8.tif").pixels, ramp(20, 24))
    with pytest.raises(UserError, match="stored one after the other in more than 8 bits; save them interleaved"):
        photo.load(tmp_path / "16.tif")


def test_files_that_are_programs_are_not_executed(tmp_path, monkeypatch):
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "a.jpg").write_bytes(program)
    for source in (tmp_path / "a.jpg", program, Image.open(io.BytesIO(program))):
        with pytest.raises(UserError, match="an EPS file is a program, which is not executed; convert it"):
            photo.load(source)


def jpeg(image: np.ndarray, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_a_jpeg_with_a_zeroed_part_is_refused(tmp_path, mode, options):
    noise = np.random.default_rng(0).integers(0, 255, (200, 160, 3), np.uint8)
    data = jpeg(noise, mode, quality=90, **options)
    start = data.index(b"\xff\xda") + 20
    for at in (start, (start + len(data)) // 2, len(data) - 130):
        damaged = data[:at] + bytes(128) + data[at + 128 :]
        (tmp_path / "a.jpg").write_bytes(damaged)
        for source in (tmp_path / "a.jpg", damaged, Image.open(io.BytesIO(damaged))):
            with pytest.raises(UserError, match="a part of its image data is zeros, it is damaged; copy it again"):
                photo.load(source)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 10}])
def test_plain_and_repetitive_jpegs_are_not_taken_for_damaged(options):
    y, x = np.mgrid[:320, :640]
    checkers = np.where((x + y) % 2, 255, 0)
    for gray in (x * 0, x * 0 + 255, x // 8, 255 - x // 8, x * 255 // 639, checkers, np.where(x < 320, 255, checkers)):
        for mode in ("RGB", "L"):
            photo.load(jpeg(np.repeat(gray[..., None], 3, -1).astype(np.uint8), mode, **options))


def test_zeros_outside_the_image_data_do_not_matter():
    data = jpeg(ramp())
    comment = b"\xff\xfe" + (502).to_bytes(2, "big") + bytes(500)
    assert np.array_equal(photo.load(data[:2] + comment + data[2:] + bytes(500)).pixels, photo.load(data).pixels)
