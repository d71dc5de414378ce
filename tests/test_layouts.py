import json
import pathlib

import numpy as np
import pytest

from configs.continuous import get_config
from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads import canonical
from jaxface.heads.closed import skin_vertices
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import LAYOUTS
from jaxface.systems.continuous.values import REGIONS as VALUES_REGIONS

GOLDEN = pathlib.Path(__file__).parent / "golden"
PUBLISHED = {"68": "data_300W", "98": "WFLW", "29": "COFW", "19": "AFLW", "106": "LaPa"}


@pytest.fixture(scope="module")
def published():
    return [json.loads((GOLDEN / f"pipnet_{name}.json").read_text()) for name in ("flip", "meanfaces")]


@pytest.mark.parametrize("name", PUBLISHED)
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_template_points_are_mirror_symmetric_and_named(name):
    layout, points = LAYOUTS[name], canonical.queries(name)
    assert points.shape == (layout.count, 3) and len(set(layout.names)) == layout.count and all(layout.names)
    np.testing.assert_array_equal(layout.flip[layout.flip], np.arange(layout.count))
    np.testing.assert_allclose(points[layout.flip] * [-1, 1, 1], points, atol=1e-5)
    right = [index for index, part in enumerate(layout.names) if "_R_" in part]
    assert (points[right, 0] < 0).all() and (points[layout.flip[right], 0] > 0).all()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in ("68", "98")])
def test_template_points_lie_where_the_published_mean_face_has_them(published, name):
    """The frontal template, warped affinely from WFLW's mean face, agrees with the layout's within 4 % of the face."""
    means = {key: np.reshape(published[1][PUBLISHED[key]], (-1, 2)) for key in ("98", name)}
    source, target = (np.c_[canonical.queries(key)[:, :2], np.ones(len(means[key]))] for key in ("98", name))
    five = [LAYOUTS[key].five_points(means[key]) for key in ("98", name)]
    between = np.linalg.lstsq(np.c_[five[0], np.ones(5)], five[1], rcond=None)[0]
    wflw = np.c_[means["98"], np.ones(98)] @ between
    # What the template's shape differs from the mean face at the nearest point of WFLW is not the layout's error.
    affine = np.linalg.lstsq(source, wflw, rcond=None)[0]
    nearest = np.linalg.norm(target[:, None] - source[None], axis=-1).argmin(1)
    found = target @ affine + (wflw - source @ affine)[nearest]
    error = np.linalg.norm(found - means[name], axis=1) / np.ptp(means[name][:, 0])
    assert error.mean() < 0.03 and error.max() < 0.09


def test_a_region_is_covered_by_those_that_contain_it():
    for name in ("dense", "lips", "brows_L", "face"):
        assert canonical.covers(("face",), name)
    for name in ("ears", "iris_L", "tongue", "joints"):
        assert not canonical.covers(("face",), name)
    assert canonical.covers(("eyeball_L", "mouth", "joints"), "iris_L")
    assert canonical.covers(("eyeball_L", "mouth", "joints"), "joints")
    assert set(VALUES_REGIONS) <= set(canonical.region_names())
    assert all(canonical.covers(get_config("endless").data.regions, name) for name in VALUES_REGIONS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_points_that_layouts_share_agree(name):
    """Eye corners, nose tip, mouth corners and pupils, within 1 % of the distance of the eye corners."""
    layout, points = LAYOUTS[name], canonical.queries(name)
    reference, pupils = canonical.queries("68"), canonical.queries("98")[[96, 97]]
    shared = list(zip(layout.eye_corners or (), reference[[36, 45]], strict=False))
    shared += [(group[0], place) for group, place in zip(layout.five[2:], reference[[30, 48, 54]], strict=True)]
    eyes = zip(layout.five[:2], pupils, strict=True)
    shared += [(group[0], place) for group, place in eyes if layout.names[group[0]].startswith("pupil")]
    for index, place in shared:
        distance = np.linalg.norm(points[index] - place)
        assert distance < 0.01 * np.linalg.norm(reference[36] - reference[45]), layout.names[index]


def test_mediapipe_points_lie_on_the_skin_and_the_irises():
    points, layout = canonical.queries("478"), LAYOUTS["478"]
    # Published contours: the face oval from the forehead around the chin, and the rings of the irises.
    assert points[10, 1] > points[168, 1] > points[4, 1] > points[13, 1] > points[14, 1] > points[152, 1]
    for pupil, ring in ((468, range(469, 473)), (473, range(474, 478))):
        np.testing.assert_allclose(
            np.linalg.norm((points[list(ring)] - points[pupil])[:, :2], axis=1), 0.059, atol=1e-3
        )
    # The rings start at the edge that is right in the image, in both eyes, and go on to the top.
    assert (points[[469, 474], 0] > points[[468, 473], 0]).all() and (
        points[[470, 475], 1] > points[[468, 473], 1]
    ).all()
    assert layout.flip[[468, 469, 470, 471, 472]].tolist() == [473, 476, 475, 474, 477]
    head = makehuman_head()
    vertices, triangles = canonical.canonical_vertices(head), np.asarray(head.triangles)
    skin = skin_vertices(head)[triangles].all(1)
    distance = np.linalg.norm(SurfaceQuery(vertices, triangles[skin]).closest(points[:468])[0] - points[:468], axis=1)
    assert distance.max() < 0.02 and layout.count == 478
