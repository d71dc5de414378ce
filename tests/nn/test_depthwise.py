"""Depthwise convolution for CPUs against XLA's grouped convolution: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxface.nn import depthwise
from jaxface.nn.depthwise import Depthwise


def sample(shape, size):
    keys = jax.random.split(jax.random.key(0), 3)
    image, cotangent = (jax.random.normal(key, shape) for key in keys[:2])
    return image, jax.random.normal(keys[2], (size, size, 1, shape[-1])), cotangent


@pytest.mark.parametrize("shape", [(2, 20, 17, 5), (1, 14, 14, 8), (3, 7, 7, 4), (2, 3, 1, 2)])
@pytest.mark.parametrize("size", [3, 7])
def test_values_and_gradients_match_the_grouped_convolution(shape, size):
    image, kernel, cotangent = sample(shape, size)
    (actual, fast_gradients), (expected, gradients) = (
        jax.jit(lambda *args, form=form: (form(*args), jax.vjp(form, *args)[1](cotangent)))(image, kernel)
        for form in (depthwise.depthwise, depthwise._grouped)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    for fast, slow in zip(fast_gradients, gradients, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("shape", [(2, 9, 8, 3), (1, 16, 21, 4), (2, 1, 2, 3)])
@pytest.mark.parametrize("size", [3, 5])
def test_strided_output_subsamples_the_dense_one(shape, size):
    image, kernel, cotangent = sample(shape, size)
    cotangent = cotangent[:, ::2, ::2]
    (actual, fast_gradients), (expected, gradients) = (
        jax.jit(lambda *args, form=form: (form(*args, 2), jax.vjp(lambda *both: form(*both, 2), *args)[1](cotangent)))(
            image, kernel
        )
        for form in (depthwise.depthwise, depthwise._grouped)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
    for fast, slow in zip(fast_gradients, gradients, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_is_added_and_has_a_gradient(stride):
    image, kernel, cotangent = sample((2, 9, 8, 3), 3)
    bias, cotangent = jnp.array([0.5, -1.0, 2.0]), cotangent[:, ::stride, ::stride]

    def value_and_gradients(form):
        value, gradients = jax.vjp(lambda image, kernel, bias: form(image, kernel, stride, bias), image, kernel, bias)
        return value, gradients(cotangent)

    (actual, fast_gradients), (expected, gradients) = map(
        value_and_gradients, (depthwise.depthwise, depthwise._grouped)
    )
    without = depthwise._grouped(image, kernel, stride)
    np.testing.assert_allclose(expected, without + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for fast, slow in zip(fast_gradients, gradients, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-4)


def test_kernel_gradient_of_other_platforms():
    image, kernel, cotangent = sample((2, 9, 8, 3), 7)
    expected = jax.vjp(depthwise._grouped, image, kernel)[1](cotangent)[1]
    np.testing.assert_allclose(depthwise._kernel_gradient_grouped(image, cotangent, 7), expected, rtol=1e-5, atol=1e-4)


def test_gradients_numerically():
    image, kernel, _ = sample((1, 5, 6, 2), 7)
    check_grads(depthwise.depthwise, (image, kernel), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_half_precision_keeps_float32_parameters():
    module = Depthwise(dtype=jnp.bfloat16)
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    params = module.init(jax.random.key(1), image)
    grads = jax.grad(lambda p: module.apply(p, image).astype(jnp.float32).sum())(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}
