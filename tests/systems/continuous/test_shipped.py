"""The shipped detector: accuracy on rendered heads that it was not trained on, and on one photograph."""

import jax
import numpy as np
import pytest

from jaxface import inference
from jaxface.heads import scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import LAYOUT_68

SIZE = 160


@pytest.fixture(scope="module")
def predictor():
    return inference.Predictor.pretrained()


def test_the_error_on_test_heads_is_below_6_percent(predictor):
    """Errors in percent of the outer eye-corner distance; the mean face placed in the box scores 27."""
    head = jax.device_put(scenes.renderable(makehuman_head()))

    @jax.jit
    def render(head, key):
        scene = scenes.sample_scene(head, key, SIZE)
        rendering = scenes.render(head, scene, SIZE)
        points = head.landmark_points(rendering.points, "68")
        pixels = head.landmark_points(rendering.points_px, "68")
        return rendering.image, pixels, points, scenes.face_box(head, rendering.points_px), scene.focal_px

    errors = []
    for seed in range(24):
        image, pixels, points, box, focal_px = jax.device_get(render(head, jax.random.key(1000 + seed)))
        (face,) = predictor((255 * image).astype(np.uint8), boxes=box)
        left, right = points[list(LAYOUT_68.eye_corners)]
        eyes_px = focal_px * np.linalg.norm(left - right) / points[:, 2].mean()
        errors.append(100 * np.linalg.norm(face.points - pixels, axis=-1).mean() / eyes_px)
    assert np.median(errors) < 6.0


@pytest.mark.parametrize("model", inference.MODELS)
def test_landmarks_on_a_photograph_are_near_the_annotation(model):
    """Eyes, nose and mouth of the portrait, annotated by hand to about two pixels."""
    data, predictor = pytest.importorskip("skimage.data"), inference.Predictor.pretrained("continuous", model)
    (face,) = predictor(data.astronaut())
    predicted = LAYOUT_68.five_points(face.points)
    annotated = np.array([[202, 101], [246, 103], [222, 124], [204, 141], [245, 140]])
    assert np.linalg.norm(predicted - annotated, axis=1).max() < 10
    dense = predictor(data.astronaut(), layout="dense")[0]
    assert dense.points.shape[0] > 1000 and np.isfinite(dense.sigma).all()
