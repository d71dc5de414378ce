"""Makes docs/images/overlay.jpg and deep3d.jpg from NASA's portrait in scikit-image: python docs/images/photos.py"""

import pathlib
import subprocess
import sys
import tempfile

import skimage.data
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
# The head in the portrait, and the enlargement that shows single points.
CROP, SCALE = (80, 0, 350, 230), 2
QUALITY = 88


def infer(photo: pathlib.Path, output: pathlib.Path, *flags: str) -> Image.Image:
    """The overlay that `launch.infer` writes."""
    command = [sys.executable, "-m", "launch.infer", "--input", str(photo), "--output", str(output), *flags]
    subprocess.run(command, check=True)
    return Image.open(output / f"{photo.stem}_overlay.png").convert("RGB")


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Concatenates two images of equal height horizontally."""
    image = Image.new("RGB", (left.width + right.width, left.height))
    image.paste(left, (0, 0))
    image.paste(right, (left.width, 0))
    return image


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        photo = Image.fromarray(skimage.data.astronaut()).crop(CROP)
        photo = photo.resize((SCALE * photo.width, SCALE * photo.height), Image.Resampling.BICUBIC)
        photo.save(root / "astronaut.png")
        points = infer(root / "astronaut.png", root / "68")
        dense = infer(root / "astronaut.png", root / "dense", "--layout", "dense")
        side_by_side(points, dense).save(FOLDER / "overlay.jpg", quality=QUALITY)
        head = infer(root / "astronaut.png", root / "deep3d", "--system", "deep3d")
        normals = Image.open(root / "deep3d" / "astronaut_normals.png").convert("RGB")
        side_by_side(head, normals).save(FOLDER / "deep3d.jpg", quality=QUALITY)
