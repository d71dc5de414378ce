"""ResNets and MobileNets: shapes, parameter counts of the papers' code, PyTorch's batch norm."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface import torch_names
from jaxface.nn import batch_norm, mobilenet, pooling, resnet


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def traced(name, side=65):
    if name in resnet.SIZES:
        net = resnet.ResNet(*resnet.SIZES[name])
    else:
        net = mobilenet.MobileNet(mobilenet.SIZES[name])
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    return variables, jax.eval_shape(net.apply, variables, image)


# torchvision's counts without the classifier; MobileNetV3: PIPNet's own, 5.14 M with 98 points less its heads.
COUNTS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160}
COUNTS |= {"mobilenet_v2": 2_223_872}


@pytest.mark.parametrize("name", [*resnet.SIZES, *mobilenet.SIZES])
def test_parameters_and_names(name):
    variables, _ = traced(name)
    assert size_of(variables["params"]) == COUNTS.get(name, size_of(variables["params"]))
    names = torch_names.resnet(name) if name in resnet.SIZES else torch_names.mobilenet(name)
    paths, _ = jax.tree_util.tree_flatten_with_path(variables)
    assert names.keys() == {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
    assert len({theirs for theirs, _ in names.values()}) == len(names)


def test_feature_maps_of_odd_sizes_match_pytorch():
    _, maps = traced("resnet50")
    assert [one.shape for one in maps] == [(2, 17, 17, 256), (2, 9, 9, 512), (2, 5, 5, 1024), (2, 3, 3, 2048)]
    assert traced("mobilenet_v2")[1].shape == (2, 3, 3, 1280)
    assert traced("mobilenet_v3", 64)[1].shape == (2, 2, 2, 960)


def test_squeeze_widths():
    assert [mobilenet.round_to_eight(c // 4) for c in (72, 120, 480, 672, 960)] == [24, 32, 120, 168, 240]


@pytest.mark.parametrize("devices", [1, 2])
def test_batch_norm_is_synchronised_over_devices(devices):
    values = np.random.default_rng(0).normal(3, 2, (4, 3, 5, 6)).astype(np.float32)
    net = batch_norm.BatchNorm(axis_name="x")
    variables = net.init(jax.random.key(0), values)
    run = jax.pmap(lambda x: net.apply(variables, x, True, mutable="batch_stats"), "x", devices=jax.devices()[:devices])
    out, changed = run(values.reshape(devices, -1, 3, 5, 6))
    flat = values.reshape(-1, 6)
    expected = (values - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(np.reshape(out, values.shape), expected, atol=2e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"][0], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"][0], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_small_resnet_has_gradients_and_evaluates_with_running_statistics():
    net = resnet.ResNet((1, 1), width=8)
    image = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    variables = jax.jit(net.init)(jax.random.key(1), image)

    @jax.jit
    def gradient(params, stats):
        def loss(params):
            maps, changed = net.apply({"params": params, **stats}, image, True, mutable="batch_stats")
            return (maps[-1] ** 2).mean(), changed

        return jax.grad(loss, has_aux=True)(params)

    stats = {"batch_stats": variables["batch_stats"]}
    grads, changed = gradient(variables["params"], stats)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    for _ in range(100):
        _, changed = gradient(variables["params"], changed)
    variables = {"params": variables["params"], **changed}
    trained, _ = jax.jit(lambda variables: net.apply(variables, image, True, mutable="batch_stats"))(variables)
    np.testing.assert_allclose(jax.jit(net.apply)(variables, image)[-1], trained[-1], atol=0.1)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 5, 2), (1, 1, 2, 1)])
def test_max_pool_and_its_gradient(shape):
    image = jax.random.normal(jax.random.key(0), shape)
    plain = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    cotangent = jax.random.normal(jax.random.key(1), plain(image).shape)
    for pool in (pooling.max_pool, jax.jit(pooling.max_pool)):
        out, vjp = jax.vjp(pool, image)
        np.testing.assert_array_equal(out, plain(image))
        np.testing.assert_array_equal(pool(image), out)
        np.testing.assert_allclose(vjp(cotangent)[0], jax.vjp(plain, image)[1](cotangent)[0], rtol=1e-6)
