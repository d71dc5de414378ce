import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from jaxface import detection
from jaxface.errors import UserError


@pytest.mark.parametrize("degrees", [0, 40])
def test_the_cascade_finds_one_face(degrees):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    turned = np.asarray(Image.fromarray(astronaut).rotate(degrees, Image.Resampling.BILINEAR))
    (box,) = detection.detect_faces(turned)
    center = np.array([224.0, 117.0]) - 255.5
    angle = -np.deg2rad(degrees)
    expected = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ center + 255.5
    assert np.linalg.norm((box[:2] + box[2:]) / 2 - expected) < 8
    assert 90 < box[3] - box[1] < 120


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (300, 300, 3)])
def test_no_face_no_box(shape):
    assert detection.detect_faces(np.full(shape, 90, np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    "boxes", [[1, 2, 3], "face", [1, 2, np.nan, 9], [9, 2, 9, 9], [-50, 0, -1, 9], [60, 0, 90, 9], [[0, 40, 9, 50]]]
)
def test_bad_boxes_are_refused(boxes):
    with pytest.raises(UserError):
        detection.check_boxes(boxes, 60, 40)


def test_threads_find_the_same_faces():
    """The cascade keeps the image it works on, so that a shared one mixes up the images of several threads."""
    astronaut = pytest.importorskip("skimage.data").astronaut()
    images = [np.ascontiguousarray(astronaut[:, shift : shift + 400]) for shift in range(0, 96, 8)]
    expected = [detection.detect_faces(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detection.detect_faces, images))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
