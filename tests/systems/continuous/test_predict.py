"""The geometry of inference, with a fake network that reads the affine map of its crop from the image colours."""

import dataclasses
import pickle

import numpy as np
import pytest

from jaxface import crops
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.systems.continuous import asked_layouts, predict

HEIGHT, WIDTH, SIZE = 240, 250, 48
Y, X = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = np.stack([X, Y, np.full_like(X, 90)], -1).astype(np.uint8)
BOX = [75.0, 60.0, 165.0, 180.0]


def project(queries: np.ndarray, roll: float) -> np.ndarray:
    """Template points in the image: 72 px per unit, rotated by `roll` rad.

    At this size crops are reduced by 3, and the mean of three colours of a ramp is exact.
    """
    cos, sin = np.cos(roll), np.sin(roll)
    return queries[..., :2] * [72, -72] @ np.array([[cos, sin], [-sin, cos]]) + [121.0, 123.0]


def fake_network(roll: float, sigma: float = 0.02) -> predict.Network:
    def encode(variables, images):
        grid = (2 * np.arange(SIZE) + 1) / SIZE - 1
        u, v = np.meshgrid(grid, grid)
        design = np.stack([u.ravel(), v.ravel(), np.ones(SIZE**2)], -1)
        colors = np.asarray(images, np.float64)[..., :2].reshape(len(images), -1, 2) * 255
        return np.stack([np.linalg.lstsq(design, color, rcond=None)[0].T for color in colors])

    def query(variables, crop_to_image, queries, valid):
        linear, translation = crop_to_image[:, :, :2], crop_to_image[:, None, :, 2]
        mirrored = np.linalg.det(linear) < 0
        queries = np.where(mirrored[:, None, None], [-1, 1, 1], 1) * queries
        offset = project(queries, roll) - translation
        return np.einsum("bij,bnj->bni", np.linalg.inv(linear), offset), np.full(valid.shape, sigma)

    return predict.Network(encode, query, SIZE)


@pytest.mark.parametrize("roll", [0.0, 0.5, -0.4])
def test_points_are_mapped_back_to_the_image_from_realigned_crops(roll):
    (face,) = predict.predict(fake_network(roll), {}, {}, IMAGE, BOX)
    truth = project(canonical.queries("68"), roll)
    assert np.abs(face.points - truth).max() < 0.3
    assert face.layout == "68" and np.array_equal(face.box, np.float32(BOX))
    assert np.allclose(face.extent, crops.extent_boxes(truth[None])[0], atol=0.5)


def test_an_extent_ends_at_chin_and_sides_and_reaches_above_the_brows():
    truth = project(canonical.queries("68"), 0.0)
    x0, y0, x1, y1 = crops.extent_boxes(truth[None])[0]
    assert np.allclose([x0, x1, y1], [truth[:, 0].min(), truth[:, 0].max(), truth[:, 1].max()])
    brows = truth[17:27, 1].mean()
    assert 0.25 < (brows - y0) / (y1 - brows) < 0.45


def test_realigned_crops_are_upright_and_centred():
    landmarks = project(canonical.queries("68"), 0.3)[None]
    start = predict.SquareCrops(np.array([[120.0, 120.0]]), np.array([150.0]), np.zeros(1))
    squares, realigned = predict.realign(start, landmarks, np.full((1, 68), 1.0))
    again, _ = predict.realign(squares, landmarks, np.full((1, 68), 1.0))
    assert realigned.all() and np.allclose(squares.angle_rad, 0.3, atol=1e-6)
    assert np.allclose(squares.center, again.center) and np.allclose(squares.side, again.side)


def test_an_uncertain_network_does_not_move_the_crop():
    start = predict.SquareCrops(np.array([[90.0, 130.0]]), np.array([150.0]), np.zeros(1))
    squares, realigned = predict.realign(start, project(canonical.queries("68"), 0.3)[None], np.full((1, 68), 30.0))
    assert not realigned.any() and np.array_equal(squares.center, start.center) and squares.angle_rad == 0
    (face,) = predict.predict(fake_network(0.0, sigma=0.5), {}, {}, IMAGE, BOX)
    assert np.array_equal(face.extent, np.float32(BOX)) and np.allclose(face.sigma, 0.5 * 1.3 * 105 / 2)


@pytest.mark.parametrize("layout", ["68", "98"])
@pytest.mark.parametrize(("box", "passes"), [(None, 1), (BOX, 1), ([95.0, 70.0, 215.0, 230.0], 2)])
def test_the_fast_model_passes_again_only_if_the_crop_moves_much(box, passes, layout):
    network, runs = fake_network(0.1), []

    def encode(variables, images):
        runs.append(len(images))
        return network.encode(variables, images)

    if box is None:
        (settled,) = predict.predict(network, {}, {}, IMAGE, BOX)
        box = settled.extent
    single = dataclasses.replace(network, encode=encode, mirror=False)
    (face,) = predict.predict(single, {}, {}, IMAGE, box, layout)
    assert np.abs(face.points - project(canonical.queries(layout), 0.1)).max() < 0.3 and len(runs) == passes
    (mean,) = predict.predict(dataclasses.replace(single, mirror=True), {}, {}, IMAGE, box, layout)
    assert np.abs(mean.points - face.points).max() < 0.3 and len(runs) == 2 * passes + 1


