"""Results of reconstructed faces: their files agree with each other and with the image, in profile and cut off too."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import scipy.io
import trimesh

from jaxface import overlay
from jaxface.errors import UserError
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.results import FaceLandmarks
from jaxface.systems.deep3d import face_model, predict
from jaxface.systems.deep3d.preprocessing import alignment
from jaxface.systems.deep3d.rendering.image_formation import Sizes

SIZES = Sizes(8, 6, 4)
WIDTH, HEIGHT, SIZE = 300, 260, 64
GRAY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
DARK = 0.3


def vector(**groups):
    values = {name: np.full(count, groups.get(name, 0.0), np.float32) for name, count in SIZES.groups.items()}
    values["angles"] = np.float32(groups.get("angles", (0, 0, 0)))
    return np.concatenate(list(values.values()))


@pytest.fixture(scope="module")
def face():
    whole = face_model.from_head(makehuman_head())
    return whole.replace(identity=whole.identity[:8], expression=whole.expression[:6], albedo=whole.albedo[:4])


@pytest.fixture(scope="module")
def predictions():
    """What the stand-in network returns next: one output for all crops, or one for bright and one for dark crops."""
    return []


@pytest.fixture(scope="module")
def network(face, predictions):
    def regress(_variables, images: np.ndarray, _face) -> np.ndarray:
        # Batches run in any order.
        return np.stack([predictions[int(image.mean() < DARK) if len(predictions) > 1 else 0] for image in images])

    return predict.build_network(regress, lambda: face, SIZES, SIZE)


@pytest.fixture
def reconstruct(face, network, predictions):
    """Reconstructs the one face of an image, whose points put the mean head's origin at `at` with size `px_per_dm`."""
    index, weights = face.landmarks
    flat = (np.asarray(face.mean)[index] * weights[..., None]).sum(1)[:, :2] * [1, -1]

    def call(prediction, at=(150, 110), px_per_dm=80.0, image=GRAY, **options):
        points = flat * px_per_dm + at
        box = np.concatenate([points.min(0), points.max(0)])
        detected = FaceLandmarks(box=box, extent=box, layout="68", points=points, sigma=np.ones(68))
        predictions[:] = [prediction]
        return predict.predict(network, {}, {}, image, **{"detect": lambda image, boxes: [detected], **options})[0]

    return call


def projected(result, vertices_mm):
    """Pixels (V,2) and depth (V,) mm of mesh vertices, by its camera."""
    camera = result.camera
    points = vertices_mm @ camera.rotation.T * [1, -1, -1] + camera.translation_mm
    return points[:, :2] / points[:, 2:] * camera.focal_px + camera.center_px, points[:, 2]


def test_five_given_points_align_instead_of_the_detected_ones(reconstruct):
    """Points 20 px right of the detected face: so is the crop, and with it the reconstruction."""
    detected = reconstruct(vector())
    five = alignment.five_points(detected.points) + [20.0, 0.0]
    moved = reconstruct(vector(), five=five)
    np.testing.assert_allclose(moved.crop["trans_params"][3] - detected.crop["trans_params"][3], 20, atol=0.5)
    np.testing.assert_allclose((moved.points - detected.points).mean(0), [20, 0], atol=1.5)


def test_opencv_s_matrices_project_as_the_camera_does(reconstruct):
    result = reconstruct(vector(angles=[0.1, -0.2, 0.05]))
    vertices = obj_vertices(result)
    intrinsics, extrinsics = result.camera.opencv()
    homogeneous = intrinsics @ (extrinsics[:, :3] @ vertices.T + extrinsics[:, 3:])
    np.testing.assert_allclose((homogeneous[:2] / homogeneous[2]).T, projected(result, vertices)[0], atol=1e-6)
    np.testing.assert_allclose(result.to_json()["camera"]["intrinsics"], intrinsics)


def obj_vertices(result):
    return vertices_of(result.files[".obj"])


def vertices_of(data: bytes):
    return np.array([line.split()[1:4] for line in data.decode().splitlines() if line.startswith("v ")], float)


def decoded(result, ending):
    return cv2.imdecode(np.frombuffer(result.files[ending], np.uint8), cv2.IMREAD_UNCHANGED)


