"""Visibility, masks, textures and fitted heads from points of a known surface."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.geometry import camera, raster
from jaxface.heads import canonical, capture, scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.continuous import asked_layouts, depth_test, head_fit, painting, template_surface
from jaxface.systems.continuous.painting import Surface

FACE = ("face",)
SIZE = 200


def project(queries: np.ndarray, yaw_deg: float) -> np.ndarray:
    """Template points (N,3) in an image of SIZE, seen without perspective; positive: turned to the subject's left."""
    yaw = np.deg2rad(yaw_deg)
    x = np.cos(yaw) * queries[:, 0] + np.sin(yaw) * queries[:, 2]
    return np.stack([x, -queries[:, 1]], axis=-1) * 80 + SIZE / 2


def surface(yaw_deg: float, regions=FACE) -> Surface:
    template = template_surface.surface(regions)
    return Surface.predicted(template, project(template.queries, yaw_deg), np.ones(len(template.queries)))


def visible(queries: np.ndarray, yaw_deg: float) -> np.ndarray:
    coarse = template_surface.coarse_surface(FACE)
    points, sigma = project(coarse.queries, yaw_deg), np.ones(len(coarse.queries))
    return depth_test.visible(coarse, points, sigma, queries, project(queries, yaw_deg), (SIZE, SIZE))


def test_a_frontal_face_is_visible_and_a_turned_one_hides_its_far_side():
    eyes, jaw = canonical.queries("68")[[36, 45]], canonical.queries("68")[[0, 16]]
    assert visible(canonical.queries("68"), 0.0).mean() > 0.95
    assert visible(eyes, 0.0).all() and visible(jaw, 0.0).all()
    # Image left is the subject's right: turned to its left, the face shows its right side.
    assert visible(eyes, 75.0).tolist() == [True, False] and visible(eyes, -75.0).tolist() == [False, True]
    assert visible(jaw, 50.0).tolist() == [True, False]


@pytest.mark.parametrize("yaw_deg", [0.0, 35.0, -65.0])
def test_the_coarse_depth_test_agrees_with_the_rasterised_surface(yaw_deg):
    fine = template_surface.surface(FACE)
    points, toward = project(fine.queries, yaw_deg), np.array([-np.sin(np.deg2rad(yaw_deg)), 0, 0])
    toward[2] = np.cos(np.deg2rad(yaw_deg))
    depth = 10 - fine.closed @ toward
    drawn = jax.jit(functools.partial(raster.rasterize, height=SIZE, width=SIZE))(
        np.float32(points), np.float32(depth), fine.triangles
    )
    image = raster.interpolate(depth[:, None], points, depth, fine.triangles, drawn.triangle_id)[..., 0]
    exact = np.asarray(raster.visible_points(points, depth, image, depth_test.TOLERANCE))
    assert (visible(fine.queries, yaw_deg) == exact).mean() > 0.93


def test_the_lips_of_a_closed_mouth_do_not_hide_each_other():
    """The template's mouth is open: a network answers its queries where they are on the face in the image."""
    coarse, lips = template_surface.coarse_surface(FACE), canonical.queries("68")[48:]
    seen, closed = project(coarse.closed, 10.0), template_surface.with_closed_mouth(lips)
    assert np.ptp(closed[:, 1]) < 0.8 * np.ptp(lips[:, 1])
    shown = depth_test.visible(coarse, seen, np.ones(len(seen)), lips, project(closed, 10.0), (SIZE, SIZE))
    assert shown.all()


