"""Alignment, skin, the box network and augmentation: the official numbers, the way back, and bad points."""

import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.systems.deep3d.preprocessing import alignment, augment, skin_mask
from tests import weights


@pytest.fixture(scope="module")
def golden():
    return np.load(weights.GOLDEN / "deep3d_preprocess.npz")


@pytest.fixture(scope="module")
def picture():
    return (255 * weights.image("deep3d.raw", (1, 300, 260, 3))[0]).astype(np.uint8)


def test_the_official_crop(golden, picture):
    crop = alignment.align(golden["five"], 260, 300)
    np.testing.assert_allclose(crop.parameters, golden["trans_params"], rtol=1e-8)
    made = crop.cut(picture)
    np.testing.assert_array_equal(made[::4, ::4], golden["img_sub"])
    np.testing.assert_array_equal(made.sum((0, 1), dtype=np.int64), golden["img_sum"])
    np.testing.assert_allclose(crop.landmarks(golden["five"]), golden["lm_new"], atol=1e-5)
    np.testing.assert_allclose(crop.to_picture(golden["lm_new"]), golden["five"], atol=1e-4)


def test_a_part_alone_is_resized_alike(golden, picture, monkeypatch):
    crop = alignment.align(golden["five"], 260, 300)
    whole = crop.cut(picture).astype(int)
    monkeypatch.setattr(alignment, "LARGEST_RESIZED", 0)
    assert np.abs(crop.cut(picture) - whole).max() <= 2


@pytest.mark.parametrize("shift, factor, size", [((0, 0), 1.0, 224), ((-150, 40), 0.3, 96), ((160, 230), 7.0, 64)])
def test_pinhole_and_landmarks_find_the_pixels_of_the_crop(golden, picture, shift, factor, size):
    """A picture that says where it is, cut at its border, reduced and enlarged: what the crop shows is where we say."""
    height, width = (np.array([300, 260]) * 2).tolist()
    x, y = np.meshgrid(np.arange(width) * 0.4, np.arange(height) * 0.4)
    five = (golden["five"] - golden["five"].mean(0)) * factor + [260, 300] + shift
    crop = alignment.align(five, width, height, size)
    shown = crop.cut(np.rint(np.stack([x, y, 0 * x], -1)).astype(np.uint8))
    focal, center = crop.pinhole(1.0)
    row, column = np.nonzero((shown[..., :2] > 8).all(-1))
    there = (np.stack([column, row], -1) + 0.5 - size / 2) * focal + center
    inside = (there > 20).all(-1) & (there < np.array([width, height]) - 20).all(-1)
    assert inside.sum() > 100
    error = (shown[row, column, :2] / 0.4 - there)[inside]
    assert np.abs(error.mean(0)).max() < 0.3 and np.abs(error).max() < 2.6
    by_landmarks = crop.to_picture(alignment.flip_y(np.stack([column, row], -1), size))[inside]
    assert np.abs(by_landmarks - there[inside]).max() <= 1.6 / crop.scale + 1


@pytest.mark.parametrize(
    "shift, factor, mirror", [((0, 0), 1.0, False), ((-150, 40), 0.5, True), ((90, 100), 3.0, True)]
)
def test_other_sizes_than_the_published_are_exact(golden, shift, factor, mirror):
    """A picture that says where it is: landmarks of the crop, also after augmentation, name the very pixels."""
    size, (height, width) = 128, (600, 520)
    x, y = np.meshgrid(np.arange(width) * 0.4, np.arange(height) * 0.4)
    five = (golden["five"] - golden["five"].mean(0)) * factor + [260, 300] + shift
    crop = alignment.align(five, width, height, size)
    affine = augment.affine_matrix(size, (3.0, -2.0), np.deg2rad(4.0), 1.05, mirror)
    shown = augment.warp_image(crop.cut(np.rint(np.stack([x, y, 0 * x], -1)).astype(np.uint8)), affine)
    row, column = np.nonzero((shown[..., :2] > 12).all(-1))
    edges = np.stack([column, row], -1) + 0.5
    edges = (edges - affine[:2, 2]) @ np.linalg.inv(affine[:2, :2]).T
    there = crop.to_picture(np.stack([edges[:, 0], size - edges[:, 1]], -1))
    inside = (there > 30).all(-1) & (there < np.array([width, height]) - 30).all(-1)
    error = ((shown[row, column, :2] + 0.5) / 0.4 - there)[inside]  # PIL's warp cuts grey levels off, not rounds
    assert inside.sum() > 3000 and np.abs(error.mean(0)).max() < 0.2
    np.testing.assert_allclose(crop.landmarks(there[:9]), crop.at(224).landmarks(there[:9]) * size / 224, atol=1e-9)


def test_skin(golden, picture):
    made = skin_mask.probability(golden["skin_bgr"][..., ::-1])
    np.testing.assert_array_equal(made, golden["skin_prob"])
    for size, factor in ((224, 1.0), (64, 2.5), (96, 0.4)):
        crop = alignment.align((golden["five"] - 130) * factor + 130, 260, 300, size)
        np.testing.assert_array_equal(
            alignment.skin_probability(picture, crop), crop.cut(skin_mask.probability(picture))
        )


def test_augmentation(golden):
    image = (255 * weights.image("deep3d.aug", (1, 224, 224, 3))[0]).astype(np.uint8)
    for affine, mirror, picture, landmarks in zip(
        *(golden[name] for name in ("affine", "flip", "img_aug_sub", "lm_aug")), strict=True
    ):
        np.testing.assert_array_equal(augment.warp_image(image, affine)[::8, ::8], picture)
        made = augment.warp_landmarks(golden["lm68"], affine, mirror, 224)
        np.testing.assert_allclose(made, landmarks, atol=2e-5)
    third = augment.affine_matrix(224, (-2.0, 7.0), np.deg2rad(9.912896710209257), 0.9468661922093393, False)
    np.testing.assert_allclose(third, golden["affine"][2], atol=1e-12)


def test_random_maps_stay_within_their_limits():
    rng = np.random.default_rng(0)
    drawn = [augment.random_affine(rng, 112) for _ in range(200)]
    mirrored = np.array([mirror for _, mirror in drawn])
    linear = np.stack([affine[:2, :2] for affine, _ in drawn])
    assert 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(np.linalg.det(linear) < 0, mirrored)
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    turn = np.arctan2(linear[:, 0, 1], linear[:, 1, 1])
    assert 0.9 <= scale.min() < 0.92 and 1.08 < scale.max() <= 1.1 and 9 < np.rad2deg(np.abs(turn)).max() <= 10
    moved = np.stack([affine @ [56, 56, 1] for affine, _ in drawn])[:, :2] - 56
    assert 4 < np.abs(moved).max() < 5.5 * 1.1 * np.sqrt(2)


@pytest.mark.parametrize(
    "points, message",
    [
        (np.zeros((4, 2)), "68 or 5 finite points"),
        (np.full((68, 2), np.nan), "68 or 5 finite points"),
        (np.ones((5, 2)), "too small"),
        (np.array([(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)]) * 1e6, "times larger than the picture"),
    ],
)
def test_points_that_are_no_face(points, message):
    with pytest.raises(UserError, match=message):
        alignment.align(points, 40, 30)


def test_a_face_outside_leaves_the_crop_black():
    five = np.array([(0, 0), (30, 0), (15, 15), (4, 30), (26, 30)]) - 500.0
    assert alignment.align(five, 60, 60).cut(np.full((60, 60, 3), 200, np.uint8)).max() == 0