POSES = {"front": (0, 0, 0), "rotated": (0.2, -0.6, 0.3), "profile": (0, np.pi / 2, 0)}


@pytest.mark.parametrize("angles", POSES.values(), ids=POSES)
@pytest.mark.parametrize("at, px_per_dm", [((150, 110), 80.0), ((20, 200), 60.0), ((150, 130), 300.0)])
def test_camera_mesh_layer_maps_and_points_agree(face, reconstruct, angles, at, px_per_dm):
    result = reconstruct(vector(angles=angles, identity=0.5, expression=0.5), at, px_per_dm)
    vertices = obj_vertices(result)
    px, depth = projected(result, vertices)
    inside = ((px > 0) & (px < [WIDTH - 1, HEIGHT - 1])).all(1)
    steps, normals = decoded(result, "_depth.png"), decoded(result, "_normals.png")[..., ::-1]
    assert steps.shape == (HEIGHT, WIDTH) and normals.shape == (HEIGHT, WIDTH, 3)
    row, column = np.nonzero(steps)
    covered_px = np.stack([column, row], -1)
    used = px[np.isin(np.arange(len(px)), face.triangles)]
    low, high = np.maximum(used.min(0), 0), np.minimum(used.max(0), [WIDTH - 1, HEIGHT - 1])
    assert (covered_px.min(0) > low - 1.6).all() and (covered_px.max(0) < high + 1.6).all()
    visible_px = px[inside & np.isin(np.arange(len(px)), face.triangles)]
    assert (covered_px.min(0) < visible_px.min(0) + 1.6).all() and (covered_px.max(0) > visible_px.max(0) - 1.6).all()
    nearest = np.flatnonzero(inside)[depth[inside].argmin()]
    column, row = np.rint(px[nearest]).astype(int)
    assert steps[row, column] * result.depth_step_mm == pytest.approx(depth[nearest], abs=4.0)
    unit = normals[steps > 0] / 127.5 - 1
    assert np.abs(np.linalg.norm(unit, axis=1) - 1).max() < 0.03 and (unit[:, 2] > -0.2).mean() > 0.97
    index, weights = face.landmarks
    points = (px[index] * weights[..., None]).sum(1)
    assert np.abs(result.points - points).max() < 2.0 / result.crop["trans_params"][2]
    _check_layer(face, result, px, steps)
    overlay.draw_overlay(GRAY, [result])


def _check_layer(face, result, px, steps):
    """The overlay and the clean render show the face only, without scalp, ears and neck."""
    layer, (x0, y0) = result.layer
    render = decoded(result, "_render.png")
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[y0 : y0 + len(layer), x0 : x0 + layer.shape[1]] = layer[..., 3]
    assert render.shape == (HEIGHT, WIDTH, 4) and ((render[..., 3] > 0) == (whole > 0)).mean() > 0.999
    shown = px[np.unique(face.triangles[face.shown_triangles()])]
    row, column = np.nonzero(whole)
    drawn_px = np.stack([column, row], -1)
    assert (steps[row, column] > 0).mean() > 0.99
    assert (drawn_px.min(0) > shown.min(0) - 1.6).all() and (drawn_px.max(0) < shown.max(0) + 1.6).all()


def test_the_overlay_leaves_out_scalp_ears_and_neck(reconstruct):
    result = reconstruct(vector())
    layer, _ = result.layer
    assert np.count_nonzero(layer[..., 3]) < 0.7 * np.count_nonzero(decoded(result, "_depth.png"))


def test_points_are_drawn_if_the_layout_is_asked_for(reconstruct):
    plain, asked = reconstruct(vector()), reconstruct(vector(), layout="68")
    assert not plain.points_drawn and asked.points_drawn
    drawn = [overlay.draw_overlay(GRAY, [result]).astype(int) for result in (plain, asked)]
    assert (np.abs(drawn[0] - drawn[1]).sum(-1) > 0).sum() > 200


