import json
import pathlib

import numpy as np
import pytest

from jaxface.layouts import LAYOUTS

GOLDEN = pathlib.Path(__file__).parent / "golden"
PUBLISHED = {"68": "data_300W", "98": "WFLW", "29": "COFW", "19": "AFLW", "106": "LaPa"}


@pytest.fixture(scope="module")
def published():
    return [json.loads((GOLDEN / f"pipnet_{name}.json").read_text()) for name in ("flip", "meanfaces")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_mirror_as_published_and_name_the_right_points(published, name):
    layout, (flips, means) = LAYOUTS[name], published
    np.testing.assert_array_equal(layout.flip, flips[PUBLISHED[name]])
    mean = np.reshape(means[PUBLISHED[name]], (-1, 2))
    left_eye, right_eye, nose, left_mouth, right_mouth = layout.five_points(mean)
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    if layout.eye_corners:
        left, right = mean[list(layout.eye_corners)]
        assert left[0] < left_eye[0] < right_eye[0] < right[0]
        assert abs(left[1] - right[1]) < 0.02
    else:
        assert name == "19"
