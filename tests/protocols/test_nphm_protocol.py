"""NPHM's evaluation on a tiny data set in its layout, with generated heads as scans."""

import importlib

import jax
import numpy as np
import pytest

from jaxface import meshes, system
from jaxface.data import nphm_scans
from jaxface.errors import UserError
from jaxface.heads import flame
from jaxface.inference import Predictor
from jaxface.meshes import Mesh
from jaxface.protocols import nphm, visible_surface
from jaxface.protocols.protocol import Request

SAMPLES, SIZE = 2000, (64, 48)


def ball() -> Mesh:
    """A head-sized ellipsoid in NPHM's units, with enough vertices for FLAME's numbers."""
    import trimesh

    sphere = trimesh.creation.icosphere(5, 0.4)
    return Mesh(np.float32(sphere.vertices * [0.9, 1.1, 1.0]), np.int32(sphere.faces))


def write_scan(root, subject: int, number: int, scale: float) -> None:
    """A scan whose throat is at y = -0.3."""
    folder, mesh = nphm_scans.scan_folder(root, subject, number), ball()
    folder.mkdir(parents=True)
    fitted = mesh.vertices.copy()
    fitted[list(flame.THROAT)] = [[0, -0.3, 0], [0, -0.3, 1], [1, -0.3, 0]]
    for name, vertices in (("scan.ply", mesh.vertices), ("flame.ply", fitted), ("registration.ply", mesh.vertices)):
        (folder / name).write_bytes(meshes.encode(Mesh(vertices, mesh.triangles), ".ply"))
    np.save(folder / nphm.SCALE_FILE, np.float64(scale))
    np.save(root / nphm_scans.FACE_MASK, mesh.vertices[:, 2] > 0.2)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Test person 283 with scans 1 and 2, person 350 with scan 4, which is on the official list."""
    root, vertices = tmp_path_factory.mktemp("nphm"), ball().vertices
    for subject, number in ((283, 1), (283, 2), (350, 4)):
        write_scan(root, subject, number, 0.004 if number == 1 else 0.005)
    observed = root / nphm_scans.SINGLE_VIEW / "283" / "1"
    observed.mkdir(parents=True)
    np.save(observed / nphm_scans.OBSERVATION, vertices[vertices[:, 2] > 0])
    np.save(observed / nphm.OBSERVATION_BACK, vertices[vertices[:, 2] < -0.2])
    return root


def test_official_lists_and_inputs(layout):
    assert nphm.expressions(layout, 283) == [1, 2] and nphm.expressions(layout, 350) == []
    seen = nphm.observation(layout, 283, 1, with_back=True)
    assert (seen[:, 1] > -0.3).all() and seen[:, 2].min() < -0.2
    assert nphm.observation(layout, 283, 1, with_back=False)[:, 2].min() > 0
    assert nphm.observation(layout, 283, 2, with_back=False) is None


def test_the_raised_throat_by_hand():
    """Edges 2 and 3 long: the unnormalised normal is 6 long, so that a margin of 0.003 raises by 0.0005."""
    plane = np.array([[0, 1, 0], [0, 1, 2], [3, 1, 0.0]])
    np.testing.assert_allclose(nphm.raised(plane, 0.003)[:, 1], 1.0005, atol=1e-12)
    assert flame.above_throat(np.array([[0, 1.0006, 0], [0, 1.0004, 0]]), nphm.raised(plane, 0.003)).tolist() == [
        True,
        False,
    ]


def test_errors_are_in_true_millimetres(layout):
    """A fit that is 2 % too large: the same error in the units of two scans of 250 and 200 mm a unit."""
    mask, scan = nphm_scans.face_mask(layout), ball()
    mesh = Mesh(np.float32(1.02) * scan.vertices, scan.triangles)
    errors = [nphm.score(layout, 283, number, mesh, mask, SAMPLES, SIZE) for number in (1, 2)]
    assert errors[0]["normals"] > 0.95 and 1.5 < errors[0]["chamfer_l1"] < 8
    assert errors[1]["chamfer_l1"] == pytest.approx(0.8 * errors[0]["chamfer_l1"], rel=1e-6)
    assert errors[1]["face_chamfer_l2"] == pytest.approx(0.64 * errors[0]["face_chamfer_l2"], rel=1e-6)
    plane = nphm_scans.throat(nphm_scans.scan_folder(layout, 283, 1)).astype(float)
    in_mm = [Mesh(250 * one.vertices, one.triangles) for one in (mesh, scan)]
    face = visible_surface.face_vertices(in_mm[1].vertices, scan.triangles, mask)
    throat = 250 * nphm.raised(plane, nphm.THROAT_MARGIN)
    assert errors[0] == pytest.approx(visible_surface.evaluate(*in_mm, face, throat, SAMPLES, SIZE), rel=1e-6)


def test_people_are_fitted_and_scored(tmp_path):
    """One scan, whose single view is all of it: both fits have the same shapes, so that they are compiled once."""
    write_scan(tmp_path, 283, 1, 0.004)
    vertices = ball().vertices
    folder = tmp_path / nphm_scans.SINGLE_VIEW / "283" / "1"
    folder.mkdir(parents=True)
    np.save(folder / nphm_scans.OBSERVATION, vertices[vertices[:, 1] > -0.3])
    config = system.resolve(importlib.import_module("configs.nphm_identity").get_config("smoke"), "smoke")
    config.fit.update(steps=2, points=16, resolution=16)
    built = system.build(config, "smoke")
    predictor = Predictor(config, built, *built.init(jax.random.key(0)), "random")
    outcome = nphm.run(Request(tmp_path, tmp_path, predictor), SAMPLES, SIZE)
    assert list(outcome.table) == ["single_view face", "single_view head", "whole_scan face", "whole_scan head"]
    assert [item.name for item in outcome.items] == ["283/001", "283/001"]
    assert outcome.table["whole_scan head"]["chamfer_l1"] == pytest.approx(outcome.items[1].error, abs=1e-6)
    assert outcome.table["single_view head"]["scans"] == 1 and outcome.items[0].draw().shape[-1] == 3
    with pytest.raises(UserError, match="no scan of a test person"):
        nphm.run(Request(tmp_path / "single_view", tmp_path, predictor))