def test_sigma_is_scaled_for_results_and_not_for_realignment():
    network = fake_network(0.3, sigma=0.1)
    (face,) = predict.predict(network, {}, {}, IMAGE, BOX)
    (scaled,) = predict.predict(dataclasses.replace(network, sigma_scale=3.0), {}, {}, IMAGE, BOX)
    assert np.array_equal(scaled.points, face.points) and np.allclose(scaled.sigma, 3 * face.sigma)


@pytest.mark.parametrize("count", [1, 130, 5000])
def test_any_number_of_faces_and_queries(count):
    queries = np.random.default_rng(0).uniform(-1, 1, (count, 3)).astype(np.float32)
    faces = predict.predict(fake_network(0.2), {}, {}, IMAGE, [BOX] * 35, queries)
    assert len(faces) == 35 and faces[0].layout == "custom"
    assert np.abs(np.stack([face.points for face in faces]) - project(queries, 0.2)).max() < 0.5


def test_several_layouts_from_one_encoding_and_which_points_are_seen():
    network = dataclasses.replace(fake_network(0.2), regions=("face",))
    (face,) = predict.predict(network, {}, {}, IMAGE, BOX, "68,lips,dense")
    assert face.layout == "68" and list(face.layouts) == ["68", "lips", "dense"]
    for name, one in face.layouts.items():
        assert np.abs(one.points - project(canonical.queries(name), 0.2)).max() < 0.5
        assert one.visible.shape == (len(one.points),) and one.visible.mean() > 0.8
    assert np.array_equal(face.points, face.layouts["68"].points) and face.layouts["dense"].edges is not None
    entry = face.to_json()
    assert list(entry["layouts"]["lips"]) == ["points", "sigma", "visible"]
    (single,) = predict.predict(network, {}, {}, IMAGE, BOX)
    assert not single.layouts and np.array_equal(single.points, face.points) and single.visible.shape == (68,)


@pytest.mark.parametrize("mirror", [False, True])
def test_visibility_is_predicted_when_it_is_read_and_is_that_of_each_face(mirror):
    network, asked = dataclasses.replace(fake_network(0.2), regions=("face",), mirror=mirror), []

    def query(variables, features, queries, valid):
        asked.append(valid.shape)
        return network.query(variables, features, queries, valid)

    counting = dataclasses.replace(network, query=query)
    boxes = [BOX, [95.0, 70.0, 215.0, 230.0]]
    faces = predict.predict(counting, {}, {}, IMAGE, boxes, "68,lips")
    count = len(asked)
    seen = [face.visible for face in faces]
    assert len(asked) == count + 2 and faces[0].visible is seen[0] and faces[0].layouts["68"].visible is seen[0]
    assert faces[0].layouts["lips"].visible.shape == (len(faces[0].layouts["lips"].points),)
    for box, visible in zip(boxes, seen, strict=True):
        (single,) = predict.predict(network, {}, {}, IMAGE, box, "68,lips")
        assert np.array_equal(pickle.loads(pickle.dumps(single)).visible, visible)


def test_the_dense_points_give_a_head_a_mask_and_a_texture():
    network = dataclasses.replace(fake_network(0.2), regions=("face",))
    paint = np.full((64, 64, 4), 255, np.uint8)
    options = {"fit": True, "masks": ["lips", "nose"], "texture": True, "paint": paint}
    (face,) = predict.predict(network, {}, {}, IMAGE, BOX, **options)
    assert face.mask.shape == IMAGE.shape[:2] and set(np.unique(face.mask)) == {0, 1, 2}
    assert face.mask_labels == {"lips": 1, "nose": 2} and face.texture.shape == (2048, 2048, 4)
    assert set(face.files) == {"_texture.png", ".glb", ".obj"} and all(len(data) for data in face.files.values())
    entry = face.to_json()["head"]
    assert set(entry) == {"coefficients", "blendshapes", "pose", "focal_px", "center_px"}
    assert len(entry["blendshapes"]) == 52 and np.shape(entry["pose"]["rotation"]) == (3, 3)
    roll = np.arctan2(face.head.camera.rotation[1, 0], face.head.camera.rotation[0, 0])
    assert abs(roll + 0.2) < 0.05
    layer, _ = face.paint
    assert (layer[..., 3] == 255).sum() > 1000
    with pytest.raises(UserError, match="paint"):
        predict.predict(network, {}, {}, IMAGE, BOX, paint=paint[:, :10])


@pytest.mark.parametrize(
    "layout",
    ["71", np.zeros((4, 2)), np.zeros((0, 3)), np.full((2, 3), np.nan), np.full((2, 3), 100.0), [["a", "b", "c"]], 7],
)
def test_malformed_queries_are_refused(layout):
    with pytest.raises(UserError):
        asked_layouts.layout_queries(layout)


def test_outputs_that_are_not_finite_are_an_error():
    with pytest.raises(UserError, match="not finite"):
        predict.predict(fake_network(0.0, sigma=np.nan), {}, {}, IMAGE, BOX)