def test_points_outside_the_image_are_not_visible():
    coarse = template_surface.coarse_surface(FACE)
    points = project(coarse.queries, 0.0)
    shown = depth_test.visible(coarse, points, np.ones(len(points)), coarse.queries, points, (SIZE, SIZE // 2))
    assert not shown[points[:, 0] > SIZE / 2].any() and shown[points[:, 0] < SIZE / 2 - 1].mean() > 0.9


def test_a_mask_labels_the_regions_that_are_seen():
    regions = ("lips", "nose")
    labels = painting.region_mask_image(surface(0.0), regions, (SIZE, SIZE))
    head = makehuman_head()
    for number, region in enumerate(regions, start=1):
        inside = np.asarray(head.regions[region])
        x, y = np.rint(project(canonical.canonical_vertices(head)[inside], 0.0).mean(0)).astype(int)
        if region == "nose":
            assert labels[y, x] == number
        assert (labels == number).sum() > 50
    assert set(np.unique(labels)) == {0, 1, 2} and labels[0, 0] == 0
    turned = painting.region_mask_image(surface(80.0), ("brows_R", "brows_L"), (SIZE, SIZE))
    assert (turned == 1).sum() > 5 and (turned == 2).sum() < (turned == 1).sum() / 3
    outside = dataclasses.replace(surface(0.0), points=surface(0.0).points + 10 * SIZE)
    assert not painting.region_mask_image(outside, regions, (SIZE, SIZE)).any()


def test_a_texture_shows_the_photo_and_goes_back_onto_it():
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.stack([x, y, np.full_like(x, 77)], axis=-1).astype(np.uint8)
    face = surface(30.0)
    texture = painting.photo_texture(face, image, FACE)
    shown = texture[..., 3] > 0
    assert 0.02 < shown.mean() < 0.6 and (texture[shown][:, 2] == 77).all() and not texture[~shown].any()
    layer, (left, top) = painting.paint_layer(face, texture, (SIZE, SIZE))
    row, column = np.nonzero(layer[..., 3] == 255)
    assert len(row) > 4000
    error = np.abs(layer[row, column, :3].astype(int) - image[row + top, column + left])
    assert np.median(error) <= 1 and np.percentile(error, 95) <= 4
    # The subject's left cheek is hidden, so its texels are empty; they are those of the right cheek at -30 degrees.
    other = painting.photo_texture(surface(-30.0), image, FACE)
    assert (shown != (other[..., 3] > 0)).sum() > 0.05 * shown.sum()


@pytest.mark.parametrize(("noise_px", "limit_mm"), [(0.0, 1.0), (1.0, 3.0)])
def test_a_head_is_fitted_to_500_points(noise_px, limit_mm):
    """The mean distance of the face's vertices, over people, without an alignment."""
    head, size, rng = jax.device_put(makehuman_head()), 256, np.random.default_rng(0)
    face = np.flatnonzero(np.asarray(head.regions["face"]))
    errors, turns = [], []
    for seed in range(6):
        scene = capture.sample_scene(head, jax.random.key(seed), size, capture.PORTRAIT)
        vertices = np.asarray(head.shape(scene.identity, scene.expression))
        posed = camera.to_camera(vertices, scene.rotation, scene.translation)
        pixels = np.asarray(camera.project(posed, scene.focal_px, scene.center_px))
        chosen = rng.choice(face, 500, replace=False)
        points = pixels[chosen] + noise_px * rng.normal(size=(500, 2))
        coefficients, found = head_fit.fit_head(head, chosen, points, np.full(500, max(noise_px, 0.05)), (size, size))
        mesh = head_fit.head_mesh(head, coefficients)
        errors.append(np.linalg.norm(mesh.vertices - vertices, axis=1)[face].mean())
        turns.append(np.abs(found.rotation - scene.rotation).max())
        intrinsics, extrinsics = found.opencv()
        seen = (mesh.vertices @ extrinsics[:, :3].T + extrinsics[:, 3]) @ intrinsics.T
        assert np.linalg.norm(seen[chosen, :2] / seen[chosen, 2:] - pixels[chosen], axis=1).mean() < 0.1 + noise_px
        assert ((coefficients["expression"] >= 0) & (coefficients["expression"] <= 1)).all()
    assert np.mean(errors) < limit_mm and np.max(turns) < 0.15


def test_a_known_identity_is_kept():
    head, size = jax.device_put(makehuman_head()), 256
    scene = capture.sample_scene(head, jax.random.key(1), size, capture.PORTRAIT)
    _, pixels = scenes.project_vertices(head, scene)
    chosen = np.flatnonzero(np.asarray(head.regions["face"]))[::5]
    known = np.asarray(scene.identity)
    coefficients, _ = head_fit.fit_head(
        head, chosen, np.asarray(pixels)[chosen], np.ones(len(chosen)), (size, size), known
    )
    assert np.abs(coefficients["identity"] - known).max() < 0.02


def parse(layout, own=(), trained=FACE):
    return asked_layouts.parse(layout, dict(own), trained)


def test_several_layouts_in_any_form(tmp_path):
    points = canonical.queries("68")[:5]
    np.save(tmp_path / "mine.npy", points)
    for layout in (
        f"68,98,{tmp_path / 'mine.npy'}",
        ["68", 98, tmp_path / "mine.npy"],
        (68, "98", str(tmp_path / "mine.npy")),
    ):
        asked = parse(layout)
        assert [one.name for one in asked] == ["68", "98", "mine"] and [len(one.queries) for one in asked] == [
            68,
            98,
            5,
        ]
        assert np.array_equal(asked[2].queries, points) and asked[0].edges is None
    assert [one.name for one in parse([points, points, "own"], {"own": points})] == ["custom", "custom_2", "own"]
    (one,) = parse(points.tolist())
    assert one.name == "custom" and len(one.queries) == 5
    (dense,) = parse("dense")
    assert dense.edges is not None and dense.edges.max() == len(dense.queries) - 1


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("bogus", "unknown layout 'bogus'"),
        ("68,,98", "empty name"),
        ("68,68", "asked for twice"),
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        (np.full((3, 3), 80.0), "units of 100 mm"),
        (np.full((3, 3), 9.0), "units of 100 mm"),
        (np.full((3, 3), 0.05), "units of 100 mm"),
        ("ears", "not trained on the region 'ears'"),
        ("iris_L", "not trained on the region 'iris_L'"),
        (canonical.queries("ears"), "not trained"),
        ("missing.npy", "missing.npy"),
        (["68", np.zeros((0, 3))], "shape"),
    ],
)
def test_a_wrong_layout_is_one_line(layout, message):
    with pytest.raises(UserError, match=message) as error:
        parse(layout)
    assert "\n" not in str(error.value)


def test_what_lies_in_a_trained_region_is_answered():
    names = ("lips", "nose", "brows_L", "face", "dense", "70")
    assert [one.name for one in parse(list(names))] == list(names)
    assert parse("ears", trained=("face", "ears"))[0].name == "ears"
    assert len(parse(canonical.queries("98"))[0].queries) == 98
    assert len(parse(np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)))[0].queries) == 20


@pytest.mark.parametrize(
    ("masks", "message"), [("lips,bogus", "not a region"), ("iris_L", "not trained"), ("lips,lips", "twice")]
)
def test_a_wrong_region_is_one_line(masks, message):
    with pytest.raises(UserError, match=message):
        asked_layouts.parse_regions("masks", masks, FACE)
