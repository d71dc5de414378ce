"""The geometry of inference, with a network that knows the answer: colours tell it where its crop lies."""

import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.systems.continuous import predict

HEIGHT, WIDTH, SIZE = 240, 250, 48
Y, X = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.stack([X, Y, np.full_like(X, 90)], -1).astype(np.uint8)
BOX = [75.0, 60.0, 165.0, 180.0]


def place(queries: np.ndarray, roll: float) -> np.ndarray:
    """Where template points are in the picture: 55 px per unit, upright face turned by `roll`."""
    cos, sin = np.cos(roll), np.sin(roll)
    return queries[..., :2] * [55, -55] @ np.array([[cos, sin], [-sin, cos]]) + [121.0, 123.0]


def knowing(roll: float, sigma: float = 0.02) -> predict.Network:
    def encode(variables, images):
        grid = (2 * np.arange(SIZE) + 1) / SIZE - 1
        u, v = np.meshgrid(grid, grid)
        design = np.stack([u.ravel(), v.ravel(), np.ones(SIZE**2)], -1)
        colors = np.asarray(images, np.float64)[..., :2].reshape(len(images), -1, 2) * 255
        return np.stack([np.linalg.lstsq(design, color, rcond=None)[0].T for color in colors])

    def query(variables, crops, queries, valid):
        mirrored = np.linalg.det(crops[:, :, :2]) < 0
        own = np.where(mirrored[:, None, None], [-1, 1, 1], 1) * queries
        offset = place(own, roll) - crops[:, None, :, 2]
        return np.einsum("bij,bnj->bni", np.linalg.inv(crops[:, :, :2]), offset), np.full(valid.shape, sigma)

    return predict.Network(encode, query, SIZE)


@pytest.mark.parametrize("roll", [0.0, 0.5, -0.4])
def test_points_come_back_to_the_picture_from_realigned_crops(roll):
    (face,) = predict.predict(knowing(roll), {}, {}, PICTURE, BOX)
    truth = place(canonical.queries("68"), roll)
    assert np.abs(face["points"] - truth).max() < 0.3
    assert face["layout"] == "68" and np.array_equal(face["box"], np.float32(BOX))
    assert np.allclose(face["extent"], predict.extent_boxes(truth[None])[0], atol=0.5)


def test_an_extent_ends_at_chin_and_sides_and_reaches_above_the_brows():
    truth = place(canonical.queries("68"), 0.0)
    x0, y0, x1, y1 = predict.extent_boxes(truth[None])[0]
    assert np.allclose([x0, x1, y1], [truth[:, 0].min(), truth[:, 0].max(), truth[:, 1].max()])
    brows = truth[17:27, 1].mean()
    assert 0.25 < (brows - y0) / (y1 - brows) < 0.45


def test_realigned_crops_are_upright_and_centred():
    landmarks = place(canonical.queries("68"), 0.3)[None]
    start = predict.Crops(np.array([[120.0, 120.0]]), np.array([150.0]), np.zeros(1))
    crops, trusted = predict.realign(start, landmarks, np.full((1, 68), 1.0))
    again, _ = predict.realign(crops, landmarks, np.full((1, 68), 1.0))
    assert trusted.all() and np.allclose(crops.angle_rad, 0.3, atol=1e-6)
    assert np.allclose(crops.center, again.center) and np.allclose(crops.side, again.side)


def test_an_unsure_network_does_not_move_the_crop():
    start = predict.Crops(np.array([[90.0, 130.0]]), np.array([150.0]), np.zeros(1))
    crops, trusted = predict.realign(start, place(canonical.queries("68"), 0.3)[None], np.full((1, 68), 30.0))
    assert not trusted.any() and np.array_equal(crops.center, start.center) and crops.angle_rad == 0
    (face,) = predict.predict(knowing(0.0, sigma=0.5), {}, {}, PICTURE, BOX)
    assert np.array_equal(face["extent"], np.float32(BOX)) and np.allclose(face["sigma"], 0.5 * 1.3 * 105 / 2)


@pytest.mark.parametrize("count", [1, 130, 5000])
def test_any_number_of_faces_and_queries(count):
    queries = np.random.default_rng(0).uniform(-1, 1, (count, 3)).astype(np.float32)
    faces = predict.predict(knowing(0.2), {}, {}, PICTURE, [BOX] * 35, queries)
    assert len(faces) == 35 and faces[0]["layout"] == "custom"
    assert np.abs(np.stack([face["points"] for face in faces]) - place(queries, 0.2)).max() < 0.5


@pytest.mark.parametrize(
    "layout",
    ["70", np.zeros((4, 2)), np.zeros((0, 3)), np.full((2, 3), np.nan), np.full((2, 3), 100.0), [["a", "b", "c"]], 7],
)
def test_queries_that_make_no_sense(layout):
    with pytest.raises(UserError):
        predict.layout_queries(layout)


def test_numbers_that_are_none_are_an_error():
    with pytest.raises(UserError, match="not finite"):
        predict.predict(knowing(0.0, sigma=np.nan), {}, {}, PICTURE, BOX)