def test_coefficients_come_as_the_original_names_them(reconstruct):
    prediction = np.random.default_rng(0).normal(0, 0.1, SIZES.total).astype(np.float32)
    result = reconstruct(prediction)
    with np.load(io.BytesIO(result.files[".npz"])) as arrays:
        npz = dict(arrays)
    mat = scipy.io.loadmat(io.BytesIO(result.files[".mat"]))
    shapes = {"id": 8, "exp": 6, "tex": 4, "angle": 3, "gamma": 27, "trans": 3}
    np.testing.assert_array_equal(np.concatenate([npz[name][0] for name in shapes]), prediction)
    for name, array in npz.items():
        np.testing.assert_array_equal(mat[name], array)
    assert {name: npz[name].shape[1] for name in shapes} == shapes and npz["lm68"].shape == (1, 68, 2)
    assert npz["trans_params"][0, 2] == pytest.approx(result.crop["trans_params"][2] * 224 / SIZE)
    assert result.coefficients["identity"] == pytest.approx(prediction[:8])


def test_the_texture_is_the_photo_where_the_head_is_visible(reconstruct):
    """The image is red on the left and blue on the right: so is the head's front, and its back by diffusion."""
    image = GRAY.copy()
    image[:, :150], image[:, 150:] = (250, 20, 20), (20, 20, 250)
    result = reconstruct(vector(), image=image)
    (mesh,) = trimesh.load(io.BytesIO(result.files[".glb"]), file_type="glb", process=False).geometry.values()
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")).astype(float)
    size = len(texture)
    u, v = mesh.visual.uv.T
    at = texture[np.clip((1 - v) * size, 0, size - 1).astype(int), np.clip(u * size, 0, size - 1).astype(int)]
    px, _ = projected(result, 1000 * mesh.vertices)  # GLB is in metres
    front = (mesh.vertex_normals[:, 2] > 0.8) & (v > 0.2)
    left, right = front & (px[:, 0] < 140), front & (px[:, 0] > 160)
    assert left.sum() > 200 and right.sum() > 200
    assert np.median(at[left], axis=0) == pytest.approx([250, 20, 20], abs=3)
    assert np.median(at[right], axis=0) == pytest.approx([20, 20, 250], abs=3)
    back = at[mesh.vertices[:, 2] < -0.13]  # behind the ears
    assert len(back) > 300
    assert back[:, 1].max() < 60 and back[:, [0, 2]].max(1).min() > 100
    np.testing.assert_array_equal(decoded(result, "_texture.png")[..., ::-1], texture)
    original = np.unique(obj_vertices(result).round(3), axis=0)
    assert len(original) <= len(mesh.vertices) < 1.2 * len(original)


def test_the_meshes_share_texture_coordinates_and_the_neutral_one_has_no_expression(reconstruct):
    result = reconstruct(vector(identity=0.5, expression=0.5))
    rest = reconstruct(vector(identity=0.5))
    lines = {ending: result.files[ending].decode().splitlines() for ending in (".obj", "_neutral.obj")}
    texture_lines = {
        ending: [line for line in text if line.startswith(("vt ", "f "))] for ending, text in lines.items()
    }
    assert texture_lines[".obj"] == texture_lines["_neutral.obj"] and texture_lines[".obj"][-1].count("/") == 3
    np.testing.assert_allclose(vertices_of(result.files["_neutral.obj"]), obj_vertices(rest), atol=1e-4)
    (textured,) = trimesh.load(io.BytesIO(result.files[".glb"]), file_type="glb", process=False).geometry.values()
    corners = np.array([[corner.split("/") for corner in line.split()[1:]] for line in texture_lines[".obj"]
                        if line.startswith("f ")], int) - 1  # fmt: skip
    uv = np.array([line.split()[1:] for line in texture_lines[".obj"] if line.startswith("vt ")], float)
    np.testing.assert_allclose(uv[corners[..., 1]], textured.visual.uv[textured.faces], atol=1e-6)
    np.testing.assert_allclose(
        obj_vertices(result)[corners[..., 0]], 1000 * textured.vertices[textured.faces], atol=1e-3
    )


@pytest.mark.parametrize("prediction", [vector(translation=9.5), vector(translation=40.0), vector(identity=300.0)])
def test_heads_near_the_camera_and_behind_it_give_no_nan(reconstruct, prediction):
    result = reconstruct(prediction)
    layer, corner = result.layer
    assert np.isfinite(result.points).all() and np.isfinite(result.camera.translation_mm).all()
    assert layer.ndim == 3 and min(corner) >= 0 and decoded(result, "_depth.png").shape == (HEIGHT, WIDTH)
    overlay.draw_overlay(GRAY, [result])


