import json
import pathlib

import numpy as np
import pytest

from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads import canonical, landmarks
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import MIRROR_X
from jaxface.systems.continuous import asked_layouts
from jaxface.systems.continuous.network import QUERY_SIZES
from jaxface.systems.continuous.outline import IN_FRONT, LOWER, SKIN, outline
from jaxface.systems.continuous.template_surface import region_mask

TRAINED = ("ears", *SKIN)


def project(points, yaw_deg):
    """Orthographic image positions (…,2) px, y down, of template points (…,3) turned to the subject's left."""
    angle = np.deg2rad(yaw_deg)
    x = points[..., 0] * np.cos(angle) + points[..., 2] * np.sin(angle)
    return 100 * np.stack([x, -points[..., 1]], axis=-1)


def answers(layout, yaw_deg):
    """What a perfect network answers, and the template points of the answers."""
    (asked,) = asked_layouts.parse(layout, {}, TRAINED)
    sets = [asked.queries, *asked_layouts.line_queries([asked])]
    given = [(project(queries, yaw_deg), np.ones(len(queries))) for queries in sets]
    (moved,), ((points, sigma),) = asked_layouts.on_outlines([asked], given)
    np.testing.assert_allclose(sigma, 1, rtol=1e-6)
    np.testing.assert_allclose(project(moved.queries, yaw_deg), points, atol=1e-3)
    return asked, points


def test_lines_run_on_the_skin_at_one_height_and_are_mirror_symmetric():
    head, lines = makehuman_head(), outline("68").lines
    skin = SurfaceQuery(canonical.canonical_vertices(head), head.opaque_triangles())
    assert np.linalg.norm(skin.closest(lines.reshape(-1, 3))[0] - lines.reshape(-1, 3), axis=1).max() < 1e-4
    assert np.ptp(lines[..., 1], axis=1).max() < 0.03 and (np.diff(lines[..., 2], axis=1) <= 1e-3).all()
    np.testing.assert_array_equal(lines[::-1] * MIRROR_X.astype(np.float32), lines)
    assert lines[..., 0].size <= QUERY_SIZES[0]  # more would be padded to the next size


def test_lines_have_the_heights_of_the_published_mean_face_of_300w():
    """The mean face, fitted to the frontal head by its nose, eyes and mouth; both sides averaged."""
    published = pathlib.Path(__file__).parents[2] / "golden" / "pipnet_meanfaces.json"
    mean = np.reshape(json.loads(published.read_text())["data_300W"], (-1, 2))[:, 1]
    head = makehuman_head()
    height = np.asarray(head.landmark_points(np.asarray(head.template), "68"))[:, 1] / canonical.MM_PER_UNIT
    design = np.stack([mean, np.ones(68)], axis=1)
    lower = height - design @ np.linalg.lstsq(design[27:], height[27:], rcond=None)[0]
    for index, expected in LOWER.items():
        assert (lower[index] + lower[16 - index]) / 2 == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("yaw_deg", [-45, -20, 0, 20, 45])
@pytest.mark.parametrize("layout", ["68", "98", "106"])
def test_contour_points_follow_the_outline_on_both_sides(layout, yaw_deg):
    asked, points = answers(layout, yaw_deg)
    contour = asked.outline.points
    side = np.sign(asked.outline.lines[:, :1, 0])
    outermost = (side * project(asked.outline.lines, yaw_deg)[..., 0]).max(axis=1)
    np.testing.assert_allclose(side[:, 0] * points[contour, 0], outermost, atol=1.5)
    kept = np.setdiff1d(np.arange(len(points)), contour)
    np.testing.assert_array_equal(points[kept], project(asked.queries, yaw_deg)[kept])


@pytest.mark.parametrize("yaw_deg", [25, 40])
def test_the_far_side_lies_on_the_outline_of_the_head(yaw_deg):
    asked, points = answers("68", yaw_deg)
    head = makehuman_head()
    triangles = head.opaque_triangles()
    on_skin = region_mask(head, SKIN)[triangles].all(axis=1)
    surface = landmarks.surface_samples(canonical.canonical_vertices(head), triangles[on_skin], 6)
    for index in range(12, 17):
        at_height = abs(100 * surface[:, 1] + points[index, 1]) < 2
        assert points[index, 0] == pytest.approx(project(surface[at_height], yaw_deg)[:, 0].max(), abs=2)
        assert points[index, 0] > project(asked.queries, yaw_deg)[index, 0] + 2


def test_near_profile_the_far_side_stays_on_the_head():
    asked, points = answers("68", 60)
    own = project(asked.outline.lines, 60)[-5:, IN_FRONT:, 0].max(axis=1)
    np.testing.assert_allclose(points[12:17, 0], own, atol=1.5)
    between = answers("68", 50)[1][12:17, 0] - project(asked.outline.lines, 50)[-5:, IN_FRONT, 0]
    assert between.min() > 5


def test_the_near_side_moves_outwards_and_layouts_agree():
    asked, points = answers("68", 45)
    moved = points[:, 0] - project(asked.queries, 45)[:, 0]
    assert moved[0:4].max() < -4
    np.testing.assert_allclose(answers("98", 45)[1][:33:2][[0, 2, 4, 12, 16]], points[[0, 2, 4, 12, 16]], atol=0.1)


@pytest.mark.parametrize(
    ("layout", "trained"),
    [
        ("70", TRAINED),
        ("66", TRAINED),
        ("lips", TRAINED),
        (canonical.queries("68"), TRAINED),
        ("68", ("face",)),
        ("68", ()),
    ],
)
def test_projections_points_of_the_caller_and_models_of_the_face_have_no_outline(layout, trained):
    (asked,) = asked_layouts.parse(layout, {}, trained)
    assert asked.outline is None and asked_layouts.line_queries([asked]) == []
