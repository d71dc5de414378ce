"""Converted networks against the official code's maps and landmarks, and strict name maps of every variant."""

import functools
import json

import jax
import numpy as np
import pytest

from configs.pipnet import get_config
from jaxface.errors import UserError
from jaxface.systems import pipnet
from jaxface.systems.pipnet import model
from tests import weights

MEAN_FACES = json.loads((weights.GOLDEN / "pipnet_meanfaces.json").read_text())
GOLDENS = {
    "resnet18_wflw": ("wflw_resnet18", "WFLW"),
    "mobilenetv2_wflw": ("wflw_mobilenet_v2", "WFLW"),
    "resnet18_gssl68": ("gssl_resnet18", "data_300W_CELEBA"),
}
MANIFESTS = {
    "mobilenetv3_wflw": ("wflw_mobilenet_v3", 32, 5_138_046),
    "resnet50_wflw": ("wflw_resnet50", 32, 28_126_478),
    "resnet101_wflw": ("wflw_resnet101", 32, 47_118_606),
    "resnet18_wflw_s16": ("wflw_resnet18", 16, 16_528_142),
    "resnet18_wflw_s64": ("wflw_resnet18", 64, 14_693_646),
    "resnet18_wflw_s128": ("wflw_resnet18", 128, 17_054_478),
}


pytestmark = pytest.mark.usefixtures("full_precision")


def configured(variant, face="WFLW", **changes):
    config = get_config(variant)
    config.model.meanface = tuple(MEAN_FACES[face])
    config.model.update(changes)
    return config


def checkpoint(manifest, gain=1.0):
    names = json.loads((weights.GOLDEN / f"pipnet_{manifest}_manifest.json").read_text())
    return {name: weights.fill(name, shape, gain) for name, shape in names.items()}


def converted(config, tensors):
    system = pipnet.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return system, system.from_torch(tensors, *zeros)


@pytest.mark.parametrize("manifest", GOLDENS)
def test_maps_and_landmarks_are_the_official_ones(manifest):
    variant, face = GOLDENS[manifest]
    golden = np.load(weights.GOLDEN / f"pipnet_{manifest}_gain1_golden.npz")
    config = configured(variant, face)
    system, result = converted(config, checkpoint(manifest))
    params, model_state = result.params, result.model_state
    net, curriculum = model.model_from_config(config.model), variant.startswith("gssl")
    image = weights.image("pipnet", (2, 256, 256, 3))
    run = jax.jit(functools.partial(net.apply, train=False, coarse=curriculum))
    maps = run({"params": params, **model_state}, image)
    if curriculum:
        maps["cls1"] = maps.pop("cls")
    assert {f"{name}_sub" for name in maps} == {name for name in golden if name.endswith("_sub")}
    for name, values in maps.items():
        flat = np.asarray(values).transpose(0, 3, 1, 2)
        assert flat.shape == tuple(golden[f"{name}_shape"])
        expected = golden[f"{name}_sub"]
        ours = flat.ravel()[:: int(golden[f"{name}_stride"])]
        assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max(), name
    outputs = system.raw(params, model_state, {"image": image})
    assert outputs.keys() == {"landmarks", "landmarks_own", "scores"}
    for name in ("landmarks", "landmarks_own"):
        np.testing.assert_allclose(outputs[name], golden[name], atol=1e-5)
    np.testing.assert_allclose(outputs["scores"], golden["max_cls"], atol=1e-4)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_variant_loads_its_whole_checkpoint(manifest):
    variant, stride, count = MANIFESTS[manifest]
    tensors = checkpoint(manifest)
    config = configured(variant, stride=stride)
    _, result = converted(config, tensors)
    params, model_state = result.params, result.model_state
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert all(np.any(leaf) for leaf in jax.tree.leaves((params, model_state)))
    broken = dict(tensors)
    del broken["x_layer.bias"], broken["cls_layer.weight"]
    broken["surplus.weight"] = np.zeros(2, np.float32)
    with pytest.raises(UserError, match=r"2 missing: cls_layer.weight, x_layer.bias; 1 left over: surplus.weight"):
        converted(config, broken)


@pytest.mark.parametrize("variant", ["wflw_resnet50", "wflw_mobilenet_v2", "wflw_mobilenet_v3"])
@pytest.mark.parametrize("stride", [16, 64, 128])
def test_strides_that_the_original_does_not_support(variant, stride):
    net = model.model_from_config(configured(variant, stride=stride, neighbors=4).model)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
    maps = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), np.zeros(image.shape, image.dtype))[0])
    grid = 256 // stride
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        **{name: (1, grid, grid, 98) for name in ("cls", "x", "y")},
        **{name: (1, grid, grid, 392) for name in ("nb_x", "nb_y")},
    }


@pytest.mark.parametrize("manifest, classifier", [("resnet18_wflw", "fc"), ("mobilenetv2_wflw", "classifier.1")])
def test_imagenet_fills_the_backbone_only(manifest, classifier):
    whole = checkpoint(manifest)
    imagenet = {name: value for name, value in whole.items() if "_layer" not in name}
    imagenet |= {f"{classifier}.weight": np.zeros((1000, 4)), f"{classifier}.bias": np.zeros(1000)}
    config = configured(GOLDENS[manifest][0])
    _, result = converted(config, imagenet)
    _, expected = converted(config, whole)
    params = result.params
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, result.model_state, expected.model_state)
    assert not any(np.any(leaf) for name in params if name != "backbone" for leaf in jax.tree.leaves(params[name]))
    assert f"dropped entries: {classifier}.weight, {classifier}.bias" in result.notes[0]


def test_transposed_convolution_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    config = configured("wflw_resnet18", stride=16, image_size=64)
    tensors = checkpoint("resnet18_wflw_s16")
    _, result = converted(config, tensors)
    net, x = model.model_from_config(config.model), weights.array("pipnet.deconv", (2, 512, 3, 3))
    run = jax.jit(lambda variables, x: net.apply(variables, x, method=lambda self, x: self.deconv1(x)))
    ours = run({"params": result.params, **result.model_state}, x.transpose(0, 2, 3, 1))
    kernel = torch.from_numpy(tensors["deconv1.weight"])
    theirs = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), kernel, stride=2, padding=1)
    np.testing.assert_allclose(np.asarray(ours).transpose(0, 3, 1, 2), theirs, atol=1e-4)
