"""Motion blur is the mean of shifted images; images of few pixels keep their places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import photography


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("path_px", [(3.0, -7.0), (0.0, 0.0), (20.0, 5.0)])
def test_motion_blur_is_the_mean_along_the_path(monkeypatch, platform, path_px):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, **forms: forms[platform](*arguments))
    image = jax.random.uniform(jax.random.key(0), (40, 40, 3))
    reach = photography.REACH_PX
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)], mode="edge")
    shifts = np.clip(np.round(np.linspace(-0.5, 0.5, photography.MOTION_TAPS)[:, None] * path_px), -reach, reach)
    expected = np.mean([padded[y : y + 40, x : x + 40] for x, y in shifts.astype(int) + reach], axis=0)
    np.testing.assert_allclose(photography.motion_blur(image, jnp.array(path_px)), expected, atol=1e-6)


def test_resampling_averages_whole_rows_and_interpolates_between_their_centres():
    reduce, enlarge = photography.resampling(12, jnp.array(3.0), jnp.array(0.0))
    rows = np.arange(12.0) ** 2
    small = rows.reshape(4, 3).mean(1)
    np.testing.assert_allclose((reduce @ rows)[:4], small, rtol=1e-6)
    centres = np.arange(4) * 3 + 1.0
    expected = np.interp(np.arange(12.0), centres, small)
    np.testing.assert_allclose(enlarge @ (reduce @ rows), expected, rtol=1e-5)


@pytest.mark.parametrize(("pixel", "phase"), [(1.0, 0.7), (1.7, 0.0), (4.0, 0.9)])
def test_resampling_keeps_places(pixel, phase):
    """A slope stays where it is within a tenth of a row, as rows are flat, apart from the ends."""
    reduce, enlarge = photography.resampling(40, jnp.array(pixel), jnp.array(phase))
    slope = np.arange(40.0)
    np.testing.assert_allclose((enlarge @ (reduce @ slope))[6:-6], slope[6:-6], atol=0.1)
