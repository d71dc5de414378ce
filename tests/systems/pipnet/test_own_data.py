"""configs/pipnet.py:own on a folder of images with six landmarks: values resolved from the data set, and training."""

import cv2
import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface import config_file, training
from jaxface.data import faces
from jaxface.data.prepare import prepare
from jaxface.systems import pipnet
from jaxface.systems.pipnet import predict

FACE = np.array([[60, 60], [100, 60], [80, 82], [65, 100], [95, 100], [80, 120.0]])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    rng, lines = np.random.default_rng(0), []
    for number in range(12):
        points = np.round(FACE + rng.normal(0, 1, FACE.shape), 2)
        image = np.full((150, 160, 3), 90, np.uint8)
        for x, y in points:
            cv2.circle(image, (round(x), round(y)), 6, (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(f"{number}.png " + " ".join(map(str, points.ravel())))
    (folder / "landmarks.txt").write_text("\n".join(lines))
    prepare("landmark_folder", str(folder / "data"), str(folder))
    return str(folder / "data")


def own_config(data_dir: str, neighbors: int):
    config = get_config("own")
    config.model.update(backbone="custom", depths=(1, 1, 1), width=8, image_size=64, stride=16, neighbors=neighbors)
    config.data.dir = data_dir
    config.steps, config.batch_size, config.log_every, config.save_every = 4, 4, 4, 4
    config.optim.boundaries = ()
    return config


def test_own_data_decides_the_model(data_dir, tmp_path):
    config = pipnet.resolve(own_config(data_dir, neighbors=3))
    system = pipnet.build(config)
    assert config.model.landmarks == 6 and config.data.flip == (1, 0, 2, 4, 3, 5)
    assert len(config.model.meanface) == 12
    training.fit(system, config, tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert '"landmark_folder/nme_crop"' in rows[-1]
    saved = config_file.load(tmp_path)
    assert saved.model.landmarks == 6 and saved.model.layout == "own" and len(saved.model.meanface) == 12


def test_few_landmarks_have_fewer_neighbors(data_dir):
    assert pipnet.resolve(own_config(data_dir, neighbors=10)).model.neighbors == 5
    pipnet.build(own_config(data_dir, neighbors=10))


@pytest.mark.parametrize("points", [FACE[:2], FACE[:5]], ids=["pair", "five"])
def test_crops_of_few_landmarks_are_those_of_the_training_data(points):
    """The crop of predicted points is that of `faces.landmark_crop`, and the first crop of a face box contains them."""
    image = np.zeros((300, 300, 3), np.uint8)
    crop = faces.landmark_crop(points + 60, 1.2, image)
    meanface = crop.normalise(points + 60)
    moved = 2 * points + 30
    (again,) = predict.meanface_crops(moved[None], meanface)
    np.testing.assert_allclose((moved - again[:2]) / (again[2:] - again[:2]), meanface, atol=1e-6)
    (box,) = predict.extents(moved[None], "own")
    (first,) = predict.face_rectangles(box[None], meanface, "own")
    inside = (moved - first[:2]) / (first[2:] - first[:2])
    assert (inside > 0).all() and (inside < 1).all()
    ratio = (first[2:] - first[:2]) / (again[2:] - again[:2])
    assert (ratio > 0.7).all() and (ratio < 1.4).all()


@pytest.mark.parametrize("count", [2, 4])
def test_two_and_four_landmarks_train_with_the_defaults(tmp_path, count):
    lines = []
    for number in range(12):
        points = FACE[:count] + number
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((150, 160, 3), 90, np.uint8))
        points[0] = -1 if number == 3 and count > 2 else points[0]
        lines.append(f"{number}.png " + " ".join(map(str, points.ravel())))
    (tmp_path / "landmarks.txt").write_text("\n".join(lines))
    prepare("landmark_folder", str(tmp_path / "data"), str(tmp_path))
    config = pipnet.resolve(own_config(str(tmp_path / "data"), neighbors=10))
    assert config.model.landmarks == count and config.model.neighbors == count - 1
    training.fit(pipnet.build(config), config, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"landmark_folder/nme_crop"' in rows and "NaN" not in rows
