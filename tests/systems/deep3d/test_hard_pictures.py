"""What makes training fail elsewhere: no skin at all, a face cut by the border, a profile; and the way to a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import canonical
from jaxface.systems.deep3d import data, losses

FACE = canonical.queries("68")


def points(yaw=0.0, at=(60, 60)):
    turned = FACE[:, 0] * np.cos(yaw) + FACE[:, 2] * np.sin(yaw)
    return (np.stack([turned, -FACE[:, 1]], -1) * 50 + at).astype(np.float32)


def example(color=(200, 150, 120), **place):
    return {"image": np.full((120, 120, 3), color, np.uint8), "landmarks": points(**place)}


@pytest.mark.parametrize("place", [{"yaw": np.pi / 2}, {"yaw": -1.4}, {"at": (5, 110)}, {"at": (115, -10)}])
def test_profiles_and_faces_at_the_border_make_examples(place):
    made = data.preprocess_train(example(**place), 3, 64)
    assert made["image"].shape == (64, 64, 3) and 0 < made["image"].max() <= 1
    assert np.isfinite(made["landmarks"]).all() and np.abs(made["landmarks"] - 112).max() < 250
    plain = data.preprocess_eval(example(**place), 64)
    assert set(plain) == {"image", "landmarks"}


def test_without_skin_the_photometric_loss_is_zero_and_its_gradient_too():
    made = data.preprocess_train(example(color=(0, 60, 255)), 3, 64)
    assert made["skin"].max() < 0.05 and data.preprocess_train(example(), 3, 64)["skin"].max() > 0.9
    image = jnp.asarray(made["image"])[None]
    for mask in (jnp.zeros((1, 64, 64)), jnp.asarray(made["skin"])[None]):
        value, gradient = jax.value_and_grad(losses.photometric_loss)(image * 0.5, image, mask)
        assert np.isfinite(value) and np.isfinite(gradient).all() and (mask.max() > 0 or value == 0)


def test_skin_is_only_made_where_it_is_asked_for():
    assert "skin" not in data.preprocess_train(example(), 0, 32, with_skin=False)
