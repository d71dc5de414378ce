"""launch.prepare --landmarks: which detector labels a folder of photos."""

import pathlib
import subprocess
import sys

import numpy as np

from jaxface.inference import Predictor
from jaxface.photo import load
from launch import prepare

ROOT = pathlib.Path(__file__).parents[2]


def test_the_detector_that_is_given_labels_the_photo(detector_workdir):
    """Its 68 points in the box, or none where it is too uncertain."""
    predictor = Predictor.from_workdir(detector_workdir)
    image = load(np.random.default_rng(0).integers(0, 255, (120, 100, 3), np.uint8))
    box = np.array([20.0, 20.0, 80.0, 100.0])
    (face,) = predictor(image, box, layout="68")
    points = prepare.detect_landmarks(lambda: predictor, image, box)
    certain = np.median(face.sigma) < prepare.MAX_RELATIVE_SIGMA * np.mean(box[2:] - box[:2])
    assert (points is not None) == certain
    if certain:
        np.testing.assert_array_equal(points, face.points)


def test_data_sets_with_landmarks_refuse_the_flag(detector_workdir, tmp_path):
    command = [sys.executable, "-m", "launch.prepare", "--dataset=wflw", f"--manual_dir={tmp_path}"]
    done = subprocess.run(
        [*command, f"--landmarks={detector_workdir}"], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: --landmarks: data set wflw has landmarks of its own; leave it out" in done.stderr
