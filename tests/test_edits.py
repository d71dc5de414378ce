"""Edits of both head systems by their codes: transfer, neutral, blendshapes, interpolation, random people, sizes."""

import importlib
import json
import pathlib
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import scipy.spatial

from jaxface import edits, meshes, system
from jaxface.edits import Codes
from jaxface.errors import UserError
from jaxface.inference import Predictor

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def deep3d():
    return Predictor.pretrained("deep3d").head()


@pytest.fixture(scope="module")
def nphm():
    """A random identity and expression model, small."""
    config = system.resolve(importlib.import_module("configs.nphm_expression").get_config("smoke"), "smoke")
    config.model.codes = 5
    built = system.build(config, "smoke")
    return built.head(*built.init(jax.random.key(0)))


def codes_of(head, seed: int) -> Codes:
    rng = np.random.default_rng(seed)
    return Codes(*(rng.normal(0, 0.3, size).astype(np.float32) for size in (head.identity_size, head.expression_size)))


def test_a_mesh_is_the_linear_model_s(deep3d):
    """The embedded head: differences of meshes add up, landmarks are points of the surface."""
    a, zero = codes_of(deep3d, 0), np.zeros(deep3d.expression_size, np.float32)
    mean = deep3d.mesh(np.zeros(deep3d.identity_size), zero)
    neutral, posed = deep3d.mesh(a.identity, zero), deep3d.mesh(a.identity, a.expression)
    only_expression = deep3d.mesh(np.zeros(deep3d.identity_size), a.expression)
    np.testing.assert_allclose(posed.vertices - neutral.vertices, only_expression.vertices - mean.vertices, atol=1e-4)
    eyes = [deep3d.landmarks(mean.vertices)[list(eye)].mean(0) for eye in edits.EYES]
    assert 50 < np.linalg.norm(eyes[0] - eyes[1]) < 75


def test_blendshapes_by_name(deep3d):
    codes = codes_of(deep3d, 1)
    name = next(iter(deep3d.blendshapes))
    once = edits.with_blendshapes(codes, {name: 0.5}, deep3d)
    row = np.flatnonzero(deep3d.blendshapes[name])
    assert once.expression[row] == pytest.approx(0.5 * deep3d.blendshapes[name][row])
    np.testing.assert_allclose(np.delete(once.expression, row), np.delete(codes.expression, row), atol=1e-6)
    with pytest.raises(UserError, match="--set smirk: the head has no such expression"):
        edits.with_blendshapes(codes, {"smirk": 1.0}, deep3d)


def test_interpolation_ends_at_both_heads(deep3d):
    first, last = codes_of(deep3d, 1), codes_of(deep3d, 2)
    frames = list(edits.interpolate(first, last, 5))
    np.testing.assert_array_equal(frames[0].identity, first.identity)
    np.testing.assert_array_equal(frames[-1].expression, last.expression)
    np.testing.assert_allclose(frames[1].identity, 0.75 * first.identity + 0.25 * last.identity, atol=1e-6)


def test_the_size_comes_from_the_eyes(deep3d):
    codes = codes_of(deep3d, 3)
    neutral = deep3d.mesh(codes.identity, np.zeros_like(codes.expression))
    posed = deep3d.mesh(codes.identity, codes.expression)
    scaled = edits.scale_to_interpupil(neutral, deep3d, 70.0, neutral)
    left, right = (deep3d.landmarks(scaled.vertices)[list(eye)].mean(0) for eye in edits.EYES)
    assert np.linalg.norm(left - right) == pytest.approx(70.0, abs=1e-3)
    ratio = scaled.vertices[0] / neutral.vertices[0]
    posed_scaled = edits.scale_to_interpupil(posed, deep3d, 70.0, neutral)
    np.testing.assert_allclose(posed_scaled.vertices[0], ratio * posed.vertices[0], rtol=1e-5)


def test_neural_heads_have_one_topology_per_person(nphm):
    codes = codes_of(nphm, 0)
    neutral = nphm.mesh(codes.identity, np.zeros(nphm.expression_size, np.float32))
    posed = nphm.mesh(codes.identity, codes.expression)
    np.testing.assert_array_equal(neutral.triangles, posed.triangles)
    moved = np.linalg.norm(posed.vertices - neutral.vertices, axis=1)
    assert 0 < moved.max() < 1000 and nphm.landmarks is None
    with pytest.raises(UserError, match="no landmarks to measure"):
        edits.scale_to_interpupil(posed, nphm, 63.0, neutral)


