"""Training and evaluation examples: landmarks follow the augmentation, and rendered heads keep their landmarks."""

import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.systems.pipnet import augmentation, data, meanface

SIZE = 64
POINTS = np.array([[20, 26], [45, 29], [32, 51]]) / SIZE
FLIP = np.array([1, 0, 2])
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])


def marked(points=POINTS, size=SIZE):
    """A black image with a coloured square at each point."""
    image = np.zeros((size, size, 3), np.uint8)
    for (x, y), color in zip(points * size, COLORS, strict=True):
        image[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3] = color
    return image


def centroids(image):
    """Centroids (3,2) of the squares in crop units."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    weights = [np.where((image == color).all(-1), 1.0, 0.0) for color in COLORS]
    return np.array([[(w * x).sum(), (w * y).sum()] / w.sum() for w in weights])


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_shift_turn_and_mirror(seed):
    rng = np.random.default_rng(seed)
    image, points = augmentation.translate(marked(), POINTS, rng)
    np.testing.assert_allclose(centroids(image), points, atol=0.6 / SIZE)
    image, points = augmentation.rotate(image, points, rng.uniform(-30, 30))
    np.testing.assert_allclose(centroids(image), points, atol=1 / SIZE)


def test_shifts_reach_thirty_pixels_of_256_and_hold_points_inside():
    shifts = []
    for seed in range(300):
        _, points = augmentation.translate(marked(), np.array([[0.5, 0.5], [0.0, 1.0]]), np.random.default_rng(seed))
        shifts.append(points[0] - 0.5)
        assert points.min() >= 0 and points.max() <= 1
    assert 0.1 < np.abs(shifts).max() <= 30 / 256 and abs(np.mean(shifts)) < 0.02


def test_occlusion_covers_up_to_two_fifths_with_one_colour():
    largest = 0
    for seed in range(50):
        covered = (augmentation.occlude(np.full((SIZE, SIZE, 3), 7, np.uint8), np.random.default_rng(seed)) != 7).any(
            -1
        )
        rows, columns = covered.any(1).sum(), covered.any(0).sum()
        assert covered.sum() == rows * columns and max(rows, columns) <= 0.4 * SIZE
        largest = max(largest, rows, columns)
    assert largest > 0.3 * SIZE


def stored(points=POINTS):
    """An annotated photograph whose crop is wider than high."""
    image = np.zeros((90, 200, 3), np.uint8)
    image[10:74, 20:148] = np.repeat(marked(points), 2, axis=1)
    return {"image": image, "crop": np.array([20, 10, 148, 74]), "crop_landmarks": np.float32(points)}


def test_annotated_faces_are_scored_in_both_units():
    example = data.preprocess_eval(stored(), SIZE, (0, 1))
    np.testing.assert_allclose(centroids(np.round(example["image"] * 255)), POINTS, atol=0.6 / SIZE)
    np.testing.assert_allclose(example["norm_crop"], np.hypot(*(POINTS[0] - POINTS[1])), rtol=1e-6)
    np.testing.assert_allclose(example["norm_px"], np.hypot(25 * 2, 3), rtol=1e-6)
    whole = data.preprocess_eval(stored(), SIZE, ())
    assert whole["norm_crop"] == 1 and whole["norm_px"] == pytest.approx(np.sqrt(128 * 64))


def test_mirroring_renames_points():
    mirrored = 0
    for seed in range(40):
        example = data.preprocess_train(stored(), seed, SIZE, FLIP)
        again = data.preprocess_train(stored(), seed, SIZE, FLIP)
        np.testing.assert_array_equal(example["image"], again["image"])
        left, right = example["points"][:2, 0]
        assert left < right and example["points"].dtype == np.float32 and example["image"].dtype == np.uint8
        mirrored += np.allclose(example["points"], POINTS[FLIP] * [-1, 1] + [1, 0])
    assert mirrored > 2


def test_rendered_heads_keep_their_points():
    """The mean face as a head's landmarks: the crop of its box reproduces it, a jittered crop roughly."""
    face = meanface.rendered_meanface()
    width, height = np.ptp(canonical.queries("dense")[:, :2], axis=0)
    lower_edge = 0.5 + height / (alignment.SIDE_PER_BOX * (width + height))
    assert 0.1 < face.min() and face.max() < lower_edge, "no point below the box of the face"
    box, side = np.array([40.0, 30.0, 120.0, 130.0]), 1.3 * 90
    landmarks = np.array([80.0, 80.0]) + (face - 0.5) * side
    record = {
        "image": np.zeros((160, 160, 3), np.uint8),
        "box": box,
        "landmarks": landmarks,
        "landmarks_mm": np.concatenate([face * 200, np.full((68, 1), 500.0)], 1),
        "focal_px": 300.0,
    }
    example = data.preprocess_eval(record, SIZE, (36, 45))
    np.testing.assert_allclose(example["landmarks"], face, atol=1e-5)
    assert example["norm_px"] == pytest.approx(300 / 500 * 200 * np.linalg.norm(face[36] - face[45]), rel=1e-5)
    np.testing.assert_allclose(example["norm_px"], example["norm_crop"] * side, rtol=1e-5)
    for seed in range(10):
        points = data.preprocess_train(record, seed, SIZE, LAYOUT_68.flip)["points"]
        assert np.abs(points - face).max() < 0.3 and points[36, 0] < points[45, 0]


def test_flip_maps_are_checked():
    config = get_config("smoke")
    np.testing.assert_array_equal(data.flip_map(config), LAYOUT_68.flip)
    config.data.flip = tuple(range(1, 68)) + (0,)
    with pytest.raises(UserError, match="must pair each of the 68 landmarks"):
        data.flip_map(config)
    config.data.flip, config.model.layout = (), "own"
    with pytest.raises(UserError, match="config.data.flip"):
        data.flip_map(config)
