import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from jaxface import detection
from jaxface.errors import UserError


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_a_face_of_any_roll_is_found(degrees):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    turned = np.asarray(Image.fromarray(astronaut).rotate(degrees, Image.Resampling.BILINEAR))
    faces = detection.detect_faces(turned)
    assert len(faces) == 1 and faces.scores[0] > 0.8
    center = np.array([224.0, 117.0]) - 255.5
    angle = -np.deg2rad(degrees)
    expected = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ center + 255.5
    assert np.linalg.norm(faces.center[0] - expected) < 20
    assert np.abs(np.angle(np.exp(1j * (faces.angle_rad[0] - angle)))) < np.deg2rad(30)
    assert 100 < faces.size[0, 1] < 150 and 80 < faces.size[0, 0] < 120


@pytest.mark.parametrize("width", [48, 64])
def test_a_face_of_few_pixels_that_is_upside_down_is_not_taken_for_an_upright_one(width):
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop((150, 30, 310, 210))
    coarse = astronaut.resize((width, width * 9 // 8)).resize((320, 360)).rotate(180)
    faces = detection.detect_faces(np.asarray(coarse))
    assert len(faces) == 1 and abs(faces.angle_rad[0]) > np.deg2rad(150)


def test_small_faces_scores_and_the_largest_faces():
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    canvas = Image.new("RGB", (1000, 700), "gray")
    for x, size in ((0, 400), (500, 120), (700, 250)):
        canvas.paste(astronaut.resize((size, size)), (x, 300))
    image = np.asarray(canvas)
    faces = detection.detect_faces(image)
    assert len(faces) == 3 and (np.diff(faces.size[:, 1]) < 0).all()
    assert np.abs(faces.boxes[:, 0].round() - [140, 787, 542]).max() < 15
    assert len(detection.detect_faces(image, max_faces=2)) == 2
    assert len(detection.detect_faces(image, min_score=1.0)) == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (40, 4000, 3), (300, 300, 3)])
def test_no_face_no_box(shape):
    assert detection.detect_faces(np.full(shape, 90, np.uint8)).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "boxes",
    [
        [1, 2, 3],
        "face",
        [1, 2, np.nan, 9],
        [9, 2, 9, 9],
        [-50, 0, -1, 9],
        [60, 0, 90, 9],
        [[0, 40, 9, 50]],
        [0.2, 0.2, 0.9, 1.0],
        [10, 10, 10.5, 30],
        [-1e9, -1e9, 1e9, 1e9],
    ],
)
def test_bad_boxes_are_refused(boxes):
    with pytest.raises(UserError):
        detection.check_boxes(boxes, 60, 40)


def test_threads_find_the_same_faces():
    """A detector keeps the image it works on, so that a shared one mixes up the images of several threads."""
    astronaut = pytest.importorskip("skimage.data").astronaut()
    images = [np.ascontiguousarray(astronaut[:, shift : shift + 400]) for shift in range(0, 96, 8)]
    expected = [detection.detect_faces(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detection.detect_faces, images))
    assert all(np.array_equal(one.center, other.center) for one, other in zip(found, expected, strict=True))
