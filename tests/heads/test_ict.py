"""ICT-FaceKit: both file formats give the same head; its landmarks lie where the embedded head's do."""

import json

import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.heads import canonical, ict, region_registration
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.layouts import LAYOUTS, wflw_to_ibug


@pytest.fixture(scope="module")
def arrays(request):
    folder = request.config.rootpath.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ICT-FaceKit next to the project")
    with np.load(folder / "ict_facekit.npz") as data:
        return dict(data), folder / "ict_facekit.npz"


@pytest.fixture(scope="module")
def head(arrays):
    return ict.load_ict(arrays[1])


def test_landmarks_and_mirror_are_the_published_ones_but_for_those_of_convention(head, arrays):
    published = arrays[0]
    moved = np.r_[5:8, 9:12, 17:28, 31:33, 34:36, 49:54, 55:57, 58:60, 61:68:2]
    others = np.setdiff1d(np.arange(68), moved)
    np.testing.assert_array_equal(head.landmarks["68"][0][others, 0], published["landmarks68"][others])
    np.testing.assert_array_equal(head.mirror[head.mirror], np.arange(ict.VERTICES))
    assert (head.mirror == published["mirror"]).mean() > 0.99
    for name in head.landmarks:
        points = head.landmark_points(head.template, name)
        np.testing.assert_allclose(points[LAYOUTS[name].flip] * [-1, 1, 1], points, atol=0.5)
    wide = head.landmark_points(head.template, "98")[:, :2]
    np.testing.assert_allclose(wflw_to_ibug(wide), head.landmark_points(head.template, "68")[:, :2], atol=1.5)


def test_jaw_and_brow_points_lie_where_those_of_the_embedded_head_do(head):
    ours, theirs = (np.asarray(each.landmark_points(each.template, "68")) for each in (head, makehuman_head()))
    for side in (slice(0, 9), slice(16, 7, -1)):
        shares = [np.cumsum(np.linalg.norm(np.diff(line[side], axis=0), axis=1)) for line in (ours, theirs)]
        np.testing.assert_allclose(shares[0] / shares[0][-1], shares[1] / shares[1][-1], atol=0.02)
    heights = [(p[17:27, 1] - p[36:48, 1].mean()) / np.linalg.norm(p[36] - p[45]) for p in (ours, theirs)]
    np.testing.assert_allclose(*heights, atol=0.025)


@pytest.mark.parametrize("name", ["makehuman", "ict"])
def test_lips_and_nose_are_divided_as_on_the_mean_annotation(name, request):
    """The mean of dlib's points, trained on 300-W: 0 to 16 are not part of it; as in faceswap and elsewhere."""
    mean = {33: (0.490127, 0.628106), 34: (0.554217, 0.609345), 35: (0.613373, 0.587326), 54: (0.726104, 0.780233)}
    mean |= {52: (0.551395, 0.727388), 53: (0.639268, 0.745405), 55: (0.642159, 0.864805), 56: (0.556721, 0.902192)}
    mean |= {63: (0.552157, 0.778746), 64: (0.689874, 0.784792), 65: (0.553364, 0.824182), 45: (0.858516, 0.216423)}
    head = makehuman_head() if name == "makehuman" else request.getfixturevalue("head")
    points = np.asarray(head.landmark_points(head.template, "68"))
    for corner, line in ((54, (52, 53, 55, 56)), (64, (63, 65))):
        middle = mean[33][0]
        wanted = [(mean[point][0] - middle) / (mean[corner][0] - middle) for point in line]
        np.testing.assert_allclose(points[line, 0] / points[corner, 0], wanted, atol=0.065)
    width = 2 * (mean[45][0] - mean[33][0])
    wanted = [(mean[33][1] - mean[point][1]) / width for point in (34, 35)]
    outer = np.linalg.norm(points[45] - points[36])
    np.testing.assert_allclose((points[[34, 35], 1] - points[33, 1]) / outer, wanted, atol=0.02)


