"""Motion blur: the mean of shifted images, in the form for CPUs and in that for accelerators."""

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
