"""The PyTorch baselines of Deep3D compute what our code computes."""

import jax
import numpy as np
import pytest

from jaxface.systems.deep3d import model
from launch.benchmarks import deep3d as bench_deep3d

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def face():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_deep3d, "SIDE", 80)
        yield bench_deep3d.synthetic_face()


def test_baseline_decodes_and_renders_the_same_face(face):
    from launch.benchmarks import deep3d_torch

    vectors = 0.3 * np.random.default_rng(1).standard_normal((2, 257), np.float32)
    decoded = jax.device_get(model.decode(face, bench_deep3d.SIZES, vectors))
    baseline = deep3d_torch._Face(face)
    theirs = [part.numpy() for part in baseline.decode(torch.from_numpy(vectors))]
    for ours, other in zip((decoded.vertices, decoded.albedo, decoded.colors, decoded.landmarks), theirs, strict=True):
        assert np.abs(ours - other).max() < 1e-5 * np.abs(ours).max()
    image = jax.jit(bench_deep3d._render)((decoded.vertices[:1], decoded.colors[:1]), face)[0]
    other = deep3d_torch._rasterise(*(torch.from_numpy(array[0]) for array in theirs[:3:2]), baseline.triangles).numpy()
    difference = np.abs(image - other).max(-1)
    assert (np.asarray(image) > 0).any() and (difference > 1e-3).mean() < 0.01


def test_baseline_has_the_published_size():
    from launch.benchmarks import deep3d_torch

    assert sum(parameter.numel() for parameter in deep3d_torch.RNet().parameters()) == 24_034_625
