import numpy as np
import pytest

from jaxface import crops
from jaxface.errors import UserError
from jaxface.geometry import alignment


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """An image (H,W,3) whose colours are its coordinates."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


@pytest.mark.parametrize(("center", "side", "angle"), [((30.0, 20.0), 10.0, 0.5), ((33.2, 19.1), 24.0, -0.3)])
def test_a_crop_agrees_with_its_matrix(center, side, angle):
    crop = crops.cut(ramp(), np.array(center), side, angle, 8)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2).astype(float)
    matrix = alignment.invert_affine(alignment.crop_matrix(np.array(center), side, 8, angle))
    x, y = alignment.apply_affine(matrix, grid).T
    assert np.allclose(crop.reshape(-1, 3)[:, :2], np.stack([x * 4, y * 6], -1), atol=1.5)


def test_large_squares_are_averaged_not_sampled():
    fine = np.indices((400, 400)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    crop = crops.cut(fine.astype(np.uint8), np.array([199.5, 199.5]), 390.0, 0.2, 32)
    assert np.abs(crop.astype(int) - 127.5).max() < 13
    with pytest.raises(UserError, match="no image content at"):
        crops.cut(ramp(), np.array([500.0, 10.0]), 20.0, 0.0, 8)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_batches_have_few_sizes_and_all_rows(count):
    sizes, images = [], np.arange(3.0 * count).reshape(count, 3)

    def network(batch):
        sizes.append(len(batch))
        return {"twice": 2 * batch, "first": batch[:, 0]}

    outputs = crops.run_in_batches(network, images, max_batch=32)
    assert np.array_equal(outputs["twice"], 2 * images) and np.array_equal(outputs["first"], images[:, 0])
    assert sizes == {1: [1], 5: [8], 40: [32, 8]}[count]


def test_outputs_that_are_not_finite_are_an_error():
    crops.check_finite(np.zeros(3), np.ones(2))
    with pytest.raises(UserError, match="not finite"):
        crops.check_finite(np.zeros(3), np.array([1.0, np.nan]))


@pytest.mark.parametrize("shape", [(2, 8, 8), (0, 8, 8, 3), (2, 8, 8, 4), (2, 8, 9, 3)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(UserError, match=r"must be \(B,8,8,3\)"):
        crops.image_input({"image": np.zeros(shape)}, 8)


def test_images_of_any_size_are_float32():
    image = crops.image_input({"image": np.zeros((2, 8, 9, 3))})
    assert image.shape == (2, 8, 9, 3) and image.dtype == np.float32
    with pytest.raises(UserError, match="there is no 'image', only"):
        crops.image_input({"picture": np.zeros((2, 8, 9, 3))})


def test_moves_that_are_too_large_are_rejected():
    center, side = np.zeros((4, 2)), np.full(4, 100.0)
    moved = np.array([[0.0, 0.0], [49.0, 0.0], [51.0, 0.0], [0.0, 0.0]])
    plausible = crops.is_plausible_move(moved, np.array([159.0, 63.0, 100.0, 0.0]), center, side)
    assert plausible.tolist() == [True, True, False, False]
