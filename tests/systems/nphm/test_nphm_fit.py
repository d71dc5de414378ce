"""Scans: units, alignment in any orientation, malformed files; and `launch.fit` as a whole."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxface import config_file, meshes
from jaxface.errors import UserError
from jaxface.geometry import sampling
from jaxface.geometry.alignment import Similarity
from jaxface.heads import head_space
from jaxface.heads.closed import close
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.nphm.fitting import inversion, scans
from launch import scan_files


@pytest.fixture(scope="module")
def head():
    """Surface points of the embedded head in model units."""
    shape = makehuman_head()
    samples = sampling.sample(shape.template, shape.triangles, 6000, np.random.default_rng(0))
    return head_space.to_units(samples.on(np.asarray(shape.template), np.asarray(shape.triangles)))


def misalignment_mm(similarity, scan, truth):
    return 250 * np.linalg.norm(similarity(scan) - truth, axis=1).mean()


@pytest.mark.parametrize("unit", ["mm", "cm", "m", "nphm"])
def test_the_unit_is_inferred_from_the_extent(unit, head):
    scan = head / scans.UNITS[unit] + 7.0
    assert scans.infer_unit(scan, "scan") == unit
    face = scan[head[:, 2] > 0.1]
    assert scans.infer_unit(face, "face") == unit


def test_a_bust_in_metres_a_head_in_inches_and_stated_units(head, caplog):
    rng = np.random.default_rng(0)
    logging.getLogger("jaxface").propagate = True
    with caplog.at_level(logging.WARNING):
        assert scans.infer_unit(rng.uniform(-0.25, 0.25, (2000, 3)), "bust.ply") == "m"
        expected = "bust.ply: extent 0.491 is possible in m (491 mm), nphm (123 mm); m is taken, pass --units"
        assert expected in caplog.text
        assert scans.infer_unit(rng.uniform(-6, 6, (2000, 3)), "inches.ply") == "in" and "cm is" not in caplog.text
        assert scans.infer_unit(rng.uniform(-0.25, 0.25, (2000, 3)), "bust.ply", "nphm") == "nphm"
        assert scans.infer_unit(rng.uniform(-0.9, 0.9, (2000, 3)), "body.ply", "m") == "m"
        assert "m is unusual for a head, check --units" in caplog.text


def test_far_origins_keep_the_points_apart(head):
    moved = np.float64(head) / 4 + [691234.5, 5334567.25, 512]
    points = scans.scan_points(meshes.Mesh(moved, np.zeros((0, 3), np.int32)), "far.ply")
    np.testing.assert_allclose(np.ptp(points, axis=0), np.ptp(head, axis=0) / 4, atol=1e-6)
    aligned = scans.align(points, "m", head)
    assert misalignment_mm(aligned, moved, head) < 6


def test_folders_hold_more_than_scans(head, tmp_path):
    data = meshes.encode(cloud(head), ".ply")
    names = ["anna.ply", "._anna.ply", "__MACOSX/anna.ply", "out/anna.ply", "out/anna_registered.ply", "bob/1/scan.ply"]
    names += ["bob/1/flame.ply", "bob/1/registration.ply", "bob/2/scan.ply", "bob/2/flame.ply", "eva/flame.ply"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "out" / "fit.json").write_text(json.dumps({"anna": {}}))
    (tmp_path / "out" / "registered.json").write_text(json.dumps({"x": {"mesh": "else/anna_registered.ply"}}))
    people = scan_files.find([str(tmp_path), str(tmp_path / "anna.ply")])
    found = {person: [path.relative_to(tmp_path).as_posix() for path in paths] for person, paths in people.items()}
    assert found == {"": ["anna.ply"], "bob": ["bob/1/scan.ply", "bob/2/scan.ply"], "eva": ["eva/flame.ply"]}
    assert list(scan_files.result_names(people))[1:3] == ["bob/1_scan.ply", "bob/2_scan.ply"]


def test_landmarks_of_scans_are_read(tmp_path):
    points, scans_ = np.arange(204.0).reshape(68, 3), [tmp_path / "a.ply", tmp_path / "b.ply"]
    np.save(tmp_path / "l.npy", points)
    np.savetxt(tmp_path / "l.txt", points)
    np.savez(tmp_path / "l.npz", landmarks=points)
    for name in ("l.npy", "l.txt", "l.npz"):
        (found,) = scan_files.read_landmarks(str(tmp_path / name), scans_[:1]).values()
        np.testing.assert_allclose(found, points)
    entries = {"a.ply": points.tolist(), "b.ply": [None, *points[1:].tolist()]}
    (tmp_path / "l.json").write_text(json.dumps(entries))
    found = scan_files.read_landmarks(str(tmp_path / "l.json"), scans_)
    assert np.isnan(found[scans_[1]][0]).all() and (found[scans_[0]] == points).all()
    for name, message in (("l.npy", "is for one scan"), ("absent.json", "cannot be read")):
        with pytest.raises(UserError, match=f"--landmarks: .*{name}.*{message}"):
            scan_files.read_landmarks(str(tmp_path / name), scans_)
    same = [tmp_path / "anna" / "a.ply", tmp_path / "bob" / "a.ply"]
    with pytest.raises(UserError, match="has no entry anna/a.ply; add one"):
        scan_files.read_landmarks(str(tmp_path / "l.json"), same)
    (tmp_path / "l.json").write_text(json.dumps({f"{name}/a.ply": points.tolist() for name in ("anna", "bob")}))
    assert scan_files.read_landmarks(str(tmp_path / "l.json"), same).keys() == set(same)
    np.save(tmp_path / "l.npy", points[:67])
    with pytest.raises(UserError, match=r"must hold 68 points .* it has \(67, 3\)"):
        scan_files.read_landmarks(str(tmp_path / "l.npy"), scans_[:1])


def test_the_last_line_counts_and_names(tmp_path):
    assert scan_files.outcome(1, "fitted", {}) == "1 scan fitted"
    failed = {tmp_path / "a": "a: is bad", tmp_path / "b": "b: is worse"}
    assert scan_files.outcome(2, "fitted", failed) == "2 scans fitted, 2 failed: a: is bad; b: is worse"
    assert (
        scan_files.count(1, "person", "people") == "1 person" and scan_files.count(2, "person", "people") == "2 people"
    )


@pytest.mark.parametrize("turn", ["none", "z up", "upside down", "tilted"])
def test_a_scan_is_aligned_from_any_orientation(turn, head):
    angles = {"none": [0, 0, 0], "z up": [90, 0, 0], "upside down": [0, 0, 180], "tilted": [8, -12, 5]}[turn]
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    rng = np.random.default_rng(1)
    truth = head[rng.permutation(len(head))[:2500]] * [1.04, 0.97, 1.0]
    scan = 250 * truth @ rotation.T + [30, -200, 400]
    assert misalignment_mm(scans.align(scan, "mm", head), scan, truth) < 6
    face = truth[:, 2] > 0.05
    noisy = scan[face] + rng.normal(0, 1, (face.sum(), 3))
    assert misalignment_mm(scans.align(noisy, "mm", head), scan[face], truth[face]) < 12


def test_similarities_from_files(head, tmp_path):
    rotation = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    similarity = Similarity(0.004, rotation, np.float64([0.1, 0.2, -0.3]))
    np.testing.assert_allclose(similarity(similarity.inverse(head)), head, atol=1e-5)
    np.save(tmp_path / "matrix.npy", similarity.matrix())
    again = scans.load_similarity(str(tmp_path / "matrix.npy"), head[:39])
    np.testing.assert_allclose(again(100 * head), similarity(100 * head), atol=1e-5)
    anchors = similarity.inverse(head[:39]).astype(np.float64)
    anchors[3:] = np.nan
    np.savetxt(tmp_path / "anchors.txt", anchors)
    from_anchors = scans.load_similarity(str(tmp_path / "anchors.txt"), head[:39])
    np.testing.assert_allclose(from_anchors(100 * head), similarity(100 * head), atol=1e-3)
    np.savetxt(tmp_path / "two.txt", anchors[:2])
    with pytest.raises(UserError, match="4,4.*39, 3"):
        scans.load_similarity(str(tmp_path / "two.txt"), head[:39])
    np.savetxt(tmp_path / "sheared.txt", np.diag([1, 2, 1, 1]))
    with pytest.raises(UserError, match="not a similarity"):
        scans.load_similarity(str(tmp_path / "sheared.txt"), head[:39])


def cloud(points, triangles=()):
    return meshes.Mesh(np.float32(points), np.int32(triangles).reshape(-1, 3))


def test_malformed_scans_are_user_errors(head):
    with pytest.raises(UserError, match="10 points are too few"):
        scans.scan_points(cloud(head[:10]), "ten.ply")
    with pytest.raises(UserError, match="same position"):
        scans.scan_points(cloud(np.ones((200, 3))), "dot.ply")
    with pytest.raises(UserError, match="no area"):
        scans.scan_points(cloud(np.ones((200, 3)), [[0, 1, 2]]), "flat.ply")
    with pytest.raises(UserError, match="not a plausible head size in mm, cm, m or nphm"):
        scans.infer_unit(1e5 * head, "far.ply")
    with pytest.raises(UserError, match="m is not a plausible head size; pass a different --units"):
        scans.infer_unit(head / scans.UNITS["mm"], "mm.ply", "m")
    assert scans.infer_unit(head / scans.UNITS["cm"], "cm.ply", "cm") == "cm"
    assert len(scans.scan_points(cloud(np.resize(head, (1_000_000, 3))), "big.ply")) == scans.MAX_POINTS


def test_single_view_observations_are_scans(head, tmp_path):
    front, back = head[head[:, 2] > 0.1], head[head[:, 2] < -0.3]
    for expression, views in ((0, {"obs": front, "obs_back": back}), (11, {"obs": front, "full_obs": front})):
        folder = tmp_path / "283" / str(expression)
        folder.mkdir(parents=True)
        for name, points in views.items():
            np.save(folder / f"{name}.npy", np.concatenate([points, np.full((50, 3), np.nan)]))
    people = scan_files.find([str(tmp_path)])
    assert [str(path.relative_to(tmp_path)) for path in people["283"]] == ["283/0/obs.npy", "283/11/obs.npy"]
    assert scan_files.find([str(tmp_path / "283")]) == {"": people["283"]} and list(people) == ["283"]
    assert list(scan_files.result_names(people)) == ["283/0_obs.npy", "283/11_obs.npy"]
    first, second = (scan_files.read(path).vertices for path in people["283"])
    np.testing.assert_array_equal(first, np.concatenate([front, back]))
    np.testing.assert_array_equal(second, front)
    path = people["283"][0]
    assert scan_files.frame(path, None, "auto") == ("nphm", "none") == scan_files.frame(path, "nphm", "auto")
    assert scan_files.frame(path, "mm", "auto") == ("mm", "auto")
    assert scan_files.frame(path, None, "a.npy") == ("nphm", "a.npy")
    assert scan_files.frame(path.with_suffix(".ply"), None, "auto") == (None, "auto")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: the folder has no scan"):
        scan_files.find([str(path), str(tmp_path / "empty")])


@pytest.mark.parametrize("phase", ["identity", "expression"])
def test_launch_fit_writes_its_files(phase, head, tmp_path):
    import jax

    from configs import nphm_expression, nphm_identity
    from jaxface import checkpoint
    from jaxface.system import TrainState
    from jaxface.systems import nphm
    from launch.benchmarks.nphm import headlike

    config = nphm_identity.get_config("smoke")
    anchors = head_space.to_units(np.asarray(makehuman_head().template)[head_space.anchor_vertices(makehuman_head())])
    config.model.update(anchors=tuple(anchors.ravel().tolist()), codes=2, width=32)

    def save(config, workdir, change=lambda params: params):
        params, model_state = nphm.build(config).init(jax.random.key(0))
        config_file.write(workdir, config)
        with checkpoint.Checkpoints(workdir, keep=1) as saved:
            saved.save(TrainState(np.int32(0), change(params), model_state, {}, {}))

    net = nphm.model.identity_model(config)
    as_head = lambda p: {**p, "identity": headlike(net, p["identity"], np.zeros(net.code_dim, np.float32))}  # noqa: E731
    save(config, tmp_path / "identity", as_head)
    if phase == "expression":
        config = nphm_expression.get_config("smoke")
        config.identity, config.model.codes = str(tmp_path / "identity"), 2
        save(config, tmp_path / "expression")
    folder = tmp_path / "scans" / "anna"
    (folder / "2").mkdir(parents=True)
    (folder / "one.ply").write_bytes(meshes.encode(cloud(250 * head[:500] + 3), ".ply"))
    np.save(folder / "2" / "obs.npy", head[500:1000])
    (folder / "bad.ply").write_bytes(b"junk")
    folders = {"--scan": tmp_path / "scans", "--workdir": tmp_path / phase, "--output": tmp_path / "out"}
    arguments = [f"{flag}={path}" for flag, path in folders.items()]
    process = subprocess.run([sys.executable, "-m", "launch.fit", *arguments], capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert "bad.ply: damaged" in process.stderr and "fitting 2 scans of 1 person" in process.stderr
    assert "2 scans fitted, 1 failed: " in process.stdout
    summary, codes = json.loads((tmp_path / "out" / "fit.json").read_text()), np.load(tmp_path / "out" / "codes.npz")
    assert summary.keys() == {"anna/one", "anna/obs"}
    scales = [np.cbrt(np.linalg.det(np.array(summary[name]["matrix"])[:3, :3])) for name in ("anna/one", "anna/obs")]
    assert scales == pytest.approx([1 / 250, 1]), "an observation is in the model's own unit"
    assert [summary[name]["units"] for name in ("anna/one", "anna/obs")] == ["mm", "nphm"]
    assert codes["anna/identity"].shape == (net.code_dim,)
    mesh = meshes.read(tmp_path / "out" / "anna" / "one.ply")
    assert len(mesh.triangles) and 100 < np.ptp(mesh.vertices, axis=0).max() < 400
    assert (tmp_path / "out" / "anna" / "obs.png").stat().st_size > 500


def test_points_of_the_face_are_repeated_up_to_their_share():
    head = makehuman_head()
    closed = close(head)
    anchors = head_space.anchors(head, 0, [0])[0]
    vertices = head_space.to_units(closed.surface(np.asarray(head.template)))
    rng = np.random.default_rng(0)
    rest = sampling.sample(vertices, closed.triangles[~closed.face], 900, rng).on(
        vertices, closed.triangles[~closed.face]
    )
    face = sampling.sample(vertices, closed.triangles[closed.face], 300, rng).on(
        vertices, closed.triangles[closed.face]
    )
    cloud = np.concatenate([face, rest])
    assert scans.with_face_share(cloud, anchors, 0.0) is cloud
    weighted = scans.with_face_share(cloud, anchors, 0.75)
    assert {tuple(point) for point in weighted} == {tuple(point) for point in cloud}
    repeated = (weighted[:, None] == face[None]).all(-1).any(1)
    assert 0.4 < repeated.mean() <= 0.75  # 0.25 before; the nearest anchor tells the face only roughly
    most = scans.with_face_share(cloud, anchors, 0.99)
    assert len(most) <= scans.MOST_REPEATS * len(cloud)
    assert scans.with_face_share(face, anchors, 0.75).shape == face.shape
    with pytest.raises(UserError, match="config.fit.face_share: unknown for a model with 5 anchors; set it to 0"):
        scans.with_face_share(cloud, anchors[:5], 0.75)


def test_points_are_truncated_after_the_priors_are_relaxed():
    official, late = (
        [inversion.schedule(np.float32(step), name) for step in range(0, inversion.SCHEDULED_STEPS, 50)]
        for name in ("official", "late_truncation")
    )
    for first, last in ((official[0], official[-1]), (late[0], late[-1])):
        assert first == pytest.approx(inversion.INITIAL)
        for name, value in last.items():
            assert value == pytest.approx(float(official[-1][name])), name
    tight = [weights for weights in late if weights["max_distance"] < 0.01]
    assert tight and all(weights["local"] == late[-1]["local"] for weights in tight)
    assert any(weights["local"] > official[-1]["local"] for weights in official if weights["max_distance"] < 0.01)
