"""Checkpoints for R-Net: ImageNet backbones and the single output layer of --use_last_fc."""

import functools

import jax
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.systems.deep3d import model, torch_weights
from jaxface.torch_weights import linear
from tests import weights


@pytest.fixture(scope="module")
def network():
    """R-Net of resnet18 with the published outputs, and variables of its shapes."""
    config = get_config("reference")
    config.model.update(backbone="resnet18", image_size=64, identity=80, expression=64, albedo=80, confidence=False)
    net = model.model_from_config(config.model)
    image = np.zeros((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), image)
    return net, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


def torch_entries(sources, variables) -> dict[str, np.ndarray]:
    """Random entries of the shapes that PyTorch has."""
    flat = {"/".join(key): value for key, value in flatten(variables)}
    entries = {}
    for path, (name, transform) in sources.items():
        shape = flat[path].shape
        if len(shape) == 4:
            shape = shape[3:] + shape[2:3] + shape[:2]
        elif transform is linear:
            shape = shape[::-1]
        entries[name] = weights.fill(name, shape)
    return entries


def flatten(tree, prefix=()):
    for name, value in tree.items():
        yield from flatten(value, (*prefix, name)) if isinstance(value, dict) else [((*prefix, name), value)]


def test_torchvision_s_resnet_fills_the_backbone(network):
    net, variables = network
    sources = torch_names.resnet("resnet18", "backbone/")
    entries = torch_entries(sources, variables)
    entries |= {"fc.weight": np.zeros((1000, 512), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    entries["bn1.num_batches_tracked"] = np.array(7)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    converted = torch_weights.from_torch(net, "resnet18", entries, params, state)
    kernel = converted.params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, entries["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(converted.params["identity"]["kernel"], params["identity"]["kernel"])
    mean = converted.model_state["batch_stats"]["backbone"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, entries["bn1.running_mean"])
    assert "dropped entries: fc.weight, fc.bias" in converted.notes[0]
    del entries["layer2.0.conv1.weight"]
    with pytest.raises(UserError, match="layer2.0.conv1.weight"):
        torch_weights.from_torch(net, "resnet18", entries, params, state)


def test_the_single_output_layer_is_split(network):
    """Row r of backbone.fc becomes coefficient r of the vector (80, 64, 80, 3, 27, 2 and 1 numbers)."""
    net, variables = network
    entries = torch_entries(torch_names.resnet("resnet18", "backbone/", "backbone."), variables)
    weight, bias = weights.fill("w", (257, 512)), weights.fill("b", (257,))
    entries |= {"backbone.fc.weight": weight, "backbone.fc.bias": bias}
    nested = {f"net_recon.module.{name}": value for name, value in entries.items()}
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    converted = torch_weights.from_torch(net, "resnet18", nested, params, state)
    rows = {"identity": (0, 80), "expression": (80, 144), "albedo": (144, 224), "angles": (224, 227)}
    rows |= {"light": (227, 254), "translation": (254, 256), "depth": (256, 257)}
    for name, (start, stop) in rows.items():
        np.testing.assert_array_equal(converted.params[name]["kernel"], weight[start:stop].T)
        np.testing.assert_array_equal(converted.params[name]["bias"], bias[start:stop])
    wrong = {**entries, "backbone.fc.weight": weight[:200]}
    with pytest.raises(UserError, match="backbone.fc.weight is of 200 rows, the configured model has 257 outputs"):
        torch_weights.from_torch(net, "resnet18", wrong, params, state)