def test_modes_are_in_millimetres(head, arrays):
    published = arrays[0]
    weights = head.expression_weights(jawOpen=1.0, mouthSmile_L=0.5)
    identity = np.zeros(100, np.float32)
    identity[7] = 2.0
    moved = published["neutral"] + 2 * published["identity_q"][7] * published["identity_scale"][7]
    for name, weight in (("jawOpen", 1.0), ("mouthSmile_L", 0.5)):
        index = list(published["expression_names"]).index(name)
        moved = moved + weight * published["expression_q"][index] * published["expression_scale"][index]
    np.testing.assert_allclose(head.shape(identity, weights), 10 * moved, atol=1e-3)


def test_transparent_parts_are_not_drawn(head):
    assert head.opaque_triangles().max() < ict.RANGES["transparent"][0] < head.triangles.max()


def test_landmarks_are_registered_to_the_canonical_ones(head):
    places = canonical.canonical_vertices(head)
    assert places.shape == (ict.VERTICES, 3)
    np.testing.assert_allclose(head.landmark_points(places, "68"), canonical.queries("68"), atol=1e-3)


def test_regions_are_registered_to_those_of_the_template(head):
    places, template = canonical.canonical_vertices(head), makehuman_head()
    wanted = canonical.canonical_vertices(template)
    skin = region_registration._outer_skin(template)
    surface = region_registration._surface(template, wanted, skin)
    for name in ("ears", "neck", "scalp"):
        points = places[head.regions[name]]
        distance = np.linalg.norm(surface.closest(points)[0] - points, axis=1)
        assert np.quantile(distance, 0.9) < 0.03, name
    for name in ("ears", "teeth", "eyeball_L", "iris_L", "iris_R"):
        ours, theirs = places[head.regions[name]], wanted[np.asarray(template.regions[name])]
        middles = [(points.min(0) + points.max(0))[:2] / 2 for points in (ours, theirs)]
        np.testing.assert_allclose(*middles, atol=0.06 if name in ("ears", "teeth") else 0.01)
    iris = np.ptp(places[head.regions["iris_L"]][:, :2], axis=0)
    np.testing.assert_allclose(iris, np.ptp(wanted[np.asarray(template.regions["iris_L"])][:, :2], axis=0), rtol=0.1)
    shared = canonical.shared_regions(head, ("face", "mouth", "teeth", "tongue", "shoulders", "ears"))
    assert shared == ("face", "teeth", "ears")


def test_the_folder_of_objs_gives_the_same_head(head, arrays, tmp_path, monkeypatch):
    published, names = arrays[0], ["jawOpen", "mouthSmile_L"]
    monkeypatch.setattr(ict, "IDENTITIES", 1)
    corners = "".join(f"f {' '.join(f'{v + 1}/1' for v in polygon if v >= 0)}\n" for polygon in published["polygons"])

    def write(name: str, vertices: np.ndarray) -> None:
        np.savetxt(tmp_path / f"{name}.obj", vertices, fmt="v %.6f %.6f %.6f", footer=corners, comments="")

    write("generic_neutral_mesh", published["neutral"])
    write("identity000", published["neutral"] + published["identity_q"][0] * published["identity_scale"][0])
    for name in names:
        index = list(published["expression_names"]).index(name)
        delta = published["expression_q"][index] * published["expression_scale"][index]
        write(name, published["neutral"] + delta)
    (tmp_path / "vertex_indices.json").write_text(json.dumps({"expressions": names}))
    folder = ict.load_ict(tmp_path)
    np.testing.assert_array_equal(folder.triangles, head.triangles)
    np.testing.assert_allclose(folder.identity[0], head.identity[0], atol=1e-4)
    np.testing.assert_allclose(folder.expression[0], head.expression[head.expression_names.index("jawOpen")], atol=1e-4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path / "absent", "no such file or folder; give the FaceXModel folder"),
        (lambda path: path, "generic_neutral_mesh.obj is missing"),
        (lambda path: path / "other.npz", "not an .npz of ICT-FaceKit's arrays"),
    ],
)
def test_a_wrong_path_is_one_line(tmp_path, make, message):
    np.savez(tmp_path / "other.npz", neutral=np.zeros((3, 3)))
    with pytest.raises(UserError, match=message):
        ict.load_ict(make(tmp_path))
