"""launch.bench: the JSON line, the protocol of the PyTorch process, and the baseline of continuous."""

import io
import json
import sys
import time
import types

import jax
import numpy as np
import pytest

from configs import continuous as configs
from jaxface.nn.convnext import SIZES
from jaxface.systems.continuous import model as continuous
from launch.benchmarks import baseline_process
from launch.benchmarks.benchmark import Benchmark, measure
from tests import weights


def test_line_holds_medians_and_the_faster_baseline():
    sleep = lambda seconds: lambda: time.sleep(seconds)  # noqa: E731
    benchmark = Benchmark("x", "forward", 4, sleep(0.02))
    line = measure(benchmark, {"contiguous": lambda: 40.0, "channels_last": lambda: 10.0}, seconds=0.1)
    assert line["peer"] == "torch, channels_last" and line["runs"] >= 5
    assert line["peers_ms"] == {"contiguous": 40, "channels_last": 10} and line["peer_ms"] == 10
    assert (
        20 <= line["ms"] < 40 and 2 <= line["ratio"] < 4 and line["per_s"] == pytest.approx(4000 / line["ms"], rel=0.01)
    )
    alone = measure(Benchmark("x", "render", 1, sleep(0.001)), {}, seconds=0)
    assert alone["peer"] is None and alone["peer_ms"] is None and alone["ratio"] is None


def test_baseline_process_answers_each_line(monkeypatch, capsys):
    ran = []
    benchmarks = [
        Benchmark("x", "forward", 1, None, lambda: {"plain": lambda: ran.append(1)}),
        Benchmark("x", "render", 1, None),  # skipped: it has no baseline
        Benchmark("x", "train_step", 1, None, lambda: {"other": lambda: None}),
    ]
    monkeypatch.setitem(
        sys.modules, "launch.benchmarks.fake", types.SimpleNamespace(benchmarks=lambda: iter(benchmarks))
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("next\nplain\nplain\nnext\n"))
    baseline_process.serve("fake")
    names, first, second, others = map(json.loads, capsys.readouterr().out.splitlines())
    assert names == ["plain"] and others == ["other"] and ran == [1, 1] and min(first, second) >= 0


def test_baseline_is_convnext_tiny_with_the_mlp_predictor():
    torch = pytest.importorskip("torch")
    from launch.benchmarks import continuous_torch

    net = continuous_torch.Continuous(*SIZES["tiny"])
    assert sum(p.numel() for p in net.encoder.parameters()) == 27_820_128
    total = sum(p.numel() for p in net.parameters())
    config = configs.get_config("convnext_tiny")
    ours = jax.eval_shape(
        lambda key: continuous.init(continuous.model_from_config(config.model), 224, key), jax.random.key(0)
    )
    assert total == sum(leaf.size for leaf in jax.tree.leaves(ours))
    timm = weights.state_dict("timm_convnext_tiny_manifest.json")
    named = zip(net.encoder.state_dict(), timm.values(), strict=True)
    net.encoder.load_state_dict({name: torch.from_numpy(value) for name, value in named})
    image = weights.image("cld/image224", (2, 224, 224, 3))
    normalised = (image - np.array(config.model.mean)) / np.array(config.model.std)
    golden = np.load(weights.GOLDEN / "timm_convnext_tiny_golden.npz")["pooled"]
    with torch.inference_mode():
        pooled = net.encoder(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()).numpy()
    assert np.abs(pooled - golden).max() < 1e-4 * np.abs(golden).max()
