"""Latent space exploration: principal directions, sampling, interpolation, expression transfer; the page."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import NPM
from jaxface.systems.nphm.surface import explore
from jaxface.systems.nphm.surface.head_model import HeadModel

IDENTITY = NPM(3, 16, 2)


@pytest.fixture(scope="module")
def explorer() -> explore.Explorer:
    """Randomly initialised networks; the zero level set passes through (0.3, 0, 0)."""
    deformation = Deformation(3, 0, 2, 0, 16, 2)
    keys = jax.random.split(jax.random.key(0))
    initial = {"identity": jax.jit(IDENTITY.init)(keys[0]), "expression": jax.jit(deformation.init)(keys[1])}
    params = jax.tree.map(np.array, initial)
    layers = params["identity"]
    layers["layer2"]["bias"] -= _sdf(layers, [0.3, 0, 0])
    rng = np.random.default_rng(0)
    people, scans = (0.1 * rng.standard_normal(size).astype(np.float32) for size in ((5, 3), (7, 2)))
    return explore.Explorer(HeadModel(IDENTITY, deformation, params, people, scans))


def _sdf(layers: dict, point: list) -> float:
    return float(IDENTITY.sdf(layers, np.zeros((1, 3), np.float32), np.float32([[point]]))[0, 0])


def test_directions_are_the_principal_components_of_the_codes():
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((500, 4)) * [3, 1, 0.2, 0]).astype(np.float32) + 5
    codes = explore.LatentSpace(values)
    lengths = np.linalg.norm(codes.directions, axis=1)
    np.testing.assert_allclose(lengths[:3], values.std(0)[:3], rtol=0.02)
    moved = codes.moved(codes.mean, (2.0,)) - codes.mean
    np.testing.assert_allclose(np.abs(moved), [6, 0, 0, 0], atol=0.6)
    samples = np.stack([codes.sample(seed) for seed in range(400)])
    np.testing.assert_allclose(samples.std(0), explore.SAMPLE_STD * values.std(0), rtol=0.15, atol=1e-6)
    np.testing.assert_array_equal(codes.sample(3), codes.sample(3))


def test_view_states_select_codes(explorer):
    people = explorer.people.codes
    view = explore.ViewState(person=1, other=2)
    np.testing.assert_allclose(explorer.identity_code(view), people[1])
    half = explorer.identity_code(dataclasses.replace(view, between=0.5))
    np.testing.assert_allclose(half, (people[1] + people[2]) / 2, atol=1e-6)
    np.testing.assert_allclose(explorer.identity_code(explore.ViewState()), people.mean(0), atol=1e-6)
    np.testing.assert_allclose(explorer.identity_code(explore.ViewState(sample=4)), explorer.people.sample(4))


def test_an_expression_deforms_the_neutral_mesh(explorer):
    neutral = explorer.mesh(explore.ViewState(person=0, resolution=16))
    assert len(neutral.triangles) > 50 and neutral.colors.shape == neutral.vertices.shape
    posed = explorer.mesh(explore.ViewState(person=0, scan=3, resolution=16))
    assert posed.triangles is neutral.triangles and np.abs(posed.vertices - neutral.vertices).max() > 1e-4
    transferred = explorer.mesh(explore.ViewState(person=1, scan=3, resolution=16))
    assert (
        transferred.vertices.shape != posed.vertices.shape or np.abs(transferred.vertices - posed.vertices).max() > 1e-4
    )


def test_the_page_follows_its_controls(explorer):
    viser = pytest.importorskip("viser")
    from launch.view import Page

    server = viser.ViserServer(port=0, verbose=False)
    try:
        page = Page(server, explorer, resolution=16)
        page.refresh()
        first = page.shown
        page.person.value, page.scan.value = "2", "1"
        assert page.view_state() == explore.ViewState(2, -1, 0.0, -1, (0.0,) * 3, 1, (0.0,) * 2, False, 16)
        page.refresh()
        assert page.shown.vertices.shape != first.vertices.shape or not np.allclose(page.shown.vertices, first.vertices)
        page.set_sample(5)
        assert page.view_state().sample == 5
    finally:
        server.stop()
