"""Codes into heads: directions, random people, in-betweens, borrowed expressions; and the page over them."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import Single
from jaxface.systems.nphm.surface import explore

IDENTITY = Single(3, 16, 2)


@pytest.fixture(scope="module")
def explorer() -> explore.Explorer:
    """Untrained networks; the zero level passes through a point 0.3 units beside the middle."""
    moves = Deformation(3, 0, 2, 0, 16, 2)
    keys = jax.random.split(jax.random.key(0))
    made = {"identity": jax.jit(IDENTITY.init)(keys[0]), "expression": jax.jit(moves.init)(keys[1])}
    params = jax.tree.map(np.array, made)
    layers = params["identity"]
    layers["layer2"]["bias"] -= _value(layers, [0.3, 0, 0])
    rng = np.random.default_rng(0)
    people, scans = (explore.Codes(0.1 * rng.standard_normal(size).astype(np.float32)) for size in ((5, 3), (7, 2)))
    return explore.Explorer(IDENTITY, moves, params, people, scans)


def _value(layers: dict, point: list) -> float:
    return float(IDENTITY.sdf(layers, np.zeros((1, 3), np.float32), np.float32([[point]]))[0, 0])


def test_directions_are_those_of_the_codes():
    rng = np.random.default_rng(1)
    table = (rng.standard_normal((500, 4)) * [3, 1, 0.2, 0]).astype(np.float32) + 5
    codes = explore.Codes(table)
    lengths = np.linalg.norm(codes.directions, axis=1)
    np.testing.assert_allclose(lengths[:3], table.std(0)[:3], rtol=0.02)
    moved = codes.moved(codes.mean, (2.0,)) - codes.mean
    np.testing.assert_allclose(np.abs(moved), [6, 0, 0, 0], atol=0.6)
    drawn = np.stack([codes.sample(seed) for seed in range(400)])
    np.testing.assert_allclose(drawn.std(0), explore.SAMPLE_SPREAD * table.std(0), rtol=0.15, atol=1e-6)
    np.testing.assert_array_equal(codes.sample(3), codes.sample(3))


def test_wishes_become_codes(explorer):
    people = explorer.people.table
    wish = explore.Wish(person=1, other=2)
    np.testing.assert_allclose(explorer.code(wish), people[1])
    half = explorer.code(dataclasses.replace(wish, between=0.5))
    np.testing.assert_allclose(half, (people[1] + people[2]) / 2, atol=1e-6)
    np.testing.assert_allclose(explorer.code(explore.Wish()), people.mean(0), atol=1e-6)
    np.testing.assert_allclose(explorer.code(explore.Wish(sample=4)), explorer.people.sample(4))


def test_an_expression_moves_the_same_mesh(explorer):
    rest = explorer.show(explore.Wish(person=0, resolution=16))
    assert len(rest.triangles) > 50 and rest.colors.shape == rest.vertices.shape
    posed = explorer.show(explore.Wish(person=0, scan=3, resolution=16))
    assert posed.triangles is rest.triangles and np.abs(posed.vertices - rest.vertices).max() > 1e-4
    borrowed = explorer.show(explore.Wish(person=1, scan=3, resolution=16))
    assert borrowed.vertices.shape != posed.vertices.shape or np.abs(borrowed.vertices - posed.vertices).max() > 1e-4


def test_the_page_shows_what_is_asked_for(explorer):
    viser = pytest.importorskip("viser")
    from launch.view import Page

    server = viser.ViserServer(port=0, verbose=False)
    try:
        page = Page(server, explorer, resolution=16)
        page.refresh()
        first = page.shown
        page.person.value, page.scan.value = "2", "1"
        assert page.wish() == explore.Wish(2, -1, 0.0, -1, (0.0,) * 3, 1, (0.0,) * 2, False, 16)
        page.refresh()
        assert page.shown.vertices.shape != first.vertices.shape or not np.allclose(page.shown.vertices, first.vertices)
        page.draw(5)
        assert page.wish().sample == 5
    finally:
        server.stop()
