"""CPU convolution (matrix-product gradients, Winograd) against XLA's convolution: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxface.nn import convolution, winograd
from jaxface.nn.convolution import CHUNK, FEW_CHANNELS, Conv, convolve


def value_and_gradients(form, image, kernel):
    output, pullback = jax.vjp(form, image, kernel)
    return output, *pullback(jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape))


@pytest.mark.parametrize("shape", [(3, 9, 8, 16), (4, 7, 12, FEW_CHANNELS), (2, 6, 6, 3)])
@pytest.mark.parametrize("size, stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_values_and_gradients_match_xla(shape, size, stride):
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (size, size, shape[-1], 5))
    ours, theirs = (
        jax.jit(functools.partial(value_and_gradients, functools.partial(form, stride=stride)))(*arrays)
        for form in (convolve, convolution._plain)
    )
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("shape, outputs", [((2, 9, 6, 64), 80), ((1, 8, 11, 96), 64), ((3, 1, 2, 64), 64)])
def test_winograd_convolves_with_fewer_products(shape, outputs, tiles, monkeypatch):
    """Values and gradients of F(2x2, 3x3) and F(2x1, 3x1) at odd sides and unequal numbers of channels."""
    monkeypatch.setattr(winograd, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(winograd, "MIN_ROWS", 0)
    monkeypatch.setattr(winograd, "_tiles_pay", lambda *_: tiles)
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (3, 3, shape[-1], outputs))
    assert winograd.pays(*arrays, 1) and not winograd.pays(*arrays, 2)
    form = str(jax.make_jaxpr(winograd.convolve)(*arrays))
    assert form.count("dot_general[") == (16 if tiles else 4) and "conv_general_dilated" not in form
    jax.clear_caches()  # otherwise the trace of the previous case is reused
    ours, theirs = (
        jax.jit(functools.partial(value_and_gradients, form))(*arrays)
        for form in (convolve, functools.partial(convolution._plain, stride=1))
    )
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("batch, side, pays", [("1", 8, False), ("B", 8, False), ("8", 8, True), ("B", 16, True)])
def test_winograd_is_used_for_large_batches_or_images(batch, side, pays):
    shapes = export.symbolic_shape(f"{batch}, {side}, {side}, 256"), (3, 3, 256, 256)
    assert winograd.pays(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes), 1) is pays


@pytest.mark.parametrize("batch, rest", [(6, CHUNK // 4), (5, CHUNK // 4), (3, 2 * CHUNK)])
def test_kernel_gradient_is_summed_in_equal_chunks(batch, rest):
    """A chunk holds three of six images, one of five (a prime), or only some rows of a large image."""
    side = 64
    image = jax.random.normal(jax.random.key(1), (batch, side, side, rest // side**2))
    cotangent = jax.random.normal(jax.random.key(2), (batch, side, side, 2))
    gradients = [
        jax.jit(functools.partial(form, size=3, stride=1))(image, cotangent)
        for form in (convolution._kernel_gradient_products, convolution._kernel_gradient_plain)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=5e-3)


def test_products_of_any_rank():
    """Product with a matrix over the last axis of (B,…,C); its gradient is computed in chunks."""
    x, matrix = jax.random.normal(jax.random.key(3), (3, 40, 60, 32)), jax.random.normal(jax.random.key(4), (32, 4))
    for some in (x, x[:, 0], x[:, 0, 0]):
        ours, theirs = (jax.jit(functools.partial(value_and_gradients, form))(some, matrix) for form in (
            convolution.product, jnp.matmul))  # fmt: skip
        for actual, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-4)


def test_half_precision_keeps_float32_parameters():
    module = Conv(4, 3, dtype=jnp.bfloat16)
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    params = module.init(jax.random.key(1), image)
    assert module.apply(params, image).dtype == jnp.bfloat16
    grads = jax.grad(lambda p: module.apply(p, image).astype(jnp.float32).sum())(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}
