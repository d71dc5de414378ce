"""The shipped detector: accuracy on unseen rendered heads, plausibility on a photograph."""

import jax
import numpy as np
import pytest

from jaxface import inference
from jaxface.heads import scenes
from jaxface.heads.procedural import procedural_head
from jaxface.layouts import LAYOUT_68

SIZE = 160


@pytest.fixture(scope="module")
def predictor():
    return inference.Predictor.pretrained()


def test_it_finds_the_points_of_unseen_heads(predictor):
    """Errors in percent of the outer eye corners' distance; the mean face in the box scores 27, the bound is 6."""
    head = jax.device_put(scenes.renderable(procedural_head()))

    @jax.jit
    def take(head, key):
        scene = scenes.sample_scene(head, key, SIZE)
        picture = scenes.render(head, scene, SIZE)
        points = head.landmark_points(picture.points, "68")
        pixels = head.landmark_points(picture.points_px, "68")
        return picture.image, pixels, points, scenes.face_box(head, picture.points_px), scene.focal_px

    errors = []
    for seed in range(24):
        image, pixels, points, box, focal_px = jax.device_get(take(head, jax.random.key(1000 + seed)))
        (face,) = predictor((255 * image).astype(np.uint8), boxes=box)
        left, right = points[list(LAYOUT_68.eye_corners)]
        eyes_px = focal_px * np.linalg.norm(left - right) / points[:, 2].mean()
        errors.append(100 * np.linalg.norm(face.points - pixels, axis=-1).mean() / eyes_px)
    assert np.median(errors) < 6.0


def test_it_is_plausible_on_a_photograph(predictor):
    """Eyes, nose and mouth of the portrait, read off an enlargement to about two pixels."""
    data = pytest.importorskip("skimage.data")
    (face,) = predictor(data.astronaut())
    found = LAYOUT_68.five_points(face.points)
    by_hand = np.array([[202, 101], [246, 103], [222, 124], [204, 141], [245, 140]])
    assert np.linalg.norm(found - by_hand, axis=1).max() < 10
    dense = predictor(data.astronaut(), layout="dense")[0]
    assert dense.points.shape[0] > 1000 and np.isfinite(dense.sigma).all()
