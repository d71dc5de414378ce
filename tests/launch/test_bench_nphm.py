"""The unfolded PyTorch baseline of NPHM computes our numbers; the time of a partial run is scaled up."""

import time

import jax
import numpy as np
import pytest

from jaxface.systems.nphm.networks.ensemble import Ensemble
from launch.benchmarks import nphm
from launch.benchmarks.benchmark import Benchmark, measure
from tests import weights


def test_unfolded_baseline_is_the_same_network():
    pytest.importorskip("torch")
    from launch.benchmarks import nphm_torch

    anchors = tuple(weights.array("anchors", (5, 3), 0.3).ravel().tolist())
    net = Ensemble(anchors, 2, 6, 4, 32, 4, 8)
    code, points = weights.array("code", (net.code,), 0.1), weights.array("points", (50, 3), 0.3)
    params = nphm.headlike(net, net.init(jax.random.key(0)), np.zeros(net.code, np.float32))
    runs = nphm_torch.runs(net, params, code, points)
    sdf, gradient = net.sdf_and_gradient(params, code[None], points[None])
    np.testing.assert_allclose(runs["sdf"]().numpy(), sdf, atol=1e-5)
    np.testing.assert_allclose(runs["gradient"]().numpy(), gradient, atol=1e-4)


def test_partial_baseline_is_scaled_up():
    benchmark = Benchmark("nphm", "extract", 8, lambda: time.sleep(0.02), baseline_share=0.1)
    line = measure(benchmark, {"unfolded": lambda: 10.0}, seconds=0)
    assert line["peer_ms"] == pytest.approx(100) and line["ratio"] < 0.3
