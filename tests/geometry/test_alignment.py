"""Similarity fit and face crops, with numpy and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.geometry import alignment

SPACES = pytest.mark.parametrize("xp", [np, jnp])


@SPACES
@pytest.mark.parametrize("dimensions", [2, 3])
def test_similarity_recovers_the_map(xp, dimensions):
    rng = np.random.default_rng(dimensions)
    source = rng.normal(size=(4, 9, dimensions))
    rotation = np.linalg.qr(rng.normal(size=(4, dimensions, dimensions)))[0]
    rotation[..., 0] *= np.linalg.det(rotation)[:, None]
    target = 2.5 * source @ np.swapaxes(rotation, -1, -2) + [7, -3, 1][:dimensions]
    scale, estimated, translation = alignment.similarity(xp.asarray(source), xp.asarray(target))
    assert isinstance(scale, jax.Array) == (xp is jnp)
    np.testing.assert_allclose(scale, np.full(4, 2.5), rtol=1e-5)
    np.testing.assert_allclose(estimated, rotation, atol=1e-5)
    np.testing.assert_allclose(translation, np.tile([7, -3, 1][:dimensions], (4, 1)), atol=1e-5)


def test_similarity_never_reflects_and_handles_coincident_points():
    points = np.array([[0.0, 0], [1, 0], [0, 2]])
    _, rotation, _ = alignment.similarity(points, points * [-1, 1])
    assert np.linalg.det(rotation) == pytest.approx(1)
    scale, _, translation = alignment.similarity(np.ones((3, 2)), np.full((3, 2), 4.0))
    assert scale == 1 and translation.tolist() == [3, 3]


@SPACES
def test_crop_of_a_box(xp):
    center, side = alignment.square_crop(xp.asarray([10.0, 20.0, 30.0, 60.0]))
    np.testing.assert_allclose(center, [20, 40])
    np.testing.assert_allclose(side, 1.3 * 30, rtol=1e-6)
    matrix = alignment.crop_matrix(center, side, 64)
    corners = np.array([[20 - 19.5, 40 - 19.5], [20 + 19.5, 40 + 19.5], [20, 40]])
    expected = [[-0.5, -0.5], [63.5, 63.5], [31.5, 31.5]]
    np.testing.assert_allclose(alignment.apply_affine(matrix, corners), expected, atol=1e-4)
    pixels = np.array([[0.0, 5], [63, 17]])
    in_unit = (2 * pixels + 1) / 64 - 1
    picture = alignment.apply_affine(alignment.invert_affine(matrix), pixels)
    np.testing.assert_allclose(picture, [20, 40] + in_unit * 19.5, atol=1e-4)


def test_crop_turns_the_eye_line_level_and_batches():
    eyes = np.array([[100.0, 50.0], [130.0, 70.0]])
    angle = np.arctan2(20.0, 30.0)
    matrices = alignment.crop_matrix(np.tile(eyes.mean(0), (3, 1)), np.full(3, 80.0), 32, np.array([angle, 0, 0]))
    level = alignment.apply_affine(matrices, np.tile(eyes, (3, 1, 1)))[0]
    assert level[0, 1] == pytest.approx(15.5) and level[1, 1] == pytest.approx(15.5) and level[0, 0] < level[1, 0]
    both = alignment.apply_affine(alignment.invert_affine(matrices), alignment.apply_affine(matrices, eyes))
    np.testing.assert_allclose(both, np.tile(eyes, (3, 1, 1)), atol=1e-9)