def test_several_images_of_a_person_share_one_identity(face, network, predictions):
    index, weights = face.landmarks
    points = (np.asarray(face.mean)[index] * weights[..., None]).sum(1)[:, :2] * [80, -80] + [150, 110]
    box = np.concatenate([points.min(0), points.max(0)])
    detected = FaceLandmarks(box=box, extent=box, layout="68", points=points, sigma=np.ones(68))

    def detect(image, boxes):
        return [] if image.max() == 0 else [detected, detected]

    predictions[:] = [vector(identity=1.0, expression=1.0), vector(identity=3.0, expression=2.0)]
    per_image = predict.predict_multiview(network, {}, {}, [GRAY, 0 * GRAY, GRAY // 3], detect=detect)
    assert [len(faces) for faces in per_image] == [1, 0, 1]
    coefficients = [faces[0].coefficients for faces in per_image if faces]
    assert [groups["identity"].tolist() for groups in coefficients] == [[2.0] * 8] * 2
    assert [groups["expression"][0] for groups in coefficients] == [1.0, 2.0]


def test_a_predicted_size_scales_everything_in_millimetres(face, network, predictions):
    index, weights = face.landmarks
    points = (np.asarray(face.mean)[index] * weights[..., None]).sum(1)[:, :2] * [80, -80] + [150, 110]
    box = np.concatenate([points.min(0), points.max(0)])
    detected = FaceLandmarks(box=box, extent=box, layout="68", points=points, sigma=np.ones(68))
    # Heads whose expression is 1 are 1.21 times as large as their reconstructions, others 1.1 times.
    start = SIZES.identity
    sized = dataclasses.replace(
        network, size_ratio=lambda variables, images, vectors: np.where(vectors[:, start] == 1, 1.21, 1.1)
    )
    predictions[:] = [vector(identity=0.5, angles=[0.1, 0.2, 0])]
    options = {"detect": lambda image, boxes: [detected]}
    (plain,), (result,) = (predict.predict(one, {}, {}, GRAY, **options) for one in (network, sized))
    assert plain.size is None and "size" not in plain.to_json() and result.to_json()["size"] == result.size == 1.1
    np.testing.assert_allclose(result.mesh.vertices, 1.1 * plain.mesh.vertices, rtol=1e-6)
    for ending in (".obj", "_neutral.obj"):
        scaled = 1.1 * vertices_of(plain.files[ending])
        np.testing.assert_allclose(vertices_of(result.files[ending]), scaled, atol=2e-3)
    glb = [trimesh.load(io.BytesIO(one.files[".glb"]), file_type="glb", process=False) for one in (plain, result)]
    np.testing.assert_allclose(glb[1].extents, 1.1 * glb[0].extents, rtol=1e-5)
    seen, depth = projected(plain, obj_vertices(plain))
    seen_sized, depth_sized = projected(result, obj_vertices(result))
    np.testing.assert_allclose(seen_sized, seen, atol=1e-3)
    np.testing.assert_allclose(depth_sized, 1.1 * depth, rtol=1e-4)
    np.testing.assert_array_equal(decoded(result, "_depth.png"), decoded(plain, "_depth.png"))
    assert result.depth_step_mm == pytest.approx(1.1 * plain.depth_step_mm)
    predictions[:] = [vector(), vector(expression=1.0)]
    per_image = predict.predict_multiview(sized, {}, {}, [GRAY, GRAY // 3], **options)
    assert [faces[0].size for faces in per_image] == pytest.approx(2 * [np.sqrt(1.1 * 1.21)])


def test_invalid_requests_raise(reconstruct):
    with pytest.raises(UserError, match="not finite"):
        reconstruct(vector(identity=np.nan))
    with pytest.raises(UserError, match="layout '68' only, not '98'"):
        reconstruct(vector(), layout="98")
    with pytest.raises(UserError, match="detect="):
        reconstruct(vector(), detect=None)
    with pytest.raises(UserError, match="too small"):
        reconstruct(vector(), px_per_dm=1.0, boxes=[0, 0, 10, 10])
    with pytest.raises(IndexError):  # a detected face that is too small is skipped
        reconstruct(vector(), px_per_dm=1.0)
