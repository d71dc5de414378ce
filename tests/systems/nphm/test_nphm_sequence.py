"""Sequences of scans: every frame starts from the frame before; the identity comes from key frames."""

import pathlib

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from configs import nphm_identity
from jaxface import meshes
from jaxface.errors import UserError
from jaxface.geometry import sampling
from jaxface.geometry.alignment import Similarity
from jaxface.heads import head_space
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.inference import Predictor
from jaxface.systems.nphm import scan_fit, sequence
from jaxface.systems.nphm.fitting import inversion, scans
from jaxface.systems.nphm.sequence import Frame
from jaxface.systems.nphm.surface import head_model
from launch import scan_files

# Rotations (degrees) and translations (mm) of the frames relative to the first one: up to 12 degrees and 30 mm between
# two frames; the last one is turned far away from all others.
POSES = ([0, 0, 0], [4, -10, 3], [6, -20, 2], [6, -30, 0], [80, 150, 40]), ([0, 0, 0], [20, 5, 10], [40, 5, 30])
POSES = POSES[0], (*POSES[1], [70, 0, 35], [400, -300, 100])


@pytest.fixture(scope="module")
def surface():
    """Surface points of the embedded head in model units."""
    shape = makehuman_head()
    samples = sampling.sample(shape.template, shape.triangles, 3000, np.random.default_rng(0))
    return head_space.to_units(samples.on(np.asarray(shape.template), np.asarray(shape.triangles)))


@pytest.fixture(scope="module")
def model():
    """(head, settings): the pretrained model and a short fit."""
    predictor = Predictor.pretrained("nphm")
    settings = predictor.config.fit.copy_and_resolve_references()
    settings.update(steps=20, points=256, resolution=48)
    return head_model.load(predictor.config, predictor.params), settings


def moved(points, rotation_deg, translation_mm):
    rotation = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    return 250 * points @ rotation.T + translation_mm


def test_frames_follow_a_moving_head(model, surface):
    head, settings = model
    frames = [Frame(str(number), moved(surface, *pose), "mm") for number, pose in enumerate(zip(*POSES, strict=True))]
    for index, name in ((2, "bad key frame"), (5, "bad frame")):
        frames.insert(index, Frame(name, 1e5 * surface, "mm"))
    failed = {}
    fits = sequence.fit_sequence(head, settings, frames, lambda name, error: failed.update({name: str(error)}))
    assert [index for index, fit in enumerate(fits) if fit is None] == [2, 5]
    assert failed.keys() == {"bad key frame", "bad frame"} and "plausible head size" in failed["bad frame"]
    fitted = [fit for fit in fits if fit is not None]
    placed = [fit.similarity(fit.scan) for fit in fitted]
    # All frames lie on each other in the model's frame, up to the few steps of this test.
    for other in placed[1:]:
        assert 250 * np.linalg.norm(other - placed[0], axis=1).mean() < 4
    for fit in fitted[1:]:
        np.testing.assert_array_equal(fit.identity, fitted[0].identity)
        np.testing.assert_array_equal(fit.mesh.triangles, fitted[0].mesh.triangles)
        assert fit.unit == "mm" and fit.errors_mm["mean"] < 2 * fitted[0].errors_mm["mean"] + 1


def test_a_sequence_without_a_usable_frame_names_every_frame(model, surface):
    failed = []
    frames = [Frame(str(number), 1e5 * surface) for number in range(5)]
    assert sequence.fit_sequence(*model, frames, lambda name, error: failed.append(str(error))) == [None] * 5
    assert sum("plausible head size" in message for message in failed) == 4
    assert sum("no key frame of its sequence" in message for message in failed) == 1
    with pytest.raises(UserError, match="--align"):
        sequence.fit_sequence(*model, [Frame("0", surface, "nphm", "absent.txt")], lambda name, error: None)


def test_a_warm_start_keeps_the_identity_and_the_late_schedule(model, surface):
    head, _ = model
    fitter = inversion.Fitter(head.identity, None)
    code = np.full(head.identity.code_dim, 0.01, np.float32)
    start = inversion.FitVariables(code, np.zeros((1, 0), np.float32), np.full((1, 6), 0.01, np.float32))
    arguments = head.params, np.float32(surface)[None], np.array([len(surface)]), jax.random.key(0), 3, 200
    variables, _ = fitter.fit(*arguments, start=start)
    np.testing.assert_array_equal(variables.identity, code)
    step = float(inversion.schedule(inversion.WARM_START_STEP)["lr"] * inversion.RELATIVE_POSE_LR)
    assert 0 < np.abs(variables.poses - 0.01).max() <= 3.1 * step


def test_the_prior_of_a_fit_is_as_strong_as_that_of_the_training(model):
    head, settings = model
    assert head.prior_scale == pytest.approx(0.1), "trained with a code weight of 0.001, the published with 0.01"
    assert scan_fit.make_fitter(head, settings).prior_scale == head.prior_scale
    for variant in ("reference", "npm"):
        config = nphm_identity.get_config(variant)
        assert head_model.prior_scale(config) == 1.0
    code = np.random.default_rng(0).normal(0, 0.1, head.identity.code_dim).astype(np.float32)
    variables = inversion.FitVariables(code, np.zeros((1, 0), np.float32))
    no_points = np.zeros((1, 4, 3), np.float32), np.zeros((1, 4), bool)

    def prior(scale):
        fitter = inversion.Fitter(head.identity, None, scan_fit.OFFICIAL_UNOBSERVED_MEMBERS, prior_scale=scale)
        return fitter.loss(head.params, variables, np.array([0]), *no_points, inversion.schedule(0))[0]

    assert float(prior(0.1)) == pytest.approx(0.1 * float(prior(1.0)), rel=1e-5)


def test_following_is_closest_to_the_frame_before(surface):
    shape = makehuman_head()
    vertices = head_space.to_units(np.asarray(shape.template)).astype(np.float64)
    template = meshes.Mesh(vertices, np.asarray(shape.opaque_triangles()))
    start = Similarity(scans.UNITS["mm"], np.eye(3), np.zeros(3))
    similarity, error = scans.follow(moved(surface, [3, -8, 2], [15, 5, -10]), start, template)
    placed = similarity(moved(surface, [3, -8, 2], [15, 5, -10]))
    assert 250 * np.linalg.norm(placed - surface, axis=1).mean() < 1
    # The distance is that to vertices, which are several millimetres apart on the template.
    assert 0 < 250 * error < 5
    assert similarity.scale == start.scale


def test_numbers_in_names_order_the_frames(tmp_path):
    names = ["f_10.ply", "f_2.ply", "f_1.ply", "a/f_3.ply"]
    paths = [tmp_path / name for name in names]
    assert scan_files.in_time(paths, [str(tmp_path)]) == [paths[3], paths[2], paths[1], paths[0]]
    assert scan_files.in_time(paths, [str(path) for path in paths]) == paths
    assert scan_files.in_time([pathlib.Path("x.ply"), pathlib.Path("9.ply")], ["."])[0] == pathlib.Path("9.ply")
