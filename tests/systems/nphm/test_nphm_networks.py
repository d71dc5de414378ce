"""Parity of the converted networks with the official ones, and gradients at points where PyTorch defines them as 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxface.systems.nphm.fitting import backward
from jaxface.systems.nphm.networks import safe_norm
from tests import weights
from tests.systems.nphm.official import converted, error, golden

pytestmark = pytest.mark.usefixtures("full_precision")


def test_identity_matches_the_official_network():
    g, (model, params) = golden(), converted("id")
    codes = g["id.z"][:, 0]
    run = jax.jit(model.sdf_and_gradient, static_argnames="replicate_last_point_bug")
    sdf, gradient = run(params, codes, g["id.xyz"])
    assert error(sdf, g["id.train.sdf"]) < 1e-5
    assert error(gradient, g["id.train.grad"]) < 1e-5
    assert error(model.anchors(params, codes), g["id.anchors"]) < 1e-6
    assert error(jax.jit(model.sdf)(params, codes, g["id.xyz"]), sdf) < 1e-6
    by_code = jax.jit(jax.grad(lambda codes: model.sdf(params, codes, g["id.xyz"]).sum()))(codes)
    assert error(by_code, g["id.train.dsum_dz"][:, 0]) < 1e-5
    buggy = run(params, codes, g["id.xyz"], replicate_last_point_bug=True)
    assert error(buggy[0], g["id.eval.sdf"]) < 1e-5 and error(buggy[1], g["id.eval.grad"]) < 1e-5
    assert error(sdf, g["id.eval.sdf"]) > 0.1


def test_members_and_their_weights_match():
    g, (model, params) = golden(), converted("id")
    points, codes, anchors = g["id.xyz"][:, :7], g["id.z"][:, 0], g["id.anchors"]
    local = model.mirror_signs()[:, None] * (points[:, None] - model.centers(anchors)[:, :, None])
    assert error(local.transpose(0, 2, 1, 3), g["id.member_coords"]) < 1e-6
    values, gradients = jax.jit(model.member_sdfs)(params, codes, anchors, points)
    assert gradients is None and error(values.transpose(0, 2, 1), g["id.member_sdf"]) < 1e-5
    gaussian = model.gaussian_weights(anchors, points)
    assert error((gaussian / (gaussian.sum(1, keepdims=True) + 1e-6)).transpose(0, 2, 1), g["id.blend_weights"]) < 1e-5


def test_a_point_on_an_anchor_has_finite_gradients():
    g, (model, params) = golden(), converted("id")
    codes, anchors = g["id.z"][:, 0], model.anchors(params, g["id.z"][:, 0])
    number = int(np.argmin(np.abs(np.asarray(model.sdf(params, codes, anchors)) - g["id.at_anchor.sdf"]).sum(0)))
    points = anchors[:, number : number + 1]
    sdf, gradient = model.sdf_and_gradient(params, codes, points)
    assert error(sdf, g["id.at_anchor.sdf"]) < 1e-5 and error(gradient, g["id.at_anchor.grad"]) < 1e-4

    def loss(params, codes):
        sdf, gradient = model.sdf_and_gradient(params, codes, points)
        return (sdf**2).sum() + (safe_norm.norm(gradient) - 1).sum()

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, jnp.zeros_like(codes)))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_npm_matches():
    g, (model, params) = golden(), converted("npm_id")
    codes = weights.array("npm.z_id", (2, 1, 512), 0.02)[:, 0]
    sdf, gradient = jax.jit(model.sdf_and_gradient)(params, codes, g["id.xyz"])
    assert error(sdf, g["npm_id.sdf"]) < 1e-5 and error(gradient, g["npm_id.grad"]) < 1e-5
    model, params = converted("npm_ex")
    expression = weights.array("npm.z_ex", (2, 1, 200), 0.03)[:, 0]
    offsets = model.offsets(params, model.condition(params, codes, jnp.zeros((2, 0, 3))), expression, g["id.xyz"])
    assert error(offsets, g["npm_ex.offsets"]) < 1e-5


def deform(arguments, points):
    """Offsets of the points (N,3) of one subject."""
    params, condition, expression = arguments
    return converted("ex")[0].offsets(params, condition, expression, points[None])[0]


def test_deformation_and_its_jacobian_match():
    g, (model, params) = golden(), converted("ex")
    condition = model.condition(params, g["id.z"][:, 0], g["id.anchors"])
    assert error(condition, g["ex.compressed"][:, 0]) < 1e-6
    offsets = model.offsets(params, condition, g["ex.z"][:, 0], g["id.xyz"])
    assert error(offsets, g["ex.offsets"]) < 1e-6
    assert error(offsets[..., 2], g["ex.feat"]) < 1e-5
    for index in range(2):
        arguments = params, condition[index : index + 1], g["ex.z"][index]
        posed = lambda points, arguments=arguments: points + deform(arguments, points)  # noqa: E731
        assert error(backward.jacobian(posed, g["id.xyz"][index]), g["ex.jac"][index]) < 1e-6


@pytest.mark.parametrize("method", ["broyden", "newton"])
def test_backward_warp_solves_and_differentiates_implicitly(method):
    g, (model, params) = golden(), converted("ex")
    condition = model.condition(params, g["id.z"][:1, 0], g["id.anchors"][:1])
    observed, expression = jnp.asarray(g["search.obs"][0]), jnp.asarray(g["ex.z"][0])
    run = jax.jit(lambda arguments, observed: backward.warp(deform, arguments, observed, method))
    x, valid = run((params, condition, expression), observed)
    assert error(x, g["search.x"][0]) < 1e-5
    np.testing.assert_array_equal(valid, g["search.valid"][0])
    pull = weights.array("pull", (97, 3))
    scalar = lambda z: (run((params, condition, z), observed)[0] * pull).sum()  # noqa: E731
    along = weights.array("along", expression.shape)
    analytic = float((jax.grad(scalar)(expression) * along).sum())
    numeric = float(scalar(expression + 1e-3 * along) - scalar(expression - 1e-3 * along)) / 2e-3
    assert analytic == pytest.approx(numeric, rel=0.02)


def test_derivatives_of_softplus_and_norms():
    x = np.linspace(-0.3, 0.3, 601).astype(np.float32)
    truth = np.logaddexp(0, 100 * x.astype(np.float64)) / 100
    assert np.abs(safe_norm.softplus(x) - truth).max() < 5e-8
    slope = jax.vmap(jax.grad(safe_norm.softplus))(x)
    assert np.abs(slope - 1 / (1 + np.exp(-100 * x.astype(np.float64)))).max() < 1e-6
    curvature = jax.vmap(jax.grad(jax.grad(safe_norm.softplus)))(x)
    assert np.abs(curvature - 100 * slope * (1 - slope)).max() < 1e-4
    for function in (safe_norm.norm, lambda x: safe_norm.normalize(x).sum()):
        assert (jax.grad(function)(jnp.zeros(3)) == 0).all()
    check_grads(safe_norm.normalize, (np.float32([0.3, -0.2, 0.5]),), 1, rtol=1e-2)
