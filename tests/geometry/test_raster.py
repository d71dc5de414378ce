"""Rasteriser against brute force: edges, overlaps, near plane, tiers, batches, gradients."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxface.geometry import camera, raster

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "raster_deep3d_small.npz"
SIZE = 48

rasterize = jax.jit(raster.rasterize, static_argnames=("height", "width", "tiers", "near", "visibility"))
interpolate = jax.jit(raster.interpolate)


def brute_force(points, depth, triangles, height, width, near=1.0):
    """Triangle ids (H,W) by a loop over triangles: exact coverage in float64, depth in float32."""
    nearest, winner = np.zeros((height, width), np.float32), np.full((height, width), -1)
    row, column = np.mgrid[:height, :width].astype(np.float64)
    for face, corners in enumerate(triangles):
        if (depth[corners] < near).any():
            continue
        (ax, ay), (bx, by), (cx, cy) = points[corners].astype(np.float64)
        areas = [
            (qx - column) * (ry - row) - (qy - row) * (rx - column)
            for qx, qy, rx, ry in ((bx, by, cx, cy), (cx, cy, ax, ay), (ax, ay, bx, by))
        ]
        inside = (np.min(areas, 0) >= 0) | (np.max(areas, 0) <= 0)
        if (bx - ax) * (cy - ay) == (by - ay) * (cx - ax):
            continue
        first, second, third = np.float32(1) / depth[corners]
        u, v, w = (area.astype(np.float32) for area in areas)
        total = np.where(inside, u + v + w, np.float32(1))
        nearness = third + (u * (first - third) / total + v * (second - third) / total)
        better = inside & (nearness > nearest)
        nearest[better], winner[better] = nearness[better], face
    return winner


def sphere(rings, columns, bump):
    """Closed bumpy sphere with a radius of about 80 mm."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, columns), indexing="ij")
    radius = 80 * (1 + bump * np.cos(5 * azimuth) * np.sin(3 * polar))
    vertices = np.stack(
        [radius * np.sin(polar) * np.cos(azimuth), radius * np.cos(polar), radius * np.sin(polar) * np.sin(azimuth)], -1
    )
    index = np.arange(rings * columns).reshape(rings, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return vertices.reshape(-1, 3), triangles.astype(np.int32)


def projected(vertices, triangles, turn, translation, focal):
    """(points_px, depth, triangles) of a rotated mesh in front of the camera."""
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    points = camera.to_camera(jnp.asarray(vertices), jnp.asarray(rotation), jnp.asarray(translation))
    pixels = camera.project(points, focal, jnp.full(2, (SIZE - 1) / 2))
    return np.asarray(pixels), np.asarray(points[:, 2]), triangles


def soup(seed, scale):
    """Random triangles: many off screen, some behind the camera, some degenerate."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-20, SIZE + 20, (400, 1, 2))
    points = (centers + rng.normal(scale=scale, size=(400, 3, 2))).astype(np.float32)
    points[::40, 1] = points[::40, 0]
    depth = rng.uniform(-20, 300, 1200).astype(np.float32)
    return points.reshape(-1, 2), depth, np.arange(1200, dtype=np.int32).reshape(-1, 3)


def lattice():
    """A slanted plane of quads with corners, edges and diagonals exactly on pixel centres."""
    y, x = np.mgrid[-2:14, -2:14]
    index = np.arange(256).reshape(16, 16)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.concatenate([np.stack([a, c, b], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    points = np.stack([4 * x, 4 * y], -1).reshape(-1, 2).astype(np.float32)
    return points, (500 + 3 * x + 2 * y).reshape(-1).astype(np.float32), triangles.astype(np.int32)


SCENES = {
    "ball": lambda: projected(*sphere(40, 60, 0.0), 0.3, [0, 0, 500.0], 130.0),
    "bumpy, turned": lambda: projected(*sphere(30, 40, 0.2), 1.2, [10, -20, 400.0], 120.0),
    "half outside the image": lambda: projected(*sphere(24, 30, 0.1), 0.5, [90, 40, 300.0], 140.0),
    "camera inside": lambda: projected(*sphere(24, 30, 0.1), 0.0, [5, 3, 20.0], 30.0),
    "small triangles": lambda: soup(0, 2.0),
    "large triangles": lambda: soup(1, 40.0),
    "lattice": lattice,
}


def padded(points, depth, triangles):
    """The scene padded with degenerate triangles, so that all scenes share one compilation."""
    points, depth = np.pad(points, ((0, 2400 - len(points)), (0, 0))), np.pad(depth, (0, 2400 - len(depth)))
    return points, depth, np.pad(triangles, ((0, 4608 - len(triangles)), (0, 0)))


@pytest.mark.parametrize("visibility", ["platform", "sort"])
@pytest.mark.parametrize("scene", SCENES)
def test_ids_equal_brute_force(scene, visibility):
    points, depth, triangles = SCENES[scene]()
    expected = brute_force(points, depth, triangles, SIZE, SIZE)
    visible = rasterize(*padded(points, depth, triangles), SIZE, SIZE, visibility=visibility)
    assert visible.overflow == 0 and (expected >= 0).any()
    np.testing.assert_array_equal(visible.triangle_id, expected)


def test_ids_and_depth_equal_the_reference_of_deep3d():
    golden = np.load(GOLDEN)
    points, depth, triangles = golden["points_px"], golden["depth"], jnp.asarray(golden["triangles"], jnp.int32)
    visible = rasterize(points, depth, triangles, 224, 224)
    np.testing.assert_array_equal(visible.triangle_id, golden["triangle_id"])
    surface = interpolate(jnp.asarray(depth)[:, None], points, depth, triangles, visible.triangle_id)[..., 0]
    np.testing.assert_allclose(surface[::8, ::8], golden["depth_every_8"], atol=5e-6)


WHOLE = ((SIZE, None),)
QUADS = np.array([[1.0, 1], [9, 1], [9, 9], [1, 9], [5, 5], [13, 5], [13, 13], [5, 13]], np.float32)
QUAD_TRIANGLES = jnp.array([[0, 1, 2], [2, 3, 0], [4, 6, 5], [6, 4, 7]], jnp.int32)


def test_overlapping_quads_share_edges_without_holes():
    depth = np.repeat([200.0, 100.0], 4).astype(np.float32)
    ids = np.asarray(rasterize(QUADS, depth, QUAD_TRIANGLES, 16, 16, tiers=WHOLE).triangle_id)
    back, front = np.zeros((2, 16, 16), bool)
    back[1:10, 1:10], front[5:14, 5:14] = True, True
    np.testing.assert_array_equal(ids >= 2, front)
    np.testing.assert_array_equal((ids == 0) | (ids == 1), back & ~front)
    assert (np.diag(ids)[1:5] == 0).all() and (np.diag(ids)[5:14] == 2).all()


def test_triangles_with_a_vertex_behind_the_camera_are_culled():
    depth = np.array([200, 200, 200, 200, 100, 100, 0.5, 100], np.float32)
    ids = rasterize(QUADS, depth, QUAD_TRIANGLES, 16, 16, tiers=WHOLE).triangle_id
    assert set(np.unique(ids)) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("tiers", "overflow"), [(((6, None), (8, None)), 2), (((7, None), (9, 1)), 1), (((9, None),), 0), (((16, 3),), 1)]
)
def test_overflow_counts_undrawn_triangles(tiers, overflow):
    points = QUADS * np.repeat([0.75, 1], 4)[:, None].astype(np.float32)  # boxes of 6 and of 9 pixel centres
    visible = rasterize(points, np.full(8, 50, np.float32), QUAD_TRIANGLES, 16, 16, tiers=tiers)
    assert visible.overflow == overflow
    assert len(np.unique(visible.triangle_id)) == 1 + 4 - overflow


def test_batches_equal_single_images():
    scenes = [padded(*projected(*sphere(40, 60, 0.1), turn, [0, 0, 400.0], 120.0)) for turn in (0.0, 0.4)]
    points, depth = (np.stack(part) for part in list(zip(*scenes, strict=True))[:2])
    triangles = scenes[0][2]
    tiers = ((2, None), (SIZE, None))
    render = jax.vmap(lambda points, depth: rasterize(points, depth, triangles, SIZE, SIZE, tiers=tiers).triangle_id)
    ids, nested = jax.jit(lambda p, z: (render(p, z), jax.vmap(render)(p[None], z[None])))(points, depth)
    for index in range(2):
        single = rasterize(points[index], depth[index], triangles, SIZE, SIZE).triangle_id
        np.testing.assert_array_equal(ids[index], single)
        np.testing.assert_array_equal(nested[0, index], single)


def test_interpolation_is_perspective_correct():
    points, depth, triangles = padded(*SCENES["bumpy, turned"]())
    ids = rasterize(points, depth, triangles, SIZE, SIZE).triangle_id
    space = np.concatenate([(points - (SIZE - 1) / 2) * depth[:, None] / 120, depth[:, None]], 1)
    points_mm = np.asarray(interpolate(space, points, depth, triangles, ids))
    back = np.asarray(camera.project(points_mm, 120.0, np.full(2, (SIZE - 1) / 2)))
    row, column = np.nonzero(np.asarray(ids) >= 0)
    np.testing.assert_allclose(back[row, column], np.stack([column, row], -1), atol=1e-3)
    assert (points_mm[np.asarray(ids) < 0] == 0).all()


def test_gradients_of_interpolation():
    points, depth, triangles = map(jnp.asarray, padded(*projected(*sphere(6, 7, 0.1), 0.3, [0, 0, 400.0], 120.0)))
    colors = jnp.asarray(np.random.default_rng(0).random((len(points), 2)), jnp.float32)
    ids = rasterize(points, depth, triangles, SIZE, SIZE).triangle_id
    row = jnp.linspace(0.2, 1, SIZE)[:, None, None] / SIZE

    def loss(colors, points, depth):
        return (row * interpolate(colors, points, 100 * depth, triangles, ids) ** 2).sum()

    check_grads(jax.jit(loss), (colors, points, depth / 100), 1, ["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_batch_gradients_are_finite_and_ignore_visibility():
    points, depth, triangles = map(jnp.asarray, soup(2, 8.0))

    def loss(points, depth):
        ids = rasterize(points, depth, triangles, SIZE, SIZE, tiers=((8, None), (SIZE, None))).triangle_id
        return interpolate(points, points, depth, triangles, ids).sum()

    def batch_loss(points, depth):
        return jax.vmap(loss)(points, depth).sum()

    one = jax.jit(jax.grad(loss, (0, 1)))(points, depth)
    two = jax.jit(jax.grad(batch_loss, (0, 1)))(jnp.stack([points] * 2), jnp.stack([depth] * 2))
    for single, batch in zip(one, two, strict=True):
        assert jnp.isfinite(batch).all()
        np.testing.assert_allclose(batch[1], single, rtol=1e-4, atol=1e-4)


def test_visible_points():
    depth_image = jnp.zeros((16, 16)).at[5:14, 5:14].set(100.0)
    points = jnp.array([[9.0, 9], [9, 9], [9, 9], [4.6, 9], [2, 2], [20, 9]])
    depth = jnp.array([100.0, 102, 110, 110, 500, 100])
    visible = raster.visible_points(points, depth, depth_image, tolerance=5.0)
    assert visible.tolist() == [True, True, False, True, True, False]
