"""Mesh extraction: the sparse SDF against the dense one, coarse-to-fine grids, meshes of known shapes."""

import jax
import numpy as np
import pytest
import trimesh

from jaxface.errors import UserError
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM
from jaxface.systems.nphm.surface import extract, sparse_sdf

BOX = ((-0.5, -0.5, -0.6), (0.5, 0.6, 0.5))


def _ensemble() -> tuple[Ensemble, dict, np.ndarray]:
    rng = np.random.default_rng(0)
    anchors = rng.uniform(-0.3, 0.3, (9, 3))
    model = Ensemble(tuple(anchors.ravel().tolist()), 3, 4, 3, 24, 4, 8)
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0)))
    params["members"] = jax.tree.map(lambda leaf: 2 * leaf, params["members"])
    return model, params, rng.standard_normal(model.code_dim).astype(np.float32)


def _npm() -> tuple[NPM, dict, np.ndarray]:
    """A network whose zero level set lies in `BOX`: its values are shifted by their median."""
    model, code = NPM(5, 32, 4), np.float32([0.3, -1, 0.5, 0.2, 1])
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(2)))
    (member,) = sparse_sdf.fold_members(model, params, code)
    params["layer4"]["bias"] -= np.median(member(np.random.default_rng(3).uniform(-0.5, 0.5, (500, 3))))
    return model, params, code


@pytest.mark.parametrize("make", [_ensemble, _npm])
def test_the_sparse_sdf_matches_the_dense_one(make):
    model, params, code = make()
    low, high = np.array(extract.BOX)
    points = np.random.default_rng(1).uniform(low, high, (3001, 3)).astype(np.float32)
    dense = np.asarray(jax.jit(model.sdf)(params, code[None], points[None]))[0]
    blend, output = sparse_sdf.evaluate(sparse_sdf.fold_members(model, params, code), points)
    assert np.ptp(dense) > 0.05
    np.testing.assert_allclose(output, dense, atol=1e-4)
    np.testing.assert_array_equal(np.sign(blend), np.sign(output))
    assert blend.dtype == output.dtype == np.float32


def test_members_are_dropped_only_where_their_weight_is_negligible():
    shares = np.full((4, 2 * sparse_sdf.CHUNK), 2e-5, np.float32)
    shares[0] = 1.0
    shares[3, 5] = 0.3
    kept = sparse_sdf._kept_members(shares)
    np.testing.assert_array_equal(kept, [[1, 1], [0, 0], [0, 0], [1, 0]])
    shares[1:] = 6e-5
    assert sparse_sdf._kept_members(shares).sum() == 6, "the limit applies to the sum of the dropped members"


def _counted(shape):
    """An SDF (N,3) -> (N,) in the form of `sparse_sdf.evaluate`, and a list of the points per call."""
    counts = []

    def sdf(points):
        counts.append(len(points))
        value = shape(points).astype(np.float32)
        return value, value

    return sdf, counts


def test_a_ball_has_its_radius_and_volume():
    sdf, counts = _counted(lambda x: np.linalg.norm(x - [0.1, 0.05, -0.1], axis=1) - 0.3)
    mesh = extract.marching_cubes(extract.evaluate_grid(sdf, 61, BOX), BOX)
    radii = np.linalg.norm(mesh.vertices - [0.1, 0.05, -0.1], axis=1)
    np.testing.assert_allclose(radii, 0.3, atol=5e-4)
    solid = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False)
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    assert sum(counts) < 0.3 * 61**3


def _ears(points):
    """A ball and two plates much thinner than the coarsest cells."""
    ball = np.linalg.norm(points, axis=1) - 0.25
    plates = np.maximum(np.abs(np.abs(points[:, 0]) - 0.33) - 0.012, np.linalg.norm(points[:, 1:], axis=1) - 0.15)
    return np.minimum(ball, plates)


@pytest.mark.parametrize("resolution", [40, 65])
def test_coarse_to_fine_extraction_equals_the_full_grid(resolution):
    sdf, _ = _counted(_ears)
    refined = extract.evaluate_grid(sdf, resolution, BOX)
    full = extract.evaluate_grid(sdf, resolution, BOX, prune=False)
    np.testing.assert_array_equal(np.sign(refined), np.sign(full))
    meshes = [extract.marching_cubes(values, BOX) for values in (refined, full)]
    np.testing.assert_array_equal(meshes[0].vertices, meshes[1].vertices)


def test_extraction_and_posing_of_a_model():
    model, params, code = _npm()
    mesh = extract.extract_mesh(model, params, code, 24, BOX, prune=False)
    (member,) = sparse_sdf.fold_members(model, params, code)
    assert len(mesh.triangles) > 100
    assert np.abs(member(mesh.vertices)).max() < 0.1 * np.abs(member(np.float32(BOX))).max()
    deformation, expression = Deformation(5, 0, 2, 0, 24, 3), np.ones(2, np.float32)
    weights = jax.jit(deformation.init)(jax.random.key(4))
    posed = extract.pose_mesh(deformation, weights, code, expression, mesh)
    offsets = jax.jit(deformation.offsets)(weights, code[None], expression[None], mesh.vertices[None])[0]
    np.testing.assert_allclose(posed.vertices, mesh.vertices + offsets, atol=1e-6)
    np.testing.assert_array_equal(posed.triangles, mesh.triangles)


def test_an_sdf_without_surface_is_a_user_error():
    sdf, _ = _counted(lambda x: 1 + x[:, 0])
    with pytest.raises(UserError, match="no surface passes through the box"):
        extract.marching_cubes(extract.evaluate_grid(sdf, 20, BOX), BOX)