def test_random_people_depend_on_seed_and_number_only():
    """The shipped neural head: mean and spread of the samples are those of its training codes."""
    head = Predictor.pretrained("nphm").head()
    people = list(edits.random_people(head, 400, 0, 0.85))
    again = list(edits.random_people(head, 2, 0, 0.85))
    np.testing.assert_array_equal(again[1].identity, people[1].identity)
    wide = np.stack([codes.identity for codes in people])
    twice = np.stack([codes.identity for codes in edits.random_people(head, 400, 0, 1.7)])
    np.testing.assert_allclose(twice.std(0), 2 * wide.std(0), rtol=1e-3)
    assert len({tuple(codes.expression[:3]) for codes in people}) > 1


def test_code_files_of_both_systems(tmp_path, deep3d):
    codes = codes_of(deep3d, 4)
    np.savez(tmp_path / "photo.npz", id=codes.identity[None], exp=codes.expression[None], lm68=np.zeros((1, 68, 2)))
    many = np.stack([np.zeros_like(codes.expression), codes.expression])
    anna = {"anna/identity": codes.identity, "anna/expressions": many}
    bob = {"bob/identity": -codes.identity, "bob/expressions": many[:1]}
    np.savez(tmp_path / "codes.npz", **anna, **bob)
    (tmp_path / "own.npz").write_bytes(edits.encode(codes))
    for source in ("photo.npz", "codes.npz:anna:1", "codes.npz:1", "own.npz"):
        read = edits.read(tmp_path / source, deep3d)
        np.testing.assert_array_equal(read.identity, codes.identity)
        np.testing.assert_array_equal(read.expression, codes.expression)
    assert not edits.read(tmp_path / "codes.npz:anna", deep3d).expression.any()
    np.savez(tmp_path / "short.npz", identity=np.zeros(3), expressions=np.zeros((1, 2)))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for source, message in (
        ("codes.npz:carl", "has no person 'carl'; choose one of 'anna', 'bob'"),
        ("codes.npz:bob:1", "has 1 expressions, not number 1"),
        ("short.npz", "codes of length 3 and 2, the model's are"),
        ("other.npz", "has neither id and exp nor"),
        ("none.npz", "not a readable .npz file"),
        ("photo.txt", "not an .npz file"),
    ):
        with pytest.raises(UserError, match=message):
            edits.read(tmp_path / source, deep3d)


def edit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "launch.edit", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_the_command_transfers_an_expression(tmp_path, deep3d):
    """A's expression on B: B's identity, A's offsets; files of others are not overwritten."""
    a, b = codes_of(deep3d, 5), codes_of(deep3d, 6)
    for name, codes in (("a", a), ("b", b)):
        (tmp_path / f"{name}.npz").write_bytes(edits.encode(codes))
    output = tmp_path / "out"
    flags = [f"--codes={tmp_path}/b.npz", f"--expression={tmp_path}/a.npz", f"--output={output}", "--clip"]
    for _ in range(2):
        done = edit(*flags)
        assert done.returncode == 0, done.stderr
    written = meshes.read(output / "head.obj")
    expected = deep3d.mesh(b.identity, a.expression).vertices
    # The writer may merge or reorder nothing: vertices are in the file's order.
    np.testing.assert_allclose(written.vertices, expected, atol=2e-3)
    glb = meshes.read(output / "head.glb").vertices
    assert scipy.spatial.distance.directed_hausdorff(1000 * glb, expected)[0] < 0.01
    clip = cv2.VideoCapture(str(output / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 1
    assert json.loads((output / "edit.json").read_text())["files"] == ["clip.mp4", "head.glb", "head.npz", "head.obj"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "head.obj").write_text("mine")
    refused = edit(f"--codes={tmp_path}/b.npz", "--neutral", f"--output={tmp_path}/mine")
    assert (
        refused.returncode == 2 and "head.obj would overwrite a file that is not a result of jaxface" in refused.stderr
    )
    assert (tmp_path / "mine" / "head.obj").read_text() == "mine"
