"""launch.convert as a user calls it: a workdir that the other commands read, or one line."""

import functools
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import continuous as configs
from jaxface import checkpoint, config_file
from jaxface.systems.continuous import model, torch_weights
from tests import weights

CONFIG = "configs/continuous.py:smoke"


def convert(*flags):
    command = [sys.executable, "-m", "launch.convert", "--system", "continuous", "--config", CONFIG, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def tiny():
    """A Facebook-style checkpoint for the smoke variant's encoder."""
    net = model.model_from_config(configs.get_config("smoke").model)
    params, _ = jax.eval_shape(functools.partial(model.init, net, 32), jax.random.key(0))
    leaves = checkpoint_leaves(params["encoder"])
    sources = torch_weights.encoder_sources(torch_weights.FACEBOOK, net.encoder)
    tensors = {name: weights.fill(name, torch_shape(leaves[path].shape)) for path, (name, _) in sources.items()}
    return tensors | {"head.weight": np.zeros((1000, 16), np.float32), "head.bias": np.zeros(1000, np.float32)}


def checkpoint_leaves(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def torch_shape(shape):
    return {1: shape, 2: shape[::-1], 4: (shape[3:] + shape[2:3] + shape[:2])}[len(shape)]


def test_backbone_becomes_a_workdir(tmp_path, tiny):
    tensors = tiny | {f"norm.{part}": np.zeros(16, np.float32) for part in ("weight", "bias")}
    safetensors.numpy.save_file({f"model.{name}": value for name, value in tensors.items()}, tmp_path / "x.safetensors")
    done = convert("--torch", tmp_path / "x.safetensors", "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert "dropped entries: norm.weight, norm.bias, head.weight, head.bias" in done.stdout
    params, _ = checkpoint.load_params(tmp_path / "w")
    assert config_file.load(tmp_path / "w").system == "continuous"
    assert checkpoint.steps(tmp_path / "w") == [0]
    depthwise = params["encoder"]["stage1_block0"]["depthwise"]["kernel"]
    np.testing.assert_array_equal(depthwise[:, :, 0, 3], tensors["stages.1.0.dwconv.weight"][3, 0])
    fresh = [leaf for path, leaf in checkpoint_leaves(params["predictor"]).items() if path.endswith("kernel")]
    assert fresh and all(np.std(leaf) > 0 for leaf in fresh)
    again = convert("--torch", tmp_path / "x.safetensors", "--workdir", tmp_path / "w")
    assert again.returncode == 2 and "has checkpoints already" in again.stderr


def test_a_damaged_file_is_one_line_and_leaves_no_workdir(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"")
    done = convert("--torch", tmp_path / "x.pth", "--workdir", tmp_path / "w")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'x.pth'} is empty")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()
