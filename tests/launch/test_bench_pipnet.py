"""The PyTorch baseline of PIPNet is the official network with our loss and merging of votes."""

import json

import jax
import numpy as np
import pytest

from jaxface.systems.pipnet import decoding, losses
from tests import weights

NAMES = ("cls", "x", "y", "nb_x", "nb_y")


def test_baseline_is_pipnet_on_resnet18():
    torch = pytest.importorskip("torch")
    from launch.benchmarks import pipnet_torch

    face = np.reshape(json.loads((weights.GOLDEN / "pipnet_meanfaces.json").read_text())["WFLW"], (98, 2))
    table = decoding.neighbor_table(face, 10)
    votes = decoding.votes(table)
    net = pipnet_torch.PIPNet(98, 10, torch.from_numpy(np.int64(votes.index)))
    manifest = json.loads((weights.GOLDEN / "pipnet_resnet18_wflw_manifest.json").read_text())
    net.load_state_dict({name: torch.from_numpy(weights.fill(name, shape, 1.0)) for name, shape in manifest.items()})
    golden = np.load(weights.GOLDEN / "pipnet_resnet18_wflw_gain1_golden.npz")
    image = weights.image("pipnet", (2, 256, 256, 3))
    normalised = (image - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        np.testing.assert_allclose(net.eval()(pixels), golden["landmarks"], atol=1e-4)
    points = np.random.default_rng(0).random((2, 98, 2), np.float32)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    pipnet_torch.train_step(net.train(), optimizer, pixels, torch.from_numpy(points), torch.from_numpy(table))
    gradient = net.cls_layer.bias.grad.numpy()
    with torch.inference_mode():
        maps = {name: value.numpy().transpose(0, 2, 3, 1) for name, value in net(pixels).items()}

    def scores_loss(bias):
        target = losses.targets(points, table, 8)["cls"]
        return 10 * ((maps["cls"] + bias - target) ** 2).mean()

    np.testing.assert_allclose(gradient, jax.grad(scores_loss)(np.zeros(98, np.float32)), rtol=1e-3, atol=1e-6)
