"""Alignment, skin mask and augmentation: parity with the official code, inverse maps, and invalid points."""

import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.systems.deep3d.preprocessing import alignment, augment, skin_mask
from tests import weights


@pytest.fixture(scope="module")
def golden():
    return np.load(weights.GOLDEN / "deep3d_preprocess.npz")


@pytest.fixture(scope="module")
def image():
    return (255 * weights.image("deep3d.raw", (1, 300, 260, 3))[0]).astype(np.uint8)


def test_the_official_crop(golden, image):
    crop = alignment.align(golden["five"], 260, 300)
    np.testing.assert_allclose(crop.parameters, golden["trans_params"], rtol=1e-8)
    pixels = crop.cut(image)
    np.testing.assert_array_equal(pixels[::4, ::4], golden["img_sub"])
    np.testing.assert_array_equal(pixels.sum((0, 1), dtype=np.int64), golden["img_sum"])
    np.testing.assert_allclose(crop.to_crop(golden["five"]), golden["lm_new"], atol=1e-5)
    np.testing.assert_allclose(crop.to_image(golden["lm_new"]), golden["five"], atol=1e-4)


def test_resizing_only_the_region_of_the_crop_gives_the_same_image(golden, image, monkeypatch):
    crop = alignment.align(golden["five"], 260, 300)
    whole = crop.cut(image).astype(int)
    monkeypatch.setattr(alignment, "MAX_RESIZED_PIXELS", 0)
    assert np.abs(crop.cut(image) - whole).max() <= 2


@pytest.mark.parametrize("shift, factor, size", [((0, 0), 1.0, 224), ((-150, 40), 0.3, 96), ((160, 230), 7.0, 64)])
def test_pinhole_and_landmarks_map_pixels_of_the_crop_to_the_image(golden, image, shift, factor, size):
    """Colours encode image positions; crops at the border, reduced and enlarged."""
    height, width = (np.array([300, 260]) * 2).tolist()
    x, y = np.meshgrid(np.arange(width) * 0.4, np.arange(height) * 0.4)
    five = (golden["five"] - golden["five"].mean(0)) * factor + [260, 300] + shift
    crop = alignment.align(five, width, height, size)
    crop_image = crop.cut(np.rint(np.stack([x, y, 0 * x], -1)).astype(np.uint8))
    focal, center = crop.pinhole(1.0)
    row, column = np.nonzero((crop_image[..., :2] > 8).all(-1))
    expected = (np.stack([column, row], -1) + 0.5 - size / 2) * focal + center
    inside = (expected > 20).all(-1) & (expected < np.array([width, height]) - 20).all(-1)
    assert inside.sum() > 100
    error = (crop_image[row, column, :2] / 0.4 - expected)[inside]
    assert np.abs(error.mean(0)).max() < 0.3 and np.abs(error).max() < 2.6
    by_landmarks = crop.to_image(alignment.flip_y(np.stack([column, row], -1), size))[inside]
    assert np.abs(by_landmarks - expected[inside]).max() <= 1.6 / crop.scale + 1


@pytest.mark.parametrize(
    "shift, factor, mirror", [((0, 0), 1.0, False), ((-150, 40), 0.5, True), ((90, 100), 3.0, True)]
)
def test_other_sizes_than_the_published_are_exact(golden, shift, factor, mirror):
    """Colours encode image positions; landmarks of the crop, also augmented, map to the same positions."""
    size, (height, width) = 128, (600, 520)
    x, y = np.meshgrid(np.arange(width) * 0.4, np.arange(height) * 0.4)
    five = (golden["five"] - golden["five"].mean(0)) * factor + [260, 300] + shift
    crop = alignment.align(five, width, height, size)
    affine = augment.affine_matrix(size, (3.0, -2.0), np.deg2rad(4.0), 1.05, mirror)
    crop_image = augment.warp_image(crop.cut(np.rint(np.stack([x, y, 0 * x], -1)).astype(np.uint8)), affine)
    row, column = np.nonzero((crop_image[..., :2] > 12).all(-1))
    edges = np.stack([column, row], -1) + 0.5
    edges = (edges - affine[:2, 2]) @ np.linalg.inv(affine[:2, :2]).T
    expected = crop.to_image(np.stack([edges[:, 0], size - edges[:, 1]], -1))
    inside = (expected > 30).all(-1) & (expected < np.array([width, height]) - 30).all(-1)
    error = ((crop_image[row, column, :2] + 0.5) / 0.4 - expected)[inside]  # PIL's warp truncates grey levels
    assert inside.sum() > 3000 and np.abs(error.mean(0)).max() < 0.2
    np.testing.assert_allclose(
        crop.to_crop(expected[:9]), crop.with_size(224).to_crop(expected[:9]) * size / 224, atol=1e-9
    )


def test_skin(golden, image):
    posterior = skin_mask.probability(golden["skin_bgr"][..., ::-1])
    np.testing.assert_array_equal(posterior, golden["skin_prob"])
    for size, factor in ((224, 1.0), (64, 2.5), (96, 0.4)):
        crop = alignment.align((golden["five"] - 130) * factor + 130, 260, 300, size)
        np.testing.assert_array_equal(alignment.skin_probability(image, crop), crop.cut(skin_mask.probability(image)))


def test_augmentation(golden):
    image = (255 * weights.image("deep3d.aug", (1, 224, 224, 3))[0]).astype(np.uint8)
    for affine, mirror, warped, landmarks in zip(
        *(golden[name] for name in ("affine", "flip", "img_aug_sub", "lm_aug")), strict=True
    ):
        np.testing.assert_array_equal(augment.warp_image(image, affine)[::8, ::8], warped)
        warped_landmarks = augment.warp_landmarks(golden["lm68"], affine, mirror, 224)
        np.testing.assert_allclose(warped_landmarks, landmarks, atol=2e-5)
    third = augment.affine_matrix(224, (-2.0, 7.0), np.deg2rad(9.912896710209257), 0.9468661922093393, False)
    np.testing.assert_allclose(third, golden["affine"][2], atol=1e-12)


def test_random_affine_maps_stay_within_their_limits():
    rng = np.random.default_rng(0)
    sampled = [augment.random_affine(rng, 112) for _ in range(200)]
    mirrored = np.array([mirror for _, mirror in sampled])
    linear = np.stack([affine[:2, :2] for affine, _ in sampled])
    assert 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(np.linalg.det(linear) < 0, mirrored)
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    rotation = np.arctan2(linear[:, 0, 1], linear[:, 1, 1])
    assert 0.9 <= scale.min() < 0.92 and 1.08 < scale.max() <= 1.1 and 9 < np.rad2deg(np.abs(rotation)).max() <= 10
    moved = np.stack([affine @ [56, 56, 1] for affine, _ in sampled])[:, :2] - 56
    assert 4 < np.abs(moved).max() < 5.5 * 1.1 * np.sqrt(2)


@pytest.mark.parametrize(
    "points, message",
    [
        (np.zeros((4, 2)), "68 or 5 finite points"),
        (np.full((68, 2), np.nan), "68 or 5 finite points"),
        (np.ones((5, 2)), "too small"),
        (np.array([(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)]) * 1e6, "times larger than the image"),
    ],
)
def test_points_that_cannot_be_aligned(points, message):
    with pytest.raises(UserError, match=message):
        alignment.align(points, 40, 30)


def test_a_face_outside_leaves_the_crop_black():
    five = np.array([(0, 0), (30, 0), (15, 15), (4, 30), (26, 30)]) - 500.0
    assert alignment.align(five, 60, 60).cut(np.full((60, 60, 3), 200, np.uint8)).max() == 0
