import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxface import photo
from jaxface.errors import UserError
from jaxface.geometry import alignment


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """A picture (H,W,3) without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def gray_of(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L"))


def saved(picture: Image.Image, path, **options):
    picture.save(path, **options)
    return photo.load(path).pixels


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "LA", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_modes_are_read_as_displayed(tmp_path, mode, ending):
    if (mode, ending) == ("CMYK", "png"):
        ending = "jpg"
    picture = Image.fromarray(ramp()).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    difference = saved(picture, tmp_path / f"a.{ending}") - expected
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


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert photo.load(tmp_path / "a.gif").pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[photo.ORIENTATION_TAG] = orientation
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    loaded = photo.load(tmp_path / "a.png")
    assert np.array_equal(loaded.pixels, expected) and (loaded.height, loaded.width) == expected.shape[:2]


@pytest.mark.parametrize(("ending", "size"), [("png", (16001, 12002)), ("jpg", (16001, 12002))])
def test_huge_pictures_are_kept_smaller_and_measured_in_full(tmp_path, ending, size):
    picture = Image.new("L", size)
    picture.paste(255, (4000, 8000, 4400, 8200))
    picture.save(tmp_path / f"a.{ending}")
    loaded = photo.load(tmp_path / f"a.{ending}")
    assert (loaded.width, loaded.height, loaded.step) == (*size, 2)
    y, x = np.nonzero(loaded.pixels[..., 0] > 128)
    center = loaded.to_full(np.array([x.mean(), y.mean()]))
    assert np.allclose(center, [4199.5, 8099.5], atol=0.5) and np.allclose(loaded.to_kept(center), [x.mean(), y.mean()])


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
        (b"no picture at all", "not a picture"),
        (jpeg()[: len(jpeg()) // 2], "cut short"),
        (png_of_size(100, 100), "cut short"),
        (png_of_size(60000, 60000), "500 megapixels"),
        (None, "no such file"),
    ],
)
def test_unreadable_files_cost_one_line(tmp_path, data, words):
    if data is not None:
        (tmp_path / "bad.jpg").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        photo.load(tmp_path / "bad.jpg")
    assert "bad.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_and_pil_pictures_agree():
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
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError):
        photo.load(array)


@pytest.mark.parametrize("degrees", [0, 40])
def test_the_cascade_finds_one_face(degrees):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    turned = np.asarray(Image.fromarray(astronaut).rotate(degrees, Image.Resampling.BILINEAR))
    (box,) = photo.detect_faces(turned)
    center = np.array([224.0, 117.0]) - 255.5
    angle = -np.deg2rad(degrees)
    expected = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ center + 255.5
    assert np.linalg.norm((box[:2] + box[2:]) / 2 - expected) < 8
    assert 90 < box[3] - box[1] < 120


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (300, 300, 3)])
def test_no_face_no_box(shape):
    assert photo.detect_faces(np.full(shape, 90, np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    "boxes", [[1, 2, 3], "face", [1, 2, np.nan, 9], [9, 2, 9, 9], [-50, 0, -1, 9], [60, 0, 90, 9], [[0, 40, 9, 50]]]
)
def test_bad_boxes_are_refused(boxes):
    with pytest.raises(UserError):
        photo.check_boxes(boxes, 60, 40)


@pytest.mark.parametrize(("center", "side", "angle"), [((30.0, 20.0), 10.0, 0.5), ((33.2, 19.1), 24.0, -0.3)])
def test_a_crop_shows_what_its_matrix_says(center, side, angle):
    crop = photo.cut(ramp(), np.array(center), side, angle, 8)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2).astype(float)
    matrix = alignment.invert_affine(alignment.crop_matrix(np.array(center), side, 8, angle))
    x, y = alignment.apply_affine(matrix, grid).T
    assert np.allclose(crop.reshape(-1, 3)[:, :2], np.stack([x * 4, y * 6], -1), atol=1.5)


def test_large_squares_are_averaged_not_sampled():
    fine = np.indices((400, 400)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    crop = photo.cut(fine.astype(np.uint8), np.array([199.5, 199.5]), 390.0, 0.2, 32)
    assert np.abs(crop.astype(int) - 127.5).max() < 13
    with pytest.raises(UserError, match="no picture at"):
        photo.cut(ramp(), np.array([500.0, 10.0]), 20.0, 0.0, 8)
