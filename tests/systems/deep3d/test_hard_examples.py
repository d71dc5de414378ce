"""Inputs that make training fail elsewhere: no skin pixels, faces cut by the image border, profiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import canonical
from jaxface.system import unit_images
from jaxface.systems.deep3d import data, losses

TEMPLATE = canonical.queries("68")


def landmarks(yaw=0.0, at=(60, 60)):
    rotated = TEMPLATE[:, 0] * np.cos(yaw) + TEMPLATE[:, 2] * np.sin(yaw)
    return (np.stack([rotated, -TEMPLATE[:, 1]], -1) * 50 + at).astype(np.float32)


def example(color=(200, 150, 120), **pose):
    return {"image": np.full((120, 120, 3), color, np.uint8), "landmarks": landmarks(**pose)}


@pytest.mark.parametrize("pose", [{"yaw": np.pi / 2}, {"yaw": -1.4}, {"at": (5, 110)}, {"at": (115, -10)}])
def test_profiles_and_faces_at_the_border_make_examples(pose):
    processed = data.preprocess_train(example(**pose), 3, 64)
    assert processed["image"].shape == (64, 64, 3) and processed["image"].dtype == np.uint8
    assert np.isfinite(processed["landmarks"]).all() and np.abs(processed["landmarks"] - 112).max() < 250
    evaluated = data.preprocess_eval(example(**pose), 64)
    assert set(evaluated) == {"image", "landmarks"} and 0 < evaluated["image"].max() <= 1


def test_without_skin_the_photometric_loss_is_zero_and_its_gradient_too():
    without_skin = unit_images(data.preprocess_train(example(color=(0, 60, 255)), 3, 64))
    assert without_skin["skin"].max() < 0.05 and data.preprocess_train(example(), 3, 64)["skin"].max() > 0.9 * 255
    image = jnp.asarray(without_skin["image"])[None]
    for mask in (jnp.zeros((1, 64, 64)), jnp.asarray(without_skin["skin"])[None]):
        value, gradient = jax.value_and_grad(losses.photometric_loss)(image * 0.5, image, mask)
        assert np.isfinite(value) and np.isfinite(gradient).all() and (mask.max() > 0 or value == 0)


def test_the_skin_mask_is_optional():
    assert "skin" not in data.preprocess_train(example(), 0, 32, with_skin=False)
