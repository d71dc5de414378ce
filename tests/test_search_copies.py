import numpy as np
import pytest

from jaxface import search_copies
from jaxface.geometry import alignment


@pytest.mark.parametrize("angle_rad", [0.0, 0.5])
@pytest.mark.parametrize("size", [(90, 70), (350, 513), (1001, 777)])
def test_places_in_a_copy_are_mapped_to_the_image(size, angle_rad):
    """A blob is found where it is, however often the image was halved."""
    y, x = np.mgrid[: size[0], : size[1]]
    truth = np.array([0.7 * size[1], 0.4 * size[0]])
    width = max(size) / 25
    blob = 250 * np.exp(-((x - truth[0]) ** 2 + (y - truth[1]) ** 2) / (2 * width**2))
    levels = [np.repeat(blob[..., None], 3, axis=2).round().astype(np.uint8)]
    copy, to_image = search_copies.resized(levels, 64, angle_rad)
    weight = copy[..., 0].astype(float)
    rows, columns = np.mgrid[: copy.shape[0], : copy.shape[1]]
    center = np.array([[(weight * columns).sum(), (weight * rows).sum()]]) / weight.sum()
    assert np.abs(alignment.apply_affine(to_image, center)[0] - truth).max() < 0.01 * max(size)
    again, _ = search_copies.resized(levels, 64, angle_rad)
    assert np.array_equal(again, copy) and len(levels) == {90: 1, 513: 3, 1001: 4}[max(size)]


def test_an_image_of_one_row_has_copies():
    copy, _ = search_copies.resized([np.zeros((1, 900, 3), np.uint8)], 160, 0.0)
    assert copy.shape == (1, 160, 3)
