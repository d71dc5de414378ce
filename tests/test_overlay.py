import numpy as np
import pytest

from jaxface import overlay
from jaxface.results import FaceLandmarks, LayoutPoints


def face(points: np.ndarray, sigma: float, layout: str, **fields) -> FaceLandmarks:
    box, spread = np.array([4.0, 4, 60, 60]), np.full(len(points), sigma)
    return FaceLandmarks(box=box, extent=box, layout=layout, points=points, sigma=spread, **fields)


def test_points_are_drawn_where_they_are_and_the_image_is_unchanged():
    image = np.full((100, 80, 3), 50, np.uint8)
    drawn = overlay.draw_overlay(image, [face(np.array([[40.0, 30.0]]), 0.1, "custom")])
    assert (image == 50).all() and drawn.shape == image.shape
    red, green, _ = drawn[30, 40].astype(int)
    assert green > red + 50 and (drawn[30, 20] == 50).all()
    unsure = overlay.draw_overlay(image, [face(np.array([[40.0, 30.0]]), 20.0, "custom")])
    assert unsure[30, 40, 0] > unsure[30, 40, 1] + 50


def test_an_image_kept_at_half_size_is_drawn_on_in_half_the_pixels():
    point = np.array([[60.5, 40.5]])
    drawn = overlay.draw_overlay(np.zeros((50, 40, 3), np.uint8), [face(point, 0.1, "custom")], step=2)
    assert drawn[20, 30, 1] > 100 and drawn[40, 36].sum() == 0


@pytest.mark.parametrize(("layout", "count"), [("68", 68), ("98", 98)])
@pytest.mark.parametrize("shape", [(1, 1, 3), (64, 2000, 3)])
def test_every_size_and_far_away_points_can_be_drawn(layout, count, shape):
    points = np.linspace(-1e12, 1e12, 2 * count).reshape(count, 2)
    assert overlay.draw_overlay(np.zeros(shape, np.uint8), [face(points, 1e9, layout)]).shape == shape


@pytest.mark.parametrize("corner", [(-3, -3), (38, 48), (100, 0), (0, -100)])
def test_a_layer_may_reach_beyond_the_edges(corner):
    layer = np.full((6, 6, 4), [200, 0, 0, 255], np.uint8)
    with_layer = face(np.zeros((0, 2)), 0.1, "custom", layer=(layer, corner))
    drawn = overlay.draw_overlay(np.zeros((50, 40, 3), np.uint8), [with_layer])
    y, x = np.nonzero(drawn[..., 0] == 200)
    inside = [(a, b) for a in range(corner[1], corner[1] + 6) for b in range(corner[0], corner[0] + 6)]
    assert set(zip(y, x, strict=True)) == {(a, b) for a, b in inside if 0 <= a < 50 and 0 <= b < 40}


def test_a_mesh_leaves_hidden_points_out():
    points = np.array([[10.0, 10], [40, 10], [40, 40], [10, 40]])
    edges, visible = np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), np.array([True, True, True, False])
    drawn = overlay.draw_overlay(
        np.zeros((60, 70, 3), np.uint8), [face(points, 0.1, "dense", edges=edges, visible=visible)]
    )
    assert drawn[10, 25].min() > 60 and drawn[25, 40].min() > 60 and drawn[10, 10, 1] > 30
    assert not drawn[36:45, 6:15].any() and not drawn[25, 10].any() and not drawn[40, 25].any()


def test_every_layout_is_drawn():
    layouts = {name: LayoutPoints(np.array([[x, 30.0]]), np.ones(1)) for name, x in (("a", 20.0), ("b", 40.0))}
    drawn = overlay.draw_overlay(
        np.zeros((60, 70, 3), np.uint8), [face(layouts["a"].points, 0.1, "a", layouts=layouts)]
    )
    assert drawn[30, 20].any() and drawn[30, 40].any()


def test_paint_covers_the_image_by_its_alpha():
    layer = np.full((4, 4, 4), [200, 100, 0, 255], np.uint8)
    layer[:2, :, 3] = 0
    painted = overlay.draw_paint(
        np.full((20, 20, 3), 50, np.uint8), [face(np.zeros((1, 2)), 1.0, "a", paint=(layer, (8, 8)))]
    )
    assert painted[11, 9].tolist() == [200, 100, 0] and painted[9, 9].tolist() == [50, 50, 50]
