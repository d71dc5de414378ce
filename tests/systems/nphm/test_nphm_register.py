"""Registration of synthetic scans of the embedded head, whose coefficients and pose are known."""

import numpy as np
import pytest
import scipy.spatial
from scipy.spatial.transform import Rotation

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.geometry import icp, sampling, views
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.arap import Arap
from jaxface.heads import closed, flame, head_space, sources
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.meshes import Mesh
from jaxface.systems.nphm.fitting import register, scan_landmarks
from launch import fit_register
from tests import flames

METRES = 0.001


@pytest.fixture(scope="module")
def template() -> closed.ClosedHead:
    return closed.close(makehuman_head())


@pytest.fixture(scope="module")
def scanned(template):
    """A smiling head with a wart, posed and in metres, sampled at other points than the template's vertices."""
    head = template.head
    identity = 0.8 * head_space.identity(head, 1, 4)
    expression = head.expression_weights(jawOpen=0.4, mouthSmile_L=0.6, mouthSmile_R=0.5)
    surface = template.posed(identity, expression)
    rng = np.random.default_rng(0)
    points = sampling.sample(surface, template.triangles, 60_000, rng)
    normals = sampling.unit(points.on(sampling.vertex_normals(surface, template.triangles), template.triangles))
    places = points.on(surface, template.triangles)
    marks = np.asarray(head.landmark_points(head.shape(identity, expression), "68"))
    cheek = places[np.linalg.norm(places - [-40, -10, 75], axis=1).argmin()]
    wart = np.exp(-((places - cheek) ** 2).sum(1) / (2 * 8.0**2))
    places += 3.0 * wart[:, None] * normals
    turn = Rotation.from_euler("yx", [25, -10], degrees=True).as_matrix()
    pose = Similarity(METRES, turn, np.float64([0.3, 1.4, -0.2]))
    scan = Mesh(np.float32(pose(places)), np.zeros((0, 3), np.int32), np.float32(normals @ pose.rotation.T))
    noisy = pose(marks + rng.normal(0, 1.0, marks.shape))
    noisy[20] = np.nan
    return scan, noisy, pose, surface, wart


def test_a_scan_in_metres_is_registered(template, scanned):
    scan, landmarks, pose, surface, wart = scanned
    result = register.register(scan, template, landmarks)
    face = np.unique(template.triangles[template.face])
    away = np.linalg.norm(result.similarity(result.fitted[face]) - pose(surface[face]), axis=1)
    assert np.median(away) / METRES < 1.5, "vertices may slide along the surface, but not far"
    # The embedded head's people differ in size, so scale and identity share it; their product is determined.
    size = result.similarity.scale * np.ptp(result.fitted[face], axis=0)
    np.testing.assert_allclose(size, METRES * np.ptp(surface[face], axis=0), rtol=0.05)
    places = result.mesh.vertices.astype(np.float64)
    tree = scipy.spatial.cKDTree(scan.vertices)
    distance = tree.query(places[face])[0] / METRES
    # The points of the scan are nearly 2 mm apart.
    assert np.median(distance) < 1.1 and result.error_mm[1] < result.error_mm[0] + 0.05
    assert len(places) > 3 * len(surface) and result.mesh.triangles.max() == len(places) - 1
    on_wart = scipy.spatial.cKDTree(places).query(scan.vertices[wart > 0.8])[0] / METRES
    flat = scipy.spatial.cKDTree(result.similarity(result.fitted)).query(scan.vertices[wart > 0.8])[0] / METRES
    assert np.median(on_wart) < 0.6 * np.median(flat), "ARAP refinement recovers what the coefficients cannot"


def test_inward_normals_are_turned(template, scanned):
    scan, landmarks, *_ = scanned
    inward = Mesh(scan.vertices, scan.triangles, -scan.normals)
    expected, found = (register.register(one, template, landmarks, subdivisions=0) for one in (scan, inward))
    assert found.error_mm == pytest.approx(expected.error_mm, rel=1e-6)


def test_the_error_is_the_distance_to_the_surface():
    """A coarse plane, far from the origin, whose vertices are 10 mm apart and 1 mm from the head's points."""
    x, y = np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij")
    vertices = np.stack([x, y, 0 * x], -1).reshape(-1, 3) + [5e5, -2e5, 0]
    corner = np.arange(36).reshape(6, 6)
    a, b, c, d = (square.ravel() for square in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).astype(np.int32)
    pose = Similarity(0.1, np.eye(3), np.float64([5e5, -2e5, 0]))
    points = np.random.default_rng(0).uniform(5, 45, (200, 3)) * [1, 1, 0] + [0, 0, 1]
    mesh, cloud = (register._Target(Mesh(vertices, faces), 0.1) for faces in (triangles, triangles[:0]))
    assert mesh.median_distance(pose, points) == pytest.approx(1.0, abs=1e-6)
    assert cloud.median_distance(pose, points) > 3


@pytest.fixture(scope="module")
def flame_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("flame") / "generic_model.npz"
    np.savez(path, **flames.arrays())
    return str(path)


