"""Clean transforms and volumes, errors, and inference with a stand-in network that knows the truth."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.layouts import LAYOUT_68
from jaxface.systems.jvcr import framing, metrics, predict, targets, transforms, visualize

RNG = np.random.default_rng(3)
ALL_VALID = np.ones((5, 68), bool)


def faces(count=5, noise=0.03):
    """Faces (B,68,3) px, z towards the viewer, and their |yaw| (B,) deg: the template, deformed, rotated and moved."""
    template = canonical.queries("68") * [1, -1, 1]
    shapes = template + noise * RNG.normal(size=(count, 68, 3))
    angles = RNG.uniform(-1, 1, count)
    rotated = [
        shape @ np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]).T
        for shape, a in zip(shapes, angles, strict=True)
    ]
    return 60 * np.stack(rotated) + [120, 110, 0], np.abs(np.rad2deg(angles))


def test_clean_decode_is_the_inverse_of_encode():
    points = RNG.normal(100, 30, (3, 71, 3))
    center, side, angle = RNG.normal(100, 5, (3, 2)), RNG.uniform(80, 120, 3), RNG.uniform(-1, 1, 3)
    crop = transforms.encode(points, center, side, 96, angle)
    np.testing.assert_allclose(transforms.decode(crop, center, side, 96, angle), points, atol=1e-9)
    middle = transforms.encode(np.concatenate([center, np.zeros((3, 1))], 1)[:, None], center, side, 96, angle)
    np.testing.assert_allclose(middle, np.full((3, 1, 3), 47.5), atol=1e-9)


def test_clean_volumes_peak_where_the_points_are():
    points = np.float32([[[20.3, 41.7, 60.2], [21.0, 40.0, 61.0], [-40.0, 300.0, 10.0]]])
    volume = np.asarray(targets.compact_volume("clean", points, np.array([[True, False, True]]), 96, 24, 24))[0]
    center = (points[0, 0] + 0.5) / 4 - 0.5
    y, x, z = np.mgrid[:24, :24, :24]
    exact = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2) / 2)
    inside = np.max(np.abs(np.stack([x, y, z], -1) - np.round(center)), -1) <= 3
    np.testing.assert_allclose(volume, exact * inside, atol=1e-6)
    flat = np.asarray(targets.compact_volume("clean", points, np.array([[True, False, False]]), 96, 2, 24))[0]
    assert flat[..., 1].max() > flat[..., 0].max()  # two slices separate near from far


def test_original_volumes_at_the_edge():
    """int() of the original truncates towards zero: a Gaussian near the edge moves, and its far side is cut."""
    points = np.float32([[[14.0, 50.0, 100.0]]])  # 2.5 cells in x after the shift by one
    volume = np.asarray(targets.compact_volume("reference", points, np.ones((1, 1), bool), 256, 64, 64))[0]
    along = volume[11, :, 24]
    assert along.argmax() == 3 and along[0] > 0 and along[5] > 0 and along[6] == 0
    behind = targets.compact_volume("reference", points * [1, 1, -1], np.ones((1, 1), bool), 256, 64, 64)
    assert not np.any(behind)


def test_errors_by_hand():
    truth, _ = faces()
    moved = truth + [3.0, 4.0, 25.0]  # a common shift in depth does not count
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=-1)
    np.testing.assert_allclose(metrics.ground_truth_error(moved, truth, ALL_VALID), 5 / eyes)
    area = np.ptp(truth[..., 0], axis=1) * np.ptp(truth[..., 1], axis=1)
    np.testing.assert_allclose(metrics.box_error(moved, truth, ALL_VALID), 5 / np.sqrt(area))
    some = ALL_VALID.copy()
    some[:, 60] = some[:, 64] = False
    wild = moved.copy()
    wild[:, [60, 64]] = 1e6
    np.testing.assert_allclose(metrics.ground_truth_error(wild, truth, some), 5 / eyes)
    other = metrics.align_shape(truth, np.roll(truth, 1, axis=0))
    np.testing.assert_allclose(metrics.cross_view_error(moved, other, ALL_VALID), 0, atol=1e-9)


def test_depth_beyond_pose():
    truth, yaw = faces(40, noise=0.05)
    np.testing.assert_allclose(metrics.yaw_deg(truth), yaw, atol=6)
    base = metrics.align_shape(metrics.mean_shape(truth), truth)
    perfect, posed = metrics.beyond_pose(truth, truth), metrics.beyond_pose(base, truth)
    assert perfect["depth_correlation"] == pytest.approx(1)
    assert abs(posed["depth_correlation"]) < 0.01 and posed["depth_correlation_own_pose"] < 0.05
    valid = np.ones(truth.shape[:2], bool)
    assert posed["gte_mean_shape"] == pytest.approx(100 * metrics.ground_truth_error(base, truth, valid).mean())
    half = metrics.beyond_pose(truth + np.std(truth - base) * RNG.normal(size=truth.shape), truth)
    assert half["depth_correlation"] == pytest.approx(0.7, abs=0.05)
    arrays = {"predicted": base, "truth": truth, "valid": valid, "nme": metrics.box_error(base, truth, valid)}
    summary = metrics.summarise(arrays)
    assert summary["gte"] == pytest.approx(summary["gte_mean_shape"]) and "gte_yaw_0_30" in summary


@pytest.mark.parametrize("mode", transforms.MODES)
def test_points_are_mapped_back_to_the_image(mode):
    """The stand-in network locates its crop by the colours of the image, which are its coordinates."""
    (truth,), _ = faces(1)
    truth[:, 2] -= truth[:, 2].mean()
    y, x = np.mgrid[:220, :240]
    photo, size = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8), 80

    def run_network(variables, images):
        outputs = []
        for image in images:
            y, x = np.mgrid[:size, :size][:, 12:-12, 12:-12].reshape(2, -1)
            colors = image[y, x, :2] * 255
            mirrored = colors[x == x.max(), 0].mean() < colors[x == x.min(), 0].mean()
            if mode == "reference":  # the colours are stretched, but the square is given; decode subtracts a pixel
                center, scale = framing.landmark_frame(framing.landmark_box(framing.face_box(truth)).reshape(2, 2))
                flipped = transforms.flip_depth(truth)
                points = transforms.encode_reference(flipped, center, np.float64(scale), size, size) + [1, 1, 0]
                points = points * [-1, 1, 1] + [size - 1, 0, 0] if mirrored else points
            else:
                matrix = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], -1), colors, rcond=None)[0]
                plane = np.linalg.solve(matrix[:2].T, (truth[:, :2] - matrix[2]).T).T
                points = np.concatenate([plane, size / 2 - 0.5 - truth[:, 2:] / abs(matrix[0, 0])], 1)
            outputs.append(points[LAYOUT_68.flip] if mirrored else points)
        return np.stack(outputs)

    (face,) = predict.predict(run_network, mode, size, {}, {}, photo, framing.face_box(truth))
    assert face.points_3d.shape == (68, 3) and face.sigma.shape == (68,)
    assert np.abs(face.points_3d - truth).max() < 0.6
    assert (face.points == face.points_3d[:, :2]).all() and face.layout == "68"
    with pytest.raises(UserError, match="68"):
        predict.predict(run_network, mode, size, {}, {}, photo, framing.face_box(truth), layout="98")
    with pytest.raises(UserError, match="not finite"):
        predict.predict(lambda *_: np.full((1, 68, 3), np.nan), mode, size, {}, {}, photo, framing.face_box(truth))


def test_files_of_a_face(tmp_path):
    (points,), _ = faces(1)
    files = visualize.files(points)
    (tmp_path / "x.glb").write_bytes(files[".glb"])
    cloud = meshes.read(tmp_path / "x.glb")
    np.testing.assert_allclose(cloud.vertices, (points - points.mean(0)) * [1, -1, 1], atol=1e-3)
    strip = np.asarray(Image.open(io.BytesIO(files["_turntable.png"])))
    assert strip.shape == (240, 7 * 240, 3)
    assert all((view < 255).any() for view in np.split(strip, 7, axis=1))
