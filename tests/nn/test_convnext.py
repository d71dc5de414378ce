"""ConvNeXt: parameter counts of the published sizes, borders, drop path, V2's norm, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.nn.convnext import SIZES, ConvNeXt, GlobalResponseNorm

SMALL = dict(depths=(1, 2), dims=(4, 6))


def random_params(net):
    """Weights large enough for every layer to matter: the initial layer scales hide the blocks."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: 0.3 * draw.standard_normal(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize(
    ("size", "version", "count"),
    [
        ("tiny", 1, 27_820_128),
        ("small", 1, 49_454_688),
        ("base", 1, 87_566_464),
        ("large", 1, 196_230_336),
        ("nano", 2, 14_982_800),
        ("tiny", 2, 27_866_496),
        ("base", 2, 87_692_800),
    ],
)
def test_parameter_counts(size, version, count):
    net = ConvNeXt(*SIZES[size], version=version)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_incomplete_patches_are_dropped():
    net = ConvNeXt(**SMALL)
    params = random_params(net)
    image = np.random.default_rng(2).standard_normal((2, 75, 98, 3), np.float32)
    pooled, maps = jax.jit(net.apply)(params, image)
    assert [one.shape for one in maps] == [(2, 75 // 4, 98 // 4, 4), (2, 75 // 8, 98 // 8, 6)]
    np.testing.assert_allclose(jax.jit(net.apply)(params, image[:, :72, :96])[0], pooled, rtol=1e-5, atol=1e-5)


def test_drop_path_is_per_sample_and_off_at_evaluation():
    net = ConvNeXt(**SMALL, drop_path=0.5, final_norm=False)
    params = random_params(net)
    image = np.random.default_rng(2).standard_normal((1, 32, 32, 3), np.float32).repeat(64, 0)
    run = jax.jit(functools.partial(net.apply, train=True))
    pooled = run(params, image, rngs={"dropout": jax.random.key(3)})[0]
    assert len(np.unique(np.asarray(pooled[:, 0]))) > 2
    plain = jax.jit(ConvNeXt(**SMALL, final_norm=False).apply)(params, image)[0]
    np.testing.assert_allclose(jax.jit(net.apply)(params, image)[0], plain, rtol=1e-6)


def test_response_norm_matches_the_paper_and_has_finite_gradients_at_zero():
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    params = {"params": {"scale": np.array([1.0, 2.0, 3.0], np.float32), "bias": np.ones(3, np.float32)}}
    norm = np.sqrt((x**2).sum((1, 2), keepdims=True))
    expected = x + params["params"]["scale"] * x * norm / (norm.mean(-1, keepdims=True) + 1e-6) + 1
    np.testing.assert_allclose(GlobalResponseNorm().apply(params, x), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: GlobalResponseNorm().apply(params, x).sum())(jnp.zeros((1, 2, 2, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("version", [1, 2])
def test_bfloat16_is_close_and_gradients_stay_float32(version):
    image = np.random.default_rng(2).standard_normal((2, 64, 64, 3), np.float32)
    net = ConvNeXt(**SMALL, version=version)
    params = random_params(net)
    half = ConvNeXt(**SMALL, version=version, dtype=jnp.bfloat16)
    apply = jax.jit(jax.value_and_grad(lambda p: (lambda y: (y.var(), y))(half.apply(p, image)[0]), has_aux=True))
    (_, pooled), grads = apply(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(pooled, jax.jit(net.apply)(params, image)[0], atol=0.25)