def test_flame_as_template(flame_file):
    """A scan of FLAME itself recovers expression coefficients of either sign and the jaw."""
    head = sources.load_head("flame", flame_file)
    template, rng = closed.close(head), np.random.default_rng(3)
    identity, expression = rng.standard_normal(len(head.identity_names)), np.array([0.6, -1.2, 0.8, 0.5])
    surface = template.posed(identity, expression)
    places = sampling.sample(surface, template.triangles, 60_000, rng).on(surface, template.triangles)
    marks = np.asarray(head.landmark_points(head.shape(identity, expression), "68"))
    result = register.register(Mesh(places, np.zeros((0, 3), np.int32)), template, marks, subdivisions=0)
    face = np.unique(template.triangles[template.face])
    away = np.linalg.norm(result.similarity(result.fitted[face]) - surface[face], axis=1)
    mean = np.linalg.norm(template.surface(head.template)[face] - surface[face], axis=1)
    assert np.median(away) < 0.25 * np.median(mean) and result.error_mm[1] < 1.0
    assert result.expression[1] < 0 and result.expression[0] > 0.3
    np.testing.assert_array_equal(template.skin, np.arange(flame.SKIN))


def test_launch_fit_registers_a_template_by_name_and_file(template, flame_file, tmp_path):
    """`launch.fit --register` with the pretrained detector."""
    scan = Mesh(template.surface(np.asarray(template.head.template)) + 5, template.triangles)
    (tmp_path / "anna.ply").write_bytes(meshes.encode(scan, ".ply"))
    fit_register.run({"": [tmp_path / "anna.ply"]}, "flame", flame_file, str(tmp_path / "out"))
    arrays = np.load(tmp_path / "out" / "anna_registered.npz")
    assert arrays["identity"].shape == (flame.SHAPES,) and arrays["expression"].shape == (flames.EXPRESSIONS + 1,)
    assert np.isfinite(arrays["landmarks"]).all(1).sum() > 40
    mesh = meshes.read(tmp_path / "out" / "anna_registered.ply")
    near = scipy.spatial.cKDTree(mesh.vertices).query(arrays["landmarks"][30:48])[0]
    assert np.median(near) < 5


def test_too_few_landmarks_are_a_user_error(template, scanned):
    scan, landmarks, *_ = scanned
    few = np.where(np.arange(68)[:, None] < 25, landmarks, np.nan)
    with pytest.raises(UserError, match="only 7 landmarks"):
        register.register(scan, template, few)


def test_arap_propagates_a_rotation_and_follows_targets():
    """A strip whose one end is rotated by 40 degrees rotates as a whole."""
    x, y = np.meshgrid(np.linspace(0, 5, 21), np.linspace(0, 1, 5), indexing="ij")
    rest = np.stack([x, y, 0.1 * np.sin(3 * x)], -1).reshape(-1, 3)
    cell = (np.arange(20)[:, None] * 5 + np.arange(4)).ravel()
    triangles = np.concatenate([np.stack([cell, cell + 5, cell + 6], 1), np.stack([cell, cell + 6, cell + 1], 1)])
    turn = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    shape, held = Arap(rest, triangles), (rest[:, 0] < 0.8) * 100.0
    pulled = shape.deform(rest, rest @ turn.T, held, iterations=1000)
    np.testing.assert_allclose(pulled, rest @ turn.T, atol=0.05)
    np.testing.assert_allclose(shape.deform(rest, rest + 1, held, iterations=20), rest + 1, atol=1e-6)


def test_detected_landmarks_are_back_projected(template):
    """The detector of the test projects the true landmarks with the camera of the rendering."""
    head = template.head
    # The head lies with its top towards -z: no face is found in the upright view.
    lying = Rotation.from_euler("x", -90, degrees=True).as_matrix().round()
    marks = np.asarray(head.landmark_points(np.asarray(head.template), "68")) @ lying.T
    scan = Mesh(np.float32(template.surface(head.template) @ lying.T), template.triangles)
    cameras = []

    def recording_render(scan, camera, inner=scan_landmarks.render):
        cameras.append(camera)
        return inner(scan, camera)

    def detect(image):
        assert image.shape == (160, 160, 3) and image.std() > 10
        camera = cameras[-1]
        if camera.rotation[2] @ (lying @ [0, 0, -1]) < 0.9 or camera.rotation[1] @ (lying @ [0, -1, 0]) < 0.9:
            return None
        return views.project(marks, *camera, (160, 160))[0], 0.9

    rotations = icp.axis_rotations()
    upright = next(rotation for rotation in rotations if np.allclose(rotation @ lying, np.eye(3)))
    few = [rotations[0], upright, rotations[9]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_landmarks, "render", recording_render)
        patch.setattr(scan_landmarks, "SIZE", (160, 160))
        patch.setattr(icp, "axis_rotations", lambda: few)
        detected = scan_landmarks.detect_landmarks(scan, detect)
        with pytest.raises(UserError, match="no face is found"):
            scan_landmarks.detect_landmarks(scan, lambda image: None)
    away = np.linalg.norm(detected - marks, axis=1)
    assert np.nanmedian(away) < 2.5 and np.isfinite(detected).all(1).sum() > 60
    with pytest.raises(UserError, match="point cloud"):
        scan_landmarks.detect_landmarks(Mesh(scan.vertices, scan.triangles[:0]), detect)
