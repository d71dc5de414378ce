"""FLAME files written here in its layout, with fake chumpy and scipy classes whose code must not run."""

import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import scipy.spatial.transform

from jaxface import pickle_tree
from jaxface.errors import UserError
from jaxface.heads import flame, flame_file, head_space, sources
from jaxface.heads.makehuman.head import makehuman_head
from tests import flames


class _Lively:
    """Pickled as chumpy pickles: a new object and its state. Running its code would be noticed."""

    def __setstate__(self, state):
        raise AssertionError("foreign code ran")


@pytest.fixture(scope="module")
def foreign():
    """Fake modules chumpy.ch and scipy.sparse.csc, present only while a file is written."""
    made = {}
    sys.modules["chumpy"] = types.SimpleNamespace()
    for module, name in (("chumpy.ch", "Ch"), ("scipy.sparse.made_up", "csc_matrix")):
        made[name] = type(name, (_Lively,), {"__module__": module})
        sys.modules[module] = types.SimpleNamespace(**{name: made[name]})
    yield made
    for module in ("chumpy", *(kind.__module__ for kind in made.values())):
        del sys.modules[module]


def _boxed(kind: type, **state) -> object:
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


@pytest.fixture(scope="module", params=[1, 2, "npz"])
def path(request, tmp_path_factory, foreign):
    arrays = flames.arrays()
    path = tmp_path_factory.mktemp("flame") / ("model.npz" if request.param == "npz" else "model.pkl")
    if request.param == "npz":
        np.savez(path, **arrays)
        return path
    tree = dict(arrays, model_name="FLAME", bs_style=b"lbs")
    for name in ("v_template", "shapedirs"):
        tree[name] = _boxed(foreign["Ch"], x=arrays[name], dterms=("x",))
    rows, columns = np.nonzero(arrays["J_regressor"].T)[::-1]
    starts = np.concatenate([[0], np.cumsum((arrays["J_regressor"] != 0).sum(0))])
    data = arrays["J_regressor"][rows, columns]
    state = {"_shape": (5, flame.VERTICES), "data": data, "indices": rows, "indptr": starts}
    tree["J_regressor"] = _boxed(foreign["csc_matrix"], **state)
    path.write_bytes(pickle.dumps(tree, protocol=request.param))
    return path


@pytest.fixture(scope="module")
def model(path) -> flame.Flame:
    return flame.load_flame(path)


def test_the_file_becomes_a_head(model):
    arrays, head = flames.arrays(), model.head
    assert head.template.dtype == np.float32 and head.triangles.dtype == np.int32
    np.testing.assert_allclose(head_space.to_units(head.template), 4 * arrays["v_template"], atol=1e-5)
    assert head.identity.shape[0] == flame.SHAPES and head.expression.shape[0] == flames.EXPRESSIONS + 1
    np.testing.assert_allclose(head.identity[7], 1000 * arrays["shapedirs"][..., 7].astype(np.float64), atol=1e-2)
    np.testing.assert_array_equal(head.mirror[head.mirror], np.arange(flame.VERTICES))
    mirrored = head.template[head.mirror] * [-1, 1, 1]
    assert np.linalg.norm(mirrored - head.template, axis=1).max() < 1e-3
    assert head.template[head.regions["eyeball_L"], 0].mean() > 20
    assert head.regions["face"].any() and not (head.regions["face"] & head.regions["neck"]).any()


def test_landmarks_lie_where_the_embedded_head_has_them(model):
    head, other = model.head, makehuman_head()
    for layout in ("68", "98"):
        points, expected = (one.landmark_points(np.asarray(one.template), layout) for one in (head, other))
        # The ball smooths their relief.
        assert np.linalg.norm(points - expected, axis=1).mean() < 10, layout
    assert points[96, 0] < -20 and points[97, 0] > 20, "the pupils, image left first"


def test_a_head_by_name(path, model, tmp_path):
    head = sources.load_head("flame", str(path))
    assert head.name == "flame" and not head.regions["lips"].any()
    np.testing.assert_array_equal(head.template, model.head.template)
    masked = tmp_path / path.name
    masked.symlink_to(path)
    masks = {"lips": np.arange(40, 50), "left_ear": np.arange(5), "right_ear": np.arange(7, 9)}
    (tmp_path / flame.MASKS_FILE).write_bytes(pickle.dumps(masks, protocol=2))
    regions = sources.load_head("flame", str(masked)).regions
    np.testing.assert_array_equal(np.flatnonzero(regions["lips"]), masks["lips"])
    assert regions["ears"].sum() == 7 and regions["face"].any()
    with pytest.raises(UserError, match="head 'flame': no path given"):
        sources.load_head("flame")


