"""A face in a video has one identity, and its animated head looks as the frames do."""

import dataclasses
import functools
import io
import json
import struct

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from jaxface import head_clips, outputs, video
from jaxface.systems.deep3d import clip
from tests.systems.deep3d.test_reconstruction import (  # noqa: F401 (fixtures)
    GRAY,
    HEIGHT,
    WIDTH,
    face,
    network,
    obj_vertices,
    predictions,
    projected,
    reconstruct,
    vector,
)

TIMES = np.arange(8) / 25
NAMES = {f"shape{number}": 4.0 for number in range(6)}


@pytest.fixture
def faces(reconstruct):  # noqa: F811
    """A head that turns and moves, in crops of its own; identity and expression are noisy."""
    random = np.random.default_rng(0)
    found = []
    for index in range(len(TIMES)):
        prediction = vector(identity=0.5, expression=0.4, angles=[0.1, 0.05 * index, 0.02])
        prediction[:14] += random.normal(0, 0.2, 14).astype(np.float32)
        found.append(reconstruct(prediction, at=(140 + 3 * index, 110 + random.normal()), px_per_dm=60 + index))
    return found


def test_frames_share_the_identity_and_keep_their_pose(network, faces):  # noqa: F811
    plain = clip.reconstruct_clip(network, lambda: NAMES, {}, {}, faces, TIMES, smooth=False)
    results = [plain.frame(index, GRAY) for index in range(len(faces))]
    identities = np.stack([result.coefficients["identity"] for result in results])
    assert np.ptp(identities, axis=0).max() == 0
    assert identities[0] == pytest.approx(np.mean([one.coefficients["identity"] for one in faces], axis=0), abs=0.05)
    for before, after in zip(faces, results, strict=True):
        for name in ("expression", "angles", "translation"):
            np.testing.assert_allclose(after.coefficients[name], before.coefficients[name], atol=2e-5)
        np.testing.assert_array_equal(after.sigma, before.sigma)


def test_smoothing_leaves_less_noise_and_follows_the_motion(network, faces):  # noqa: F811
    smooth = clip.reconstruct_clip(network, lambda: NAMES, {}, {}, faces, TIMES, smooth=True)
    results = [smooth.frame(index, GRAY) for index in range(len(faces))]

    def jitter(some):
        return np.abs(np.diff([one.coefficients["expression"] for one in some], axis=0)).mean()

    assert jitter(results) < 0.6 * jitter(faces)
    for before, after in zip(faces, results, strict=True):
        assert np.abs(after.points - before.points).max() < 8


@pytest.mark.parametrize("sizes", [[None], [1.3, 1.4]], ids=["model", "predicted"])
def test_the_animated_head_appears_as_in_the_frames(network, faces, sizes):  # noqa: F811
    for index, one in enumerate(faces):
        size = sizes[index % len(sizes)]
        scaled = dataclasses.replace(one.camera, translation_mm=(size or 1) * one.camera.translation_mm)
        faces[index] = dataclasses.replace(one, size=size, camera=scaled)
    reconstruction = clip.reconstruct_clip(network, lambda: NAMES, {}, {}, faces, TIMES, smooth=False)
    data = reconstruction.files(GRAY)[".glb"]
    trimesh.load(io.BytesIO(data), file_type="glb")
    (length,) = struct.unpack("<I", data[12:16])
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]

    def array(number):
        entry = tree["accessors"][number]
        view, width = tree["bufferViews"][entry["bufferView"]], {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
        values = np.frombuffer(binary, np.float32, entry["count"] * width[entry["type"]], view["byteOffset"])
        return values.reshape(entry["count"], -1).squeeze()

    (primitive,) = tree["meshes"][0]["primitives"]
    (animation,) = tree["animations"]
    tracks = {channel["target"]["path"]: array(animation["samplers"][channel["sampler"]]["output"])
              for channel in animation["channels"]}  # fmt: skip
    assert tree["meshes"][0]["extras"]["targetNames"] == list(NAMES)
    np.testing.assert_allclose(array(animation["samplers"][0]["input"]), TIMES, atol=1e-6)
    base, targets = array(primitive["attributes"]["POSITION"]), [array(t["POSITION"]) for t in primitive["targets"]]
    focal = HEIGHT / 2 / np.tan(tree["cameras"][0]["perspective"]["yfov"] / 2)
    for index in (0, 5):
        weights = tracks["weights"].reshape(len(TIMES), -1)[index]
        posed = Rotation.from_quat(tracks["rotation"][index]).apply(base + np.tensordot(weights, targets, 1))
        posed = posed + tracks["translation"][index]
        seen = posed[:, :2] / -posed[:, 2:] * focal * [1, -1] + [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
        result = reconstruction.frame(index, GRAY)
        expected, _ = projected(result, obj_vertices(result)[network.head().atlas().vertex])
        assert np.abs(seen - expected).max() < 4 and np.abs(seen - expected).mean() < 1
        if sizes[0] is not None:
            assert 1.3 < result.size < 1.4
            own = (faces[index].size, faces[index].camera.translation_mm[2])
            assert result.camera.translation_mm[2] / result.size == pytest.approx(own[1] / own[0], rel=1e-4)


def test_a_video_gives_one_animated_head_and_lines_with_one_identity(network, faces, tmp_path):  # noqa: F811
    """The prediction of each frame is that of `faces`; the middle frame has no face."""
    frames = iter([*range(4), None, *range(4, 8)])
    with video.ClipWriter(tmp_path / "in.mp4", 25, WIDTH, HEIGHT) as writer:
        for _ in range(9):
            writer.write(GRAY)

    def predict(image, boxes=None):
        if image.shape == (1, 1, 3):
            return []
        index = next(frames)
        return [] if index is None else [faces[index]]

    def tracked(frames, predict, box):
        for frame in frames:
            yield frame, [dataclasses.replace(one, track=3) for one in predict(frame)]

    writer = outputs.Writer(tmp_path / "out")
    writer.make_folder()
    reconstruct_clip = functools.partial(clip.reconstruct_clip, network, lambda: NAMES, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "track", tracked)
        counts = head_clips.infer_video(
            predict, reconstruct_clip, tmp_path / "in.mp4", tmp_path / "out" / "in", None, True, writer, print
        )
    assert counts["frame"] == 9 and counts["video"] == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "in.jsonl").read_text().splitlines()]
    assert [len(line["faces"]) for line in lines] == 4 * [1] + [0] + 4 * [1] and lines[0]["files"] == ["in.glb"]
    assert len({str(one["coefficients"]["identity"]) for line in lines for one in line["faces"]}) == 1
    assert (tmp_path / "out" / "in.glb").read_bytes()[:4] == b"glTF"
    names = {"in.jsonl", "in.glb", "in_overlay.mp4"}
    assert names <= {path.name for path in outputs.previous_outputs(tmp_path / "out")}
