"""configs/pipnet.py:own on a folder of images with six landmarks: values resolved from the data set, and training."""

import cv2
import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface import config_file, training
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.systems import pipnet

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
