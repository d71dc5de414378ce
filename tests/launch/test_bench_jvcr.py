"""The PyTorch baseline of JVCR is the original network."""

import json

import numpy as np
import pytest

from configs.jvcr import get_config
from tests import weights


def test_baseline_is_the_original_network():
    torch = pytest.importorskip("torch")
    from launch.benchmarks import jvcr_torch

    golden = np.load(weights.GOLDEN / "jvcr_gain0.8_golden.npz")
    manifest = json.loads((weights.GOLDEN / "jvcr_manifest.json").read_text())
    net = jvcr_torch.JVCR(get_config("reference").model)
    filled = {name: torch.from_numpy(weights.fill(name, shape, gain=0.8)) for name, shape in manifest.items()}
    net.load_state_dict(filled)
    image = weights.image("jvcr", (2, 256, 256, 3)).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        volumes, coordinates = net.eval()(torch.from_numpy(image.copy()))
    assert [tuple(volume.shape) for volume in volumes] == [tuple(golden[f"vox{k}_shape"]) for k in range(4)]
    assert np.abs(coordinates.numpy() - golden["coord"]).max() < 1e-4 * golden["coord"].std()
