"""The geometry of inference, with a stand-in network that locates its crop by the colours of the image."""

import jax
import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface import crops
from jaxface.errors import UserError
from jaxface.layouts import wflw_to_ibug
from jaxface.systems import pipnet
from jaxface.systems.pipnet import predict

HEIGHT, WIDTH, SIZE = 240, 250, 112
Y, X = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = np.stack([X, Y, np.full_like(X, 90)], -1).astype(np.uint8)
BOX = [75.0, 60.0, 165.0, 180.0]
TRUTH = np.array([[80.0, 90.0], [160.0, 92.0], [120.0, 130.0], [118.5, 178.0]])
MEAN = np.array([[0.1, 0.2], [0.9, 0.2], [0.5, 0.5], [0.5, 0.95]])


def settings(crop):
    config = get_config("smoke").model
    config.update(crop=crop, image_size=SIZE, landmarks=4, layout="four", confidence=True)
    return config


def stand_in(seen: list, label_offset: float):
    """A network that returns TRUTH in crop units and appends its crops to `seen`.

    `label_offset`: position of the pixel centre 0 in the coordinates of the labels.
    """

    def run_network(variables, images):
        at = (np.arange(SIZE) + 0.5) / SIZE
        u, v = np.meshgrid(at, at)
        design = np.stack([u.ravel(), v.ravel(), np.ones(SIZE**2)], -1)
        colors = np.asarray(images, np.float64)[..., :2].reshape(len(images), -1, 2) * 255
        fits = [np.linalg.lstsq(design, color, rcond=None)[0] for color in colors]
        extent = np.stack([[fit[0, 0], fit[1, 1]] for fit in fits])[:, None]
        low = np.stack([fit[2] for fit in fits])[:, None] + label_offset
        seen.append((low, extent))
        unit = np.full((len(images), 4), 0.5)
        return {"landmarks": (TRUTH - low) / extent, "scores": 2 * unit, "spread": unit / extent.max()}

    return run_network


@pytest.mark.parametrize("crop, label_offset", [("square", 0.0), ("meanface", 0.5)])
def test_points_are_mapped_back_to_the_image(crop, label_offset):
    seen = []
    (face,) = predict.predict(stand_in(seen, label_offset), settings(crop), MEAN, {}, {}, IMAGE, BOX)
    assert np.abs(face.points - TRUTH).max() < 0.3
    assert face.layout == "four" and np.array_equal(face.box, np.float32(BOX))
    assert face.sigma.shape == face.scores.shape == (4,) and (face.confidence == 1).all()
    if crop == "meanface":
        assert len(seen) == 2
        low, extent = seen[1]
        inside = (TRUTH - low) / extent
        np.testing.assert_allclose(inside[0].min(0), MEAN.min(0), atol=0.02)
        np.testing.assert_allclose(inside[0].max(0), MEAN.max(0), atol=0.02)


def test_the_first_crop_puts_brows_and_chin_where_the_mean_face_has_them():
    (rectangle,) = predict.face_rectangles(np.array([BOX]), MEAN, "68")
    brows = BOX[1] + predict.FOREHEAD * (BOX[3] - BOX[1])
    size = rectangle[2:] - rectangle[:2]
    np.testing.assert_allclose(rectangle[:2] + [0.1, 0.2] * size, [BOX[0], brows])
    np.testing.assert_allclose(rectangle[:2] + [0.9, 0.95] * size, BOX[2:])
    (narrow,) = predict.face_rectangles(np.array([BOX]), MEAN, "19")
    np.testing.assert_allclose((narrow[2] - narrow[0]) / size[0], 0.76)


@pytest.mark.parametrize("layout", ["68", "29"])
def test_extents_are_boxes_from_hairline_to_chin(layout):
    crops = predict.face_rectangles(np.array([BOX]), MEAN, layout)
    points = crops[:, None, :2] + MEAN * (crops[:, 2:] - crops[:, :2])[:, None]
    np.testing.assert_allclose(predict.extents(points, layout), [BOX])


def test_98_landmarks_are_converted_to_68():
    scale = np.random.default_rng(0).random((1, 98)) + 1
    points = np.random.default_rng(1).random((1, 98, 2))
    config = settings("square")
    config.update(layout="98", landmarks=98)
    outputs = {"landmarks": points, "scores": scale, "spread": scale}
    whole, some = (
        predict.predict(lambda *_: outputs, config, points[0], {}, {}, IMAGE, BOX, layout)[0] for layout in (None, "68")
    )
    np.testing.assert_array_equal(some.points, wflw_to_ibug(whole.points))
    assert whole.layout == "98" and some.layout == "68" and np.array_equal(whole.extent, some.extent)
    jaw = list(range(0, 33, 2))
    np.testing.assert_array_equal(some.sigma[:17], whole.sigma[jaw])


@pytest.mark.parametrize("side", [40.0, 130.0, 600.0])
def test_squares_are_cut_as_in_training(side):
    smooth = np.uint8(127 + 60 * np.stack([np.sin(X / 30), np.cos(Y / 25), np.sin((X + Y) / 40)], -1))
    center = np.array([120.3, 100.7])
    crop = np.concatenate([center - side / 2, center + side / 2]) + 0.5
    ours = predict.cut(smooth, crop, SIZE).astype(int)
    assert np.abs(ours - crops.cut(smooth, center, side, 0.0, SIZE)).mean() < 1.5


def test_many_faces_one_face_and_none():
    seen = []
    boxes = np.array([BOX] * 3)
    faces = predict.predict(stand_in(seen, 0.0), settings("square"), MEAN, {}, {}, IMAGE, boxes)
    assert len(faces) == 3 and len(seen[0][0]) == crops.batch_sizes(3)[0]  # few sizes, so that few are compiled
    assert predict.predict(stand_in(seen, 0.0), settings("square"), MEAN, {}, {}, np.zeros((80, 80, 3), np.uint8)) == []


def test_a_real_network_predicts_and_invalid_input_raises_one_line():
    config = get_config("smoke")
    system = pipnet.build(config)
    params, model_state = system.init(jax.random.key(0))
    (face,) = system.predict(params, model_state, IMAGE, boxes=BOX, layout="68")
    assert face.points.shape == (68, 2) and face.confidence is None
    assert np.isfinite(face.points).all() and (face.sigma >= 0).all()
    with pytest.raises(UserError, match="has the layout '68' only, not '98'"):
        system.predict(params, model_state, IMAGE, boxes=BOX, layout="98")
    with pytest.raises(UserError, match="not finite"):
        system.predict(jax.tree.map(lambda leaf: leaf * np.nan, params), model_state, IMAGE, boxes=BOX)
    for image in (np.zeros((2, 64, 64)), np.zeros((0, 64, 64, 3))):
        with pytest.raises(UserError, match=r"must be \(B,H,W,3\)"):
            system.raw(params, model_state, {"image": image})
    with pytest.raises(UserError, match="there is no 'image', only"):
        system.raw(params, model_state, {"picture": IMAGE})
