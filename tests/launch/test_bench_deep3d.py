"""The PyTorch peers of Deep3D's bench do what ours does."""

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
        yield bench_deep3d.made_up_face()


def test_peer_decodes_and_draws_the_same_face(face):
    from launch.benchmarks import deep3d_torch as peers_deep3d

    vectors = 0.3 * np.random.default_rng(1).standard_normal((2, 257), np.float32)
    decoded = jax.device_get(model.decode(face, bench_deep3d.SIZES, vectors))
    peer = peers_deep3d._Face(face)
    theirs = [part.numpy() for part in peer.decode(torch.from_numpy(vectors))]
    for ours, other in zip((decoded.vertices, decoded.albedo, decoded.colors, decoded.landmarks), theirs, strict=True):
        assert np.abs(ours - other).max() < 1e-5 * np.abs(ours).max()
    drawn = jax.jit(bench_deep3d._drawn)((decoded.vertices[:1], decoded.colors[:1]), face)[0]
    other = peers_deep3d._draw(*(torch.from_numpy(array[0]) for array in theirs[:3:2]), peer.triangles).numpy()
    apart = np.abs(drawn - other).max(-1)
    assert (np.asarray(drawn) > 0).any() and (apart > 1e-3).mean() < 0.01


def test_peer_has_the_published_size():
    from launch.benchmarks import deep3d_torch as peers_deep3d

    assert sum(parameter.numel() for parameter in peers_deep3d.RNet().parameters()) == 24_034_625