def test_the_jaw_turns(model):
    head, arrays = model.head, flames.arrays()
    still = model.open_jaw(head.template, np.eye(3))
    np.testing.assert_allclose(still, head.template, atol=1e-4)
    turn = scipy.spatial.transform.Rotation.from_rotvec([0.2, 0, 0]).as_matrix()
    moved = model.open_jaw(head.template, turn)
    own = arrays["weights"][:, flame.JAW] > 0
    joint = arrays["J_regressor"][flame.JAW] @ arrays["v_template"]
    corrected = arrays["v_template"] + arrays["posedirs"][:, :, 9:18] @ (turn - np.eye(3)).ravel()
    expected = np.where(own[:, None], (corrected - joint) @ turn.T + joint, corrected)
    np.testing.assert_allclose((moved - head_space.ORIGIN_MM) / 1000, expected, atol=1e-5)
    opened = head.expression[head.expression_names.index("jawOpen")]
    assert np.linalg.norm(opened, axis=1)[own].mean() > 10 * np.linalg.norm(opened, axis=1)[~own].mean()


class _Calls:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"\x80\x02]q\x00.", pickle.dumps({"v_template": [1.0]}), b"\x80\x02junk"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pkl"):
        flame.load_flame(path)


def test_code_in_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"v_template": _Calls()}))
    with pytest.raises(UserError, match=r"does not need (builtins|__builtin__)\.print"):
        flame_file.read(path)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file; download FLAME"):
        flame_file.read(tmp_path / "absent.pkl")


def _chumpy(value):
    kind = pickle_tree.Global("chumpy.ch", "Ch")
    return pickle_tree.Call(kind, (), {"x": value, "_dirty_vars": {1}})


def test_chumpy_arrays_with_sets_and_themselves():
    inner = pickle_tree.Call(pickle_tree.Global("numpy.core.multiarray", "scalar"), (None, b""))
    assert flame_file._dense(_chumpy(_chumpy([1.0, 2.0]))).tolist() == [1, 2] and flame_file._dense(inner) is None
    own = _chumpy(None)
    own.state["x"] = own
    with pytest.raises(ValueError, match="contains itself"):
        flame_file._dense(own)


@pytest.mark.parametrize("kind", ["csc_matrix", "csr_array", "coo_matrix"])
def test_sparse_regressors_in_the_newest_protocol(tmp_path, kind):
    arrays = flames.arrays()
    regressor = getattr(scipy.sparse, kind)(arrays["J_regressor"])
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"J_regressor": regressor, "v_template": arrays["v_template"]}, 5))
    found = flame_file.read(path)
    np.testing.assert_allclose(found["J_regressor"], arrays["J_regressor"])
    np.testing.assert_array_equal(found["v_template"], arrays["v_template"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: {"v_template": np.where(a["v_template"] > 0.05, np.nan, a["v_template"])}, "v_template has values"),
        (lambda a: {"v_template": 1000 * a["v_template"]}, "v_template extends over 1.*; the file's unit is the metre"),
        (lambda a: {"f": a["f"] + 5000}, "f must be triangles"),
        (lambda a: {"shapedirs": a["shapedirs"][:, :, :150]}, "shapedirs .* is not"),
        (lambda a: {"weights": a["weights"][:, :4]}, "weights is .* a model with a jaw has"),
    ],
)
def test_models_that_do_not_fit_are_named(tmp_path, change, message):
    arrays = flames.arrays()
    np.savez(path := tmp_path / "model.npz", **(arrays | change(arrays)))
    with pytest.raises(UserError, match=message):
        flame.load_flame(path)


def test_flat_and_separate_modes(tmp_path):
    arrays = flames.arrays()
    changed = arrays | {"shapedirs": arrays["shapedirs"][:, :, : flame.SHAPES].reshape(-1, flame.SHAPES)}
    changed |= {
        "expressiondirs": arrays["shapedirs"][:, :, flame.SHAPES :],
        "posedirs": arrays["posedirs"].reshape(-1, 36).T,
    }
    np.savez(tmp_path / "flat.npz", **changed)
    np.savez(tmp_path / "model.npz", **arrays)
    found, expected = (flame.load_flame(tmp_path / name) for name in ("flat.npz", "model.npz"))
    np.testing.assert_array_equal(found.head.expression, expected.head.expression)
    np.testing.assert_array_equal(found.correctives, expected.correctives)
