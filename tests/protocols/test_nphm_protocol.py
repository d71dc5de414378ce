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


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Test person 283 with scans 1, 2 and 3, person 350 with scan 4, which is on the official list."""
    root, mesh = tmp_path_factory.mktemp("nphm"), ball()
    for subject, number in ((283, 1), (283, 2), (350, 4)):
        folder = nphm_scans.scan_folder(root, subject, number)
        folder.mkdir(parents=True)
        fitted = mesh.vertices.copy()
        fitted[list(flame.THROAT)] = [[0, -0.3, 0], [0, -0.3, 1], [1, -0.3, 0]]
        for name, vertices in (("scan.ply", mesh.vertices), ("flame.ply", fitted), ("registration.ply", mesh.vertices)):
            (folder / name).write_bytes(meshes.encode(Mesh(vertices, mesh.triangles), ".ply"))
        np.save(folder / nphm.SCALE_FILE, np.float64(0.004 if number == 1 else 0.005))
    observed = root / nphm_scans.SINGLE_VIEW / "283" / "1"
    observed.mkdir(parents=True)
    np.save(observed / nphm_scans.OBSERVATION, mesh.vertices[mesh.vertices[:, 2] > 0])
    np.save(observed / nphm.OBSERVATION_BACK, mesh.vertices[mesh.vertices[:, 2] < -0.2])
    np.save(root / nphm_scans.FACE_MASK, mesh.vertices[:, 2] > 0.2)
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


def test_a_perfect_fit_and_true_millimetres(layout):
    """The scan itself has no error but that of sampling, which is measured in the scan's own millimetres."""
    mask, mesh = nphm_scans.face_mask(layout), ball()
    errors = [nphm.score(layout, 283, number, mesh, mask, SAMPLES, SIZE) for number in (1, 2)]
    assert errors[0]["normals"] > 0.98 and 0 < errors[0]["chamfer_l1"] < 6
    # Equal meshes and samples, 250 and 200 mm a unit.
    assert errors[1]["chamfer_l1"] == pytest.approx(0.8 * errors[0]["chamfer_l1"], rel=1e-6)
    assert errors[1]["face_chamfer_l2"] == pytest.approx(0.64 * errors[0]["face_chamfer_l2"], rel=1e-6)
    throat = 250 * nphm.raised(
        nphm_scans.throat(nphm_scans.scan_folder(layout, 283, 1)).astype(float), nphm.THROAT_MARGIN
    )
    in_mm = Mesh(250 * mesh.vertices, mesh.triangles)
    face = visible_surface.face_vertices(in_mm.vertices, mesh.triangles, mask)
    assert errors[0] == visible_surface.evaluate(in_mm, in_mm, face, throat, SAMPLES, SIZE)


def test_people_are_fitted_and_scored(layout, tmp_path):
    config = system.resolve(importlib.import_module("configs.nphm_identity").get_config("smoke"), "smoke")
    config.fit.steps = 2
    built = system.build(config, "smoke")
    predictor = Predictor(config, built, *built.init(jax.random.key(0)), "random")
    outcome = nphm.run(Request(layout, tmp_path, predictor), SAMPLES, SIZE)
    assert {name: row["scans"] for name, row in outcome.table.items()} == {
        "single_view face": 1, "single_view head": 1, "whole_scan face": 2, "whole_scan head": 2
    }  # fmt: skip
    assert [item.name for item in outcome.items] == ["283/001", "283/001", "283/002"]
    head = [item.error for item in outcome.items if item.groups == ("whole_scan",)]
    assert outcome.table["whole_scan head"]["chamfer_l1"] == pytest.approx(np.mean(head), abs=1e-6)
    with pytest.raises(UserError, match="no scan of a test person"):
        nphm.run(Request(tmp_path, tmp_path, predictor))
