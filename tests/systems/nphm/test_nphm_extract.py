"""Extraction: sparse members against the dense blend, refinement that loses nothing, meshes of known shapes."""

import jax
import numpy as np
import pytest
import trimesh

from jaxface.errors import UserError
from jaxface.systems.nphm.networks import members
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import Single
from jaxface.systems.nphm.surface import extract

BALL = ((-0.5, -0.5, -0.6), (0.5, 0.6, 0.5))


def _ensemble() -> tuple[Ensemble, dict, np.ndarray]:
    rng = np.random.default_rng(0)
    anchors = rng.uniform(-0.3, 0.3, (9, 3))
    model = Ensemble(tuple(anchors.ravel().tolist()), 3, 4, 3, 24, 4, 8)
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0)))
    params["members"] = jax.tree.map(lambda leaf: 2 * leaf, params["members"])
    return model, params, rng.standard_normal(model.code).astype(np.float32)


def _single() -> tuple[Single, dict, np.ndarray]:
    """A network with a surface in `BALL`: its values are moved by their median."""
    model, code = Single(5, 32, 4), np.float32([0.3, -1, 0.5, 0.2, 1])
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(2)))
    (member,) = members.fold(model, params, code)
    params["layer4"]["bias"] -= np.median(member(np.random.default_rng(3).uniform(-0.5, 0.5, (500, 3))))
    return model, params, code


@pytest.mark.parametrize("make", [_ensemble, _single])
def test_sparse_members_give_the_dense_distance(make):
    model, params, code = make()
    low, high = np.array(extract.BOX)
    points = np.random.default_rng(1).uniform(low, high, (3001, 3)).astype(np.float32)
    dense = np.asarray(jax.jit(model.sdf)(params, code[None], points[None]))[0]
    blend, output = members.distances(members.fold(model, params, code), points)
    assert np.ptp(dense) > 0.05
    np.testing.assert_allclose(output, dense, atol=1e-4)
    np.testing.assert_array_equal(np.sign(blend), np.sign(output))
    assert blend.dtype == output.dtype == np.float32


def test_members_are_left_out_only_where_they_have_no_say():
    shares = np.full((4, 2 * members.CHUNK), 2e-5, np.float32)
    shares[0] = 1.0
    shares[3, 5] = 0.3
    kept = members._kept(shares)
    np.testing.assert_array_equal(kept, [[1, 1], [0, 0], [0, 0], [1, 0]])
    shares[1:] = 6e-5
    assert members._kept(shares).sum() == 6, "together those left out may hold no more than one may"


def _exactly(shape):
    """`shape` (N,3) -> (N,) as `members.distances` gives it, and how many points it was asked for."""
    asked = []

    def distances(points):
        asked.append(len(points))
        value = shape(points).astype(np.float32)
        return value, value

    return distances, asked


def test_a_ball_is_found_where_it_is():
    distances, asked = _exactly(lambda x: np.linalg.norm(x - [0.1, 0.05, -0.1], axis=1) - 0.3)
    mesh = extract.march(extract.grid(distances, 61, BALL), BALL)
    radii = np.linalg.norm(mesh.vertices - [0.1, 0.05, -0.1], axis=1)
    np.testing.assert_allclose(radii, 0.3, atol=5e-4)
    solid = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False)
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    assert sum(asked) < 0.3 * 61**3


def _ears(points):
    """A ball with two plates, much thinner than the coarsest cells."""
    ball = np.linalg.norm(points, axis=1) - 0.25
    plates = np.maximum(np.abs(np.abs(points[:, 0]) - 0.33) - 0.012, np.linalg.norm(points[:, 1:], axis=1) - 0.15)
    return np.minimum(ball, plates)


@pytest.mark.parametrize("resolution", [40, 65])
def test_refinement_loses_nothing(resolution):
    distances, _ = _exactly(_ears)
    refined = extract.grid(distances, resolution, BALL)
    full = extract.grid(distances, resolution, BALL, prune=False)
    np.testing.assert_array_equal(np.sign(refined), np.sign(full))
    meshes = [extract.march(values, BALL) for values in (refined, full)]
    np.testing.assert_array_equal(meshes[0].vertices, meshes[1].vertices)


def test_a_model_is_extracted_and_posed():
    model, params, code = _single()
    mesh = extract.mesh(model, params, code, 24, BALL, prune=False)
    (member,) = members.fold(model, params, code)
    assert len(mesh.triangles) > 100
    assert np.abs(member(mesh.vertices)).max() < 0.1 * np.abs(member(np.float32(BALL))).max()
    moves, expression = Deformation(5, 0, 2, 0, 24, 3), np.ones(2, np.float32)
    weights = jax.jit(moves.init)(jax.random.key(4))
    posed = extract.pose(moves, weights, code, expression, mesh)
    offsets = jax.jit(moves.offsets)(weights, code[None], expression[None], mesh.vertices[None])[0]
    np.testing.assert_allclose(posed.vertices, mesh.vertices + offsets, atol=1e-6)
    np.testing.assert_array_equal(posed.triangles, mesh.triangles)


def test_no_surface_is_said():
    distances, _ = _exactly(lambda x: 1 + x[:, 0])
    with pytest.raises(UserError, match="no surface passes through the box"):
        extract.march(extract.grid(distances, 20, BALL), BALL)
